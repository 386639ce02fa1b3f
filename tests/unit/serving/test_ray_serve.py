"""Versions as applications of a real Ray Serve: deployed by the API that KubeRay uses, asked by the upstream."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError

import cv2
import numpy as np
import pytest
from fovea_api.errors import FoveaError, InvalidManifest
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_api.modeldeployment import Inference
from fovea_serving.bundle import load_bundle
from fovea_serving.pipeline import Detection
from fovea_serving.pipeline.decode import InvalidImage
from fovea_serving.upstreams import (
    InvalidOptions,
    Overloaded,
    PredictOptions,
    Upstream,
    UpstreamFailed,
    UpstreamUnavailable,
    open_upstream,
)
from fovea_serving.upstreams.ray_serve import explain

RAY = Path(sys.executable).with_name("ray")
TOKEN = "0123456789abcdef0123456789abcdef"
WHITE = cv2.imencode(".png", np.full((24, 32, 3), 255, np.uint8))[1].tobytes()
PROBLEM = "application/problem+json"


@dataclass
class Cluster:
    """A Ray of one node, with token authentication as on the cluster."""

    dashboard: int
    serve: int
    bundle: Path

    def deploy(self, *versions: tuple[str, Mapping[str, object]]) -> None:
        """Declares all applications, as KubeRay does: each a version's name and its `user_config`."""
        applications = [
            {
                "name": name,
                "route_prefix": f"/{name}",
                "import_path": "fovea_serving.runtimes.ray_serve:app",
                "args": {"bundle": f"file://{self.bundle}"},
                "deployments": [{"name": "Model", "user_config": user, "ray_actor_options": {"num_cpus": 0.5}}],
            }
            for name, user in versions
        ]
        options = {"host": "127.0.0.1", "port": self.serve}
        content = {"http_options": options, "applications": applications}
        # The first one starts Ray Serve: a busy machine answers with 500 meanwhile, and KubeRay asks again, too.
        _until(lambda: self.request("PUT", content) is not None, "Ray Serve takes applications", (HTTPError,))

    def replicas(self) -> dict[str, list[tuple[str, int]]]:
        """Id and process of the running replicas of each application; a new start has a new id."""
        applications = self.request("GET")["applications"]
        return {
            name: sorted(
                (replica["replica_id"], replica["pid"])
                for deployment in application["deployments"].values()
                for replica in deployment["replicas"]
                if replica["state"] == "RUNNING"
            )
            for name, application in applications.items()
            if application["status"] == "RUNNING"
        }

    def request(self, method: str, content: object = None, token: str = TOKEN) -> dict:
        url = f"http://127.0.0.1:{self.dashboard}/api/serve/applications/"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def upstream(self, version: str) -> Upstream:
        address = f"http://127.0.0.1:{self.serve}/{version}"
        config = GatewayConfig(
            namespace="n", deployment="d", runtime="RayServe", inference=Inference(timeout_seconds=60)
        )
        served = ServedVersion(name=version, role="Stable", bundle="s3://any/where", address=address)
        return open_upstream(served, load_bundle(self.bundle).manifest, config)


@pytest.fixture(scope="module")
def cluster(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    (folder / "token").write_text(TOKEN)
    cluster = Cluster(_free_port(), _free_port(), detector)
    command = [
        str(RAY), "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=100000000",
        "--node-ip-address=127.0.0.1", f"--port={_free_port()}", f"--dashboard-port={cluster.dashboard}",
        f"--dashboard-agent-listen-port={_free_port()}", f"--temp-dir=/tmp/fovea-ray-{os.getpid()}",
    ]  # fmt: skip
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
    log = folder / "log"
    process: subprocess.Popen[bytes] | None = None

    def answers() -> bool:
        """Ray gives its own start up after half a minute, which a busy machine needs: then it is started again."""
        nonlocal process
        if process is None or process.poll() is not None:
            with log.open("ab") as output:
                process = subprocess.Popen(command, env={**os.environ, **token}, stdout=output, stderr=output)
        return bool(cluster.request("GET"))

    try:
        _until(answers, "Ray's API answers", (URLError, OSError))
        yield cluster
    finally:
        if process is not None:
            process.terminate()  # Ray ends what it has started
            process.wait(60)


def _until(check: Callable[[], object], what: str, errors: tuple[type[Exception], ...] = ()) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            if check():
                return
        except errors:
            pass
        time.sleep(0.2)
    pytest.fail(f"timeout: {what}")


async def _labels(upstream: Upstream, options: PredictOptions = PredictOptions()) -> list[int]:  # noqa: B008
    (answer,) = await upstream.predict([WHITE], options)
    assert isinstance(answer.prediction, Detection)
    return [int(label) for label in answer.prediction.labels]


async def test_versions_come_and_go_and_change_without_a_start_of_another(cluster: Cluster) -> None:
    with pytest.raises(HTTPError, match="403"):
        cluster.request("GET", token="another")
    cluster.deploy(("one", {}))
    _until(lambda: cluster.replicas().get("one"), "the first version runs")
    started = cluster.replicas()["one"]
    one, two = cluster.upstream("one"), cluster.upstream("two")
    await one.ready()
    assert await _labels(one) == [0]  # of the scores 0.66 and 0.44, by the bundle's own threshold of 0.5
    with pytest.raises(UpstreamUnavailable, match="does not have this version"):
        await two.ready()

    cluster.deploy(("one", {}), ("two", {"confidenceThreshold": 0.1}))
    _until(lambda: cluster.replicas().get("two"), "the second version runs")
    assert await _labels(two) == [0, 2]
    cluster.deploy(("one", {"confidenceThreshold": 0.9}), ("two", {"confidenceThreshold": 0.1}))
    deadline = time.monotonic() + 60
    while await _labels(one) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert await _labels(one) == []
    assert await _labels(one, PredictOptions(confidence=0.1, classes=(2,))) == [2]
    cluster.deploy(("one", {"confidenceThreshold": 0.9}))
    _until(lambda: "two" not in cluster.replicas(), "the second version is gone")
    assert cluster.replicas()["one"] == started
    await asyncio.gather(one.close(), two.close())


async def test_many_at_once_get_their_own_answers_in_batches(cluster: Cluster) -> None:
    cluster.deploy(("one", {"batching": {"maxSize": 4, "maxDelayMilliseconds": 50}}))
    _until(lambda: cluster.replicas().get("one"), "the version runs")
    upstream = cluster.upstream("one")
    options = PredictOptions(confidence=0.1)
    images = [cv2.imencode(".png", np.full((24 + size, 32, 3), 255, np.uint8))[1].tobytes() for size in range(16)]
    answers = await asyncio.gather(*(upstream.predict([image], options) for image in images))
    assert [answer.height for (answer,) in answers] == [24 + size for size in range(16)]
    assert max(answer.batch_size or 0 for (answer,) in answers) in (2, 3, 4)
    with pytest.raises(InvalidImage, match="image 2"):
        await upstream.predict([WHITE, b"nonsense"])
    await upstream.close()


async def test_a_replica_that_died_is_replaced_and_answers_again(cluster: Cluster) -> None:
    cluster.deploy(("one", {}))
    _until(lambda: cluster.replicas().get("one"), "the version runs")
    ((lost, pid),) = cluster.replicas()["one"]
    os.kill(pid, signal.SIGKILL)
    upstream = cluster.upstream("one")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            assert await _labels(upstream) == [0]
            break
        except UpstreamUnavailable:  # and nothing else, meanwhile
            await asyncio.sleep(0.2)
    _until(lambda: cluster.replicas().get("one"), "another replica runs")
    assert lost not in dict(cluster.replicas()["one"])
    await upstream.close()


@pytest.mark.parametrize(
    ("status", "content_type", "text", "kind"),
    [
        (422, PROBLEM, '{"detail": "image 2: cut off"}', InvalidImage),
        (400, PROBLEM, '{"detail": "no class 7"}', InvalidOptions),
        (429, PROBLEM, '{"detail": "too many"}', Overloaded),
        (502, PROBLEM, '{"detail": "the network failed"}', UpstreamFailed),
        (503, PROBLEM, '{"detail": "being unloaded"}', UpstreamUnavailable),
        (503, "text/plain", "Request dropped due to backpressure (num_queued_requests=5)", Overloaded),
        (503, "text/plain", "Deployment is unavailable because it failed to deploy.", UpstreamUnavailable),
        (500, "text/plain", "Internal Server Error", UpstreamUnavailable),
        (404, "text/plain", "Path '/x' not found.", UpstreamUnavailable),
        (408, "text/plain", "Request timed out.", UpstreamUnavailable),
    ],
)
def test_what_a_status_means(status: int, content_type: str, text: str, kind: type[FoveaError]) -> None:
    error = explain(status, content_type, text.encode(), "http://ray/x")
    assert isinstance(error, kind)
    assert content_type != PROBLEM or json.loads(text)["detail"] in str(error)


async def test_a_proxy_that_is_not_there_is_unavailable(detector: Path) -> None:
    upstream = Cluster(0, _free_port(), detector).upstream("one")
    with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
        await upstream.ready()
    await upstream.close()


@pytest.mark.parametrize("args", [{}, {"bundle": "ftp://x/y"}, {"bundle": "s3://x/y", "precision": "FP64"}])
def test_wrong_args_are_refused_by_their_name(args: Mapping[str, object]) -> None:
    from fovea_serving.runtimes.ray_serve import app

    with pytest.raises(InvalidManifest, match=r"bundle|precision"):
        app(args)


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])
