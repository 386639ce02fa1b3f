"""`fovea gateway` as a process of its own: an answer, its capture, and the label that the client gives."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from fovea_api.gateway import GatewayConfig
from fovea_serving.bundle import load_bundle
from fovea_serving.captures import CaptureStore
from fovea_serving.client import Client, RequestFailed
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.local import LocalUpstream
from fovea_serving.upstreams.wire import CONTENT_TYPE, read_request, write_answers
from fovea_store import StorePath
from PIL import Image

from tests.ports import free_port

BLUE = (0, 0, 255)


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def runtime(bundle: Path) -> Iterator[str]:
    """The bundle's model behind the wire format of a replica of Ray Serve, without Ray."""
    loop = asyncio.new_event_loop()

    async def start() -> int:
        upstream = LocalUpstream(Predictor.from_bundle(load_bundle(bundle), threads=1))

        async def answer(request: web.Request) -> web.Response:
            answers = await upstream.predict(*read_request(await request.read()))
            return web.Response(body=write_answers(answers), content_type=CONTENT_TYPE)

        app = web.Application()
        app.router.add_post("/model", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{port}/model"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_gateways_process_keeps_requests_and_takes_the_clients_labels(
    bundle: Path, runtime: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    content = {
        "namespace": "team",
        "deployment": "colours",
        "versions": [
            {"name": "r-1", "role": "Stable", "weight": 100, "runtime": "RayServe", "bundle": f"file://{bundle}"}
            | {"address": runtime}
        ],
        "captures": {"uri": f"file://{tmp_path}/captures", "sampleRate": 1, "lowConfidenceBelow": 0},
        "feedback": True,
        "authentication": {"type": "None"},
    }
    (tmp_path / "gateway.json").write_text(GatewayConfig.model_validate(content).model_dump_json(by_alias=True))
    port = free_port()
    options = [f"--config={tmp_path / 'gateway.json'}", "--host=127.0.0.1", f"--port={port}", "--drain-delay=0"]
    command = ["gateway", *options, f"--admin-port={free_port()}", "--grpc-port=0"]
    code = "from fovea_cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *command], env={**os.environ, "OMP_NUM_THREADS": "1"})
    request.addfinalizer(process.kill)
    client = Client(f"http://127.0.0.1:{port}", timeout=120, attempts=120)
    answered = client.predict(png(BLUE))
    store = CaptureStore(StorePath.parse(f"file://{tmp_path}/captures"), timedelta.max)
    end = time.monotonic() + 120
    while not (kept := list(store.all()) if store.root.exists() else []):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert (kept[0].capture.id, kept[0].capture.run, kept[0].capture.reason) == (answered.request_id, "r-1", "sample")
    assert store.read_image(kept[0], 0) == png(BLUE)
    assert client.feedback(answered.request_id, name="blue") is True
    assert client.feedback(answered.request_id, name="red") is False
    found = store.find(answered.request_id)
    assert found is not None
    assert found.label is not None
    assert found.label.images == ({"classes": [{"class": "red"}]},)
    with pytest.raises(RequestFailed, match="404"):
        client.feedback("unknown", wrong=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
