"""`fovea serve` as a process: its client, its page in a browser, and its end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from faster_coco_eval import mask as coco_mask
from fovea_serving.client import Client, RequestFailed, ServiceUnavailable
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.ports import free_port
from tests.unit.serving.chromium import Browser

LONGEST_SECONDS, START_SECONDS = 120.0, 300.0
"""They only end a hang."""


def png(colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


class Service:
    """A running `fovea serve`."""

    def __init__(self, bundle: Path, *options: str) -> None:
        self.port, self.admin_port, self.grpc_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        numbers = {"port": self.port, "admin-port": self.admin_port, "grpc-port": self.grpc_port}
        ports = [f"--{name}={number}" for name, number in numbers.items()]
        command = ("serve", str(bundle), "--timeout=600", *ports, *options)
        code = "from fovea_cli.main import main; main()"
        self.process = subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.PIPE, text=True)

    def wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=LONGEST_SECONDS):
                    return
            except OSError:
                assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
                assert time.monotonic() < end, "not ready"
                time.sleep(0.1)

    def client(self, attempts: int = 4) -> Client:
        return Client(self.url, timeout=LONGEST_SECONDS, attempts=attempts)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @contextlib.contextmanager
    def begin(self, image: bytes) -> Iterator[Callable[[], bytes]]:
        """A request whose image the service waits for; what is given sends it and returns the answer."""
        head = f"Host: localhost\r\nContent-Length: {len(image)}\r\nExpect: 100-continue"
        with socket.create_connection(("127.0.0.1", self.port), timeout=LONGEST_SECONDS) as connection:
            connection.sendall(f"POST /v1/predict HTTP/1.1\r\n{head}\r\n\r\n".encode())
            assert connection.recv(64).startswith(b"HTTP/1.1 100 ")

            def finish() -> bytes:
                connection.sendall(image)
                return connection.recv(65536)

            yield finish

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics") as answer:
            return str(answer.read().decode())


@pytest.fixture
def service(bundle: Path) -> Iterator[Service]:
    service = Service(bundle)
    service.wait()
    yield service
    service.process.kill()
    service.process.wait()


def test_five_lines_integrate_a_model_and_a_signal_ends_it_without_a_dropped_request(service: Service) -> None:
    client = service.client()
    prediction = client.predict(png((0, 0, 255)))
    assert (prediction.width, prediction.height) == (50, 40)
    assert prediction.classes[0].name == "blue"
    assert prediction.run == "r-0123456789"
    assert [each.classes[0].name for each in client.predict_many([png((255, 0, 0)), png((0, 255, 0))])] == [
        "red",
        "green",
    ]
    assert client.render(png((0, 0, 255))).startswith(b"\xff\xd8")
    assert client.model()["classes"] == ["red", "green", "blue"]
    with pytest.raises(RequestFailed, match="415: image: the bytes are no image") as refused:
        client.predict(b"%PDF")
    assert refused.value.status == 415
    assert 'fovea_serving_requests_total{code="200"' in service.metrics()

    answers: list[str] = []
    failures: list[Exception] = []

    def ask() -> None:
        impatient = service.client(attempts=1)
        while service.process.poll() is None:
            try:
                answers.append(impatient.predict(png((0, 0, 255))).request_id)
            except ServiceUnavailable as error:
                if service.listens():  # a connection that nobody had accepted by the end is reset, and asked for again
                    failures.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(answers) <= 8:
        assert not failures
        time.sleep(0.01)
    with service.begin(png((0, 0, 255))) as finish:
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert not service.listens()
        time.sleep(1)  # a slow client
        assert finish().startswith(b"HTTP/1.1 200 ")
    assert service.process.wait(LONGEST_SECONDS) == 0
    assert not failures


def test_several_processes_count_together_and_replace_one_that_died(
    bundle: Path, request: pytest.FixtureRequest
) -> None:
    service = Service(bundle, "--processes=2")
    request.addfinalizer(service.process.kill)
    service.wait()
    client = service.client(attempts=8)
    for _ in range(20):
        client.predict(png((0, 0, 255)))
    counted = (
        'fovea_serving_requests_total{code="200",deployment="",namespace="",role="stable",run="r-0123456789"} 20.0'
    )
    assert counted in service.metrics()
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    workers = [int(each) for each in children.read_text().split() if "spawn_main" in _command(int(each))]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    for _ in range(10):
        assert client.predict(png((0, 0, 255))).classes[0].name == "blue"
    now = workers
    while len(now) != 2 or workers[0] in now:
        time.sleep(0.1)
        now = [int(each) for each in children.read_text().split() if "spawn_main" in _command(int(each))]
    service.process.kill()
    service.process.wait()
    while any(_command(each) for each in now):  # none is left without its parent
        time.sleep(0.1)


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_stock_triton_client_asks_by_either_protocol(service: Service, protocol: str) -> None:
    library = triton_http if protocol == "http" else triton_grpc
    address = f"127.0.0.1:{service.port if protocol == 'http' else service.grpc_port}"
    client = library.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    description = client.get_model_metadata("colours", **({"as_json": True} if protocol == "grpc" else {}))
    assert {each["name"]: each["datatype"] for each in description["inputs"]} == {"image": "BYTES", "pixels": "UINT8"}

    files = library.InferInput("image", [2], "BYTES")
    files.set_data_from_numpy(np.array([png((0, 0, 255)), png((255, 0, 0))], np.object_))
    outputs = [library.InferRequestedOutput(name) for name in ("probabilities", "prediction")]
    answer = client.infer("colours", [files], outputs=outputs, request_id="mine")
    assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [2, 0]
    assert json.loads(answer.as_numpy("prediction")[0])["classes"][0]["class"] == "blue"

    pixels = np.zeros((1, 1500, 2000, 3), np.uint8)  # 9 MB
    pixels[..., 1] = 255
    large = library.InferInput("pixels", list(pixels.shape), "UINT8")
    large.set_data_from_numpy(pixels)
    assert client.infer("colours", [large]).as_numpy("probabilities").argmax(axis=1).tolist() == [1]

    files.set_data_from_numpy(np.array([png((0, 0, 255)), b"bad"], np.object_))
    with pytest.raises(InferenceServerException, match="image 2: the bytes are no image"):
        client.infer("colours", [files])
    with pytest.raises(InferenceServerException, match="the one model is colours"):
        client.infer("other", [files])
    with pytest.raises(InferenceServerException, match="there is no output 'boxes'"):
        client.infer("colours", [large], outputs=[library.InferRequestedOutput("boxes")])
    client.close()


async def test_the_page_shows_what_the_model_sees_by_keyboard_and_on_a_narrow_screen(
    service: Service, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "blue.png").write_bytes(png((0, 0, 255), (300, 200)))
    await browser.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
    await browser.call("Page.navigate", url=f"{service.url}/")
    await browser.until("document.querySelector('#model').textContent.includes('r-0123456789')")
    await browser.give("#file", tmp_path / "blue.png")
    await browser.until("document.querySelector('#table').tBodies[0].rows.length === 3")
    assert await browser.value("document.querySelector('#table').tBodies[0].rows[0].cells[0].textContent") == "blue"
    assert "ms in the service" in str(await browser.value("document.querySelector('#status').textContent"))
    assert await browser.value("document.querySelector('#canvas').width") == 300
    pixel = "[...document.querySelector('#canvas').getContext('2d').getImageData(150, 100, 1, 1).data]"
    assert await browser.value(pixel) == [0, 0, 255, 255]
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert await browser.value(fits), "nothing is cut off on a narrow screen"

    reached = []
    for _ in range(8):
        await browser.press("Tab")
        reached.append(await browser.value("document.activeElement.id || document.activeElement.type"))
    assert "file" in reached
    assert "checkbox" in reached
    await browser.value("document.querySelector('#classes input').focus()")
    await browser.press(" ")
    await browser.until("document.querySelector('#table').tBodies[0].rows.length === 2")
    unlabelled = "[...document.querySelectorAll('input')].filter((each) => !each.labels.length).length"
    assert await browser.value(unlabelled) == 0
    hosts = "performance.getEntriesByType('resource').map((each) => new URL(each.name).host)"
    assert {*await browser.value(hosts)} == {f"127.0.0.1:{service.port}"}  # type: ignore[misc]

    mask = np.random.default_rng(0).random((37, 53)) < 0.4
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    lengths = await browser.value(f"import('./page/page.js').then((page) => page.runLengths({json.dumps(counts)}))")
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(bool)  # type: ignore[arg-type]
    assert (mask == flat.reshape(53, 37).T).all()

    (tmp_path / "bad.png").write_bytes(b"bad")
    await browser.give("#file", tmp_path / "bad.png")
    await browser.until("document.querySelector('#status').className === 'error'")
    assert "no image" in str(await browser.value("document.querySelector('#status').textContent"))
