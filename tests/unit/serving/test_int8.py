"""A bundle with a network in 8-bit integers: by hand, in a replica of Ray Serve and in Triton that very file answers
which `precision` names, or which the bundle chose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from fovea_api.common import Task
from fovea_serving.bundle import MODELS, bundle_digest, load_bundle
from fovea_serving.client import Client
from fovea_serving.pipeline import Preprocess, decode
from fovea_serving.pipeline.predictions.classification import Classification
from fovea_serving.runtimes import ray_serve
from fovea_serving.runtimes.triton import TritonBackend, TritonOptions, write_repository
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from starlette.requests import Request

from tests.ports import free_port
from tests.unit.serving.conftest import manifest_of
from tests.unit.serving.test_triton import TRITON, Server, _ready

IMAGE = cv2.imencode(".png", np.full((24, 32, 3), (40, 90, 200), np.uint8))[1].tobytes()
WEIGHTS = np.array([[3.0, -0.37, 0.11], [0.2, 1.01, -2.9], [-1.3, 0.53, 0.007]], np.float32)


def write_network(folder: Path) -> None:
    """logits = the mean of each channel times WEIGHTS, in FP32, and by integers as ONNX Runtime quantizes it."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 24, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([2, 3]), "axes"), numpy_helper.from_array(WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(folder / MODELS["FP32"]))
    quantize_dynamic(folder / MODELS["FP32"], folder / MODELS["INT8"])


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that has both, and chose INT8."""
    root = tmp_path_factory.mktemp("int8")
    folder = root / "bundle"
    folder.mkdir()
    write_network(folder)
    manifest = manifest_of(folder, Task.CLASSIFICATION).model_copy(update={"precision": "INT8"})
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False))
    return folder.rename(root / bundle_digest(manifest))


def expected(bundle: Path, precision: str) -> list[float]:
    """Probabilities by ONNX Runtime from the file of a precision, the largest first."""
    image = Preprocess.from_manifest(load_bundle(bundle).manifest.preprocessing)(decode(IMAGE))[0]
    session = ort.InferenceSession(str(bundle / MODELS[precision]), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image[None]})
    exponents = np.exp(logits[0] - logits[0].max())
    return sorted((exponents / exponents.sum()).tolist(), reverse=True)


def test_both_files_are_what_they_are_called(int8: Path) -> None:
    def operators(precision: str) -> set[str]:
        return {node.op_type for node in onnx.load(int8 / MODELS[precision]).graph.node}

    assert "MatMulInteger" in operators("INT8")
    assert "MatMulInteger" not in operators("FP32")
    assert max(np.abs(np.subtract(expected(int8, "FP32"), expected(int8, "INT8")))) > 1e-4, "the answers tell which ran"


def test_by_hand(int8: Path, request: pytest.FixtureRequest) -> None:
    port = free_port()
    code = "from fovea_cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "serve", str(int8), "--port", str(port)])
    request.addfinalizer(process.kill)
    answered = Client(f"http://127.0.0.1:{port}", timeout=120, attempts=120).predict(IMAGE)
    assert [each.score for each in answered.classes] == pytest.approx(expected(int8, "INT8"), abs=2e-6)


@pytest.mark.parametrize(("precision", "runs"), [(None, "INT8"), ("INT8", "INT8"), ("FP32", "FP32")])
async def test_in_a_replica_of_ray_serve(
    int8: Path, precision: str | None, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_serve, "_threads", lambda: 1)  # it asks Ray
    args = {"bundle": f"file://{int8}"} | ({"precision": precision} if precision is not None else {})
    replica = ray_serve.Model(ray_serve.ApplicationArgs.model_validate(args))

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": IMAGE, "more_body": False}

    answer = await replica(Request({"type": "http", "method": "POST", "headers": []}, receive))
    scores = [each["score"] for each in json.loads(bytes(answer.body))["classes"]]
    assert scores == pytest.approx(expected(int8, runs), abs=2e-6)


@pytest.mark.parametrize(("precision", "runs"), [(None, "INT8"), ("INT8", "INT8"), ("FP32", "FP32")])
def test_in_tritons_repository(int8: Path, tmp_path: Path, precision: str | None, runs: str) -> None:
    write_repository(load_bundle(int8), tmp_path, TritonOptions(TritonBackend.PYTHON, precision))
    assert (tmp_path / "model" / "1" / "model.onnx").read_bytes() == (int8 / MODELS[runs]).read_bytes()


async def test_in_a_real_triton(int8: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert (TRITON / "tritonserver").exists(), "run `make tools`"
    server = Server(int8, tmp_path)
    request.addfinalizer(server.kill)
    server.start()
    upstream = server.upstream()
    await _ready(upstream, server)
    (answer,) = await upstream.predict([IMAGE])
    await upstream.close()
    assert isinstance(answer.prediction, Classification)
    assert [score for _, score in answer.prediction.top(3)] == pytest.approx(expected(int8, "INT8"), abs=2e-6)
