"""A bundle as Triton's model repository: held against Triton's own schema, and run by a real tritonserver."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from fovea_api.errors import InvalidInput, NotSupported
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_api.modeldeployment import Batching, Inference
from fovea_serving.backends import InvalidModel
from fovea_serving.bundle import load_bundle
from fovea_serving.engines import Gpu, NoGpu
from fovea_serving.pipeline import Detection
from fovea_serving.runtimes import triton
from fovea_serving.runtimes.triton import TritonBackend, TritonOptions, prepare, write_repository
from fovea_serving.signature import SIGNATURE, sign_bundle
from fovea_serving.upstreams import PredictOptions, Upstream, UpstreamUnavailable, open_upstream
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tests.ports import free_port
from tests.unit.serving.test_engines import store as store_engine

CACHE = Path(
    os.environ.get("FOVEA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fovea"
)
FOVEA = Path(sys.executable).with_name("fovea")
TRITON = CACHE / "triton" / "bin"
START_SECONDS = 300.0
"""It only ends a hang."""
WHITE = cv2.imencode(".png", np.full((24, 32, 3), 255, np.uint8))[1].tobytes()
OPTIONS = TritonOptions(
    TritonBackend.PYTHON,
    inference=Inference(batching=Batching(max_size=4, max_delay_milliseconds=2.5), timeout_seconds=7),
)


def config_of(root: Path) -> pb.ModelConfig:
    """Read by Triton's own schema: a field that it does not know is an error."""
    return text_format.Parse((root / "model" / "config.pbtxt").read_text(), pb.ModelConfig())


def test_the_configuration_says_what_the_manifest_and_the_deployment_say(detector: Path, tmp_path: Path) -> None:
    write_repository(load_bundle(detector), tmp_path, OPTIONS)
    config = config_of(tmp_path)
    assert (config.backend, config.max_batch_size) == ("python", 4)
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        ("image", pb.TYPE_FP32, [3, 24, 32])
    ]
    assert [(each.name, list(each.dims)) for each in config.output] == [("boxes", [2, 4]), ("scores", [2, 3])]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    assert not config.dynamic_batching.HasField("default_queue_policy")  # with one, requests may wait for 500 ms
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4]
    assert (tmp_path / "model" / "1" / "model.py").exists()


@pytest.mark.parametrize(
    ("backend", "kind", "files"),
    [
        (TritonBackend.ONNXRUNTIME, pb.ModelInstanceGroup.KIND_AUTO, ["model.onnx"]),
        (TritonBackend.PYTHON, pb.ModelInstanceGroup.KIND_CPU, ["model.onnx", "model.py"]),
    ],
)
def test_each_backend_gets_its_files(
    detector: Path, tmp_path: Path, backend: TritonBackend, kind: int, files: Sequence[str]
) -> None:
    write_repository(load_bundle(detector), tmp_path, TritonOptions(backend, instances=2))
    (group,) = config_of(tmp_path).instance_group
    assert (group.kind, group.count) == (kind, 2)
    assert sorted(file.name for file in (tmp_path / "model" / "1").iterdir()) == files


@pytest.fixture
def with_engine(detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detector's bundle in a store that has an engine of it for this machine: a GPU with TensorRT, as it is told."""
    bundle = tmp_path / "cells" / "bundles" / detector.name
    shutil.copytree(detector, bundle)
    monkeypatch.setattr(triton, "gpu", lambda: Gpu("NVIDIA H100", "9.0"))
    monkeypatch.setattr(triton, "tensorrt_version", lambda: "10.13.3.9")
    key = triton.local_key(load_bundle(bundle), TritonOptions(TritonBackend.TENSORRT))
    store_engine(tmp_path / "cells", key)
    return bundle


def test_an_engine_is_served_by_tensorrt_on_gpus(with_engine: Path, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    prepare(str(with_engine), root, TritonOptions(TritonBackend.TENSORRT))
    config = config_of(root)
    assert (config.backend, config.instance_group[0].kind) == ("tensorrt", pb.ModelInstanceGroup.KIND_GPU)
    assert [(file.name, file.read_bytes()) for file in (root / "model" / "1").iterdir()] == [
        ("model.plan", b"an engine")
    ]


def test_an_engine_takes_no_larger_batch_than_it_was_built_for(with_engine: Path, tmp_path: Path) -> None:
    large = Inference(batching=Batching(max_size=33))
    with pytest.raises(InvalidModel, match=r"takes 32 images at once, not 33 \(lower inference.batching.maxSize"):
        prepare(str(with_engine), tmp_path / "repository", TritonOptions(TritonBackend.TENSORRT, inference=large))


def test_an_engine_stands_for_no_signed_model(with_engine: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (with_engine / SIGNATURE).write_bytes(sign_bundle(with_engine, keys[0]))
    with pytest.raises(InvalidInput, match="engines are not signed"):
        prepare(str(with_engine), tmp_path / "r", TritonOptions(TritonBackend.TENSORRT), public_key=keys[1])


def test_tensorrt_needs_a_gpu(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    bundle = shutil.copytree(detector, tmp_path / "bundles" / detector.name)
    with pytest.raises((NoGpu, NotSupported)):
        prepare(str(bundle), tmp_path / "repository", TritonOptions(TritonBackend.TENSORRT))


def test_a_repository_is_replaced_whole(detector: Path, tmp_path: Path) -> None:
    write_repository(load_bundle(detector), tmp_path, OPTIONS)
    write_repository(load_bundle(detector), tmp_path, TritonOptions(TritonBackend.ONNXRUNTIME))
    assert [file.name for file in (tmp_path / "model" / "1").iterdir()] == ["model.onnx"]


def test_a_model_of_one_batch_size_does_not_fit(bundle_of_two: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="2 images at once"):
        write_repository(load_bundle(bundle_of_two), tmp_path / "repository", OPTIONS)


class Server:
    """A real tritonserver, started as a pod starts it."""

    def __init__(self, bundle: Path, root: Path) -> None:
        self.bundle, self.root = bundle, root
        self.grpc, self.http, self.metrics = (free_port() for _ in range(3))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ports = {"grpc-port": self.grpc, "http-port": self.http, "metrics-port": self.metrics}
        hosts = dict.fromkeys(("grpc-address", "http-address", "metrics-address"), "127.0.0.1")
        arguments = [f"--{name}={value}" for name, value in (ports | hosts).items()]
        command = [
            str(FOVEA),
            "triton",
            str(self.bundle),
            "--backend=python",
            f"--repository={self.root}",
            "--",
            *arguments,
        ]
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}{TRITON}"}
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def upstream(self, timeout: float = 120) -> Upstream:
        version = ServedVersion(
            name="v", role="Stable", runtime="Triton", bundle="s3://any/where", address=f"127.0.0.1:{self.grpc}"
        )
        config = GatewayConfig(namespace="n", deployment="d", inference=Inference(timeout_seconds=timeout))
        return open_upstream(version, load_bundle(self.bundle).manifest, config)


@pytest.fixture(scope="module")
def server(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not (TRITON / "tritonserver").exists():
        pytest.fail("there is no tritonserver; run `make tools`")
    server = Server(detector, tmp_path_factory.mktemp("triton"))
    server.start()
    yield server
    server.kill()


async def _ready(upstream: Upstream, server: Server) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            return await upstream.ready()
        except UpstreamUnavailable:
            if server.process is None or server.process.poll() is not None:
                break
            await asyncio.sleep(0.1)
    pytest.fail((server.root / "log").read_text()[-3000:])


@pytest.fixture
async def upstream(server: Server) -> AsyncIterator[Upstream]:
    upstream = server.upstream()
    await _ready(upstream, server)
    yield upstream
    await upstream.close()


async def test_a_real_server_gives_what_the_network_gives(upstream: Upstream) -> None:
    answers = await asyncio.gather(*(upstream.predict([WHITE], PredictOptions(confidence=0.1)) for _ in range(16)))
    for (answer,) in answers:
        assert isinstance(answer.prediction, Detection)
        assert answer.prediction.labels.tolist() == [0, 2]
        assert answer.prediction.scores == pytest.approx([0.6580, 0.4386], abs=1e-3)  # sigmoid(1) of 0.9 and of 0.6
        assert answer.prediction.boxes.tolist() == [[4, 4, 16, 16], [8, 8, 30, 20]]


async def test_a_server_that_died_answers_again_by_itself(server: Server, upstream: Upstream) -> None:
    server.kill()
    with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
        await upstream.predict([WHITE])
    server.start()
    await _ready(upstream, server)
    (answer,) = await upstream.predict([WHITE])
    assert isinstance(answer.prediction, Detection)
    assert answer.prediction.labels.tolist() == [0]


async def test_a_server_that_says_nothing_is_given_up(server: Server) -> None:
    with _silent_port() as port:
        version = ServedVersion(
            name="v", role="Stable", runtime="Triton", bundle="s3://any/where", address=f"127.0.0.1:{port}"
        )
        config = GatewayConfig(namespace="n", deployment="d", inference=Inference(timeout_seconds=0.2))
        upstream = open_upstream(version, load_bundle(server.bundle).manifest, config)
        with pytest.raises(UpstreamUnavailable, match="in time"):
            await upstream.predict([WHITE])
        await upstream.close()


@contextmanager
def _silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield int(listening.getsockname()[1])
