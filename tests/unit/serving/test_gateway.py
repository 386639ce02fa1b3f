"""The gateway's HTTP interface, with a real model in the same process."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fovea_api.modeldeployment import ServiceObjectives
from fovea_serving.bundle import load_bundle
from fovea_serving.gateway.app import create_app
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.metrics import Metrics
from fovea_serving.gateway.routing import Routing, Served, Version
from fovea_serving.gateway.settings import Settings
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.local import LocalUpstream
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.serving.conftest import PATIENT, UNHURRIED

COLOURS = {"red": (230, 20, 20), "green": (10, 200, 30), "blue": (0, 0, 255)}


def png(colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest_asyncio.fixture
async def gateway(bundle: Path) -> AsyncIterator[Gateway]:
    verified = load_bundle(bundle)
    gateway = Gateway(PATIENT, UNHURRIED)
    upstream = LocalUpstream(Predictor.from_bundle(verified, threads=1))
    gateway.route(Routing([Version("r-1", "Stable", 100, Served.of(verified.manifest, verified.digest, upstream))]))
    yield gateway
    await gateway.close()


@pytest_asyncio.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(gateway, Settings(max_request_bytes=100_000, max_images=3))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


async def test_the_body_is_an_image_and_the_answer_names_model_and_request(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/predict", content=png((0, 0, 255)), headers={"X-Request-Id": "mine-1"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == answer.json()["requestId"] == "mine-1"
    assert answer.json()["model"]["run"] == "r-0123456789"
    (prediction,) = answer.json()["predictions"]
    assert (prediction["width"], prediction["height"]) == (50, 40)
    assert prediction["classes"][0]["class"] == "blue"


async def test_a_form_holds_several_images_in_order(client: httpx.AsyncClient) -> None:
    files = [("image", (name, png(colour, (30, 20)))) for name, colour in COLOURS.items()]
    answer = await client.post("/v1/predict", files=files)
    assert [each["classes"][0]["class"] for each in answer.json()["predictions"]] == list(COLOURS)


@pytest.mark.parametrize(
    ("body", "query", "status", "words"),
    [
        (b"", "", 422, "empty"),
        (b"GIF89a nonsense", "", 413, "megapixels"),
        (b"%PDF-1.7", "", 415, "JPEG, PNG"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 40_000, 40_000), "", 413, "1600.0 megapixels"),
        (b"\xff\xd8\xff\xe0", "", 422, "header of the JPEG file is broken"),
        (bytes(100_001), "", 413, "100,000"),
        (png((1, 2, 3)), "?classes=violet", 400, "it has red, green, blue"),
        (png((1, 2, 3)), "?confidence=2", 400, "from 0 to 1"),
    ],
)
async def test_bad_requests_are_answered_with_the_reason(
    client: httpx.AsyncClient, body: bytes, query: str, status: int, words: str
) -> None:
    answer = await client.post(f"/v1/predict{query}", content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]
    assert answer.json()["requestId"] == answer.headers["x-request-id"]
    assert (await client.post("/v1/predict", content=png((0, 0, 255)))).status_code == 200


async def test_the_bad_image_of_a_form_is_named_and_too_many_are_refused(client: httpx.AsyncClient) -> None:
    good = ("image", ("good.png", png((0, 0, 255))))
    bad = await client.post("/v1/predict", files=[good, ("image", ("bad.png", b"\xff\xd8\xff"))])
    assert (bad.status_code, "image 2" in bad.json()["detail"]) == (422, True)
    assert (await client.post("/v1/predict", files=[good] * 4)).status_code == 413
    assert (await client.post("/v1/predict", data={"image": "text"}, files={})).status_code == 415


async def test_parallel_answers_equal_those_one_by_one(client: httpx.AsyncClient) -> None:
    random = np.random.default_rng(0)
    images = [png(tuple(random.integers(0, 256, 3)), tuple(random.integers(10, 90, 2))) for _ in range(64)]

    async def ask(image: bytes) -> object:
        answer = await client.post("/v1/predict", content=image)
        assert answer.status_code == 200
        return answer.json()["predictions"]

    one_by_one = [await ask(image) for image in images]
    limit = asyncio.Semaphore(32)

    async def ask_limited(image: bytes) -> object:
        async with limit:
            return await ask(image)

    assert await asyncio.gather(*(ask_limited(image) for image in images * 4)) == one_by_one * 4


async def test_without_a_version_requests_and_readiness_are_503_with_the_reason(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.route(Routing((), "the bundle is being fetched"))
    for answer in (await client.post("/v1/predict", content=png((1, 2, 3))), await client.get("/readyz")):
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "the bundle is being fetched" in answer.json()["detail"]
    assert (await client.get("/healthz")).status_code == 200


async def test_the_picture_is_drawn_on_request(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/predict?render=1", content=png((0, 0, 255)))
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-fovea-run"] == "r-0123456789"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert drawn.shape == (40, 50, 3)
    assert np.abs(drawn.astype(int) - [0, 0, 255]).max() > 100, "the label"
    both = [("image", ("a.png", png((0, 0, 255))))] * 2
    assert (await client.post("/v1/predict?render=1", files=both)).status_code == 400


async def test_many_images_are_answered_line_by_line_and_a_bad_one_costs_no_other(gateway: Gateway) -> None:
    files = [("image", (f"{n}.png", png(list(COLOURS.values())[n % 3]))) for n in range(60)]
    files[7] = ("image", ("bad.png", b"bad"))
    app = create_app(gateway, Settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        answer = await client.post("/v1/predict:batch", files=files)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = {line["index"]: line for line in map(json.loads, answer.text.splitlines())}
    assert sorted(lines) == list(range(60))
    assert lines.pop(7)["error"]["status"] == 415
    assert all(line["classes"][0]["class"] == list(COLOURS)[index % 3] for index, line in lines.items())


async def test_chosen_classes_and_tiles(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/predict?classes=red,green", content=png((0, 0, 255)))
    assert {each["class"] for each in answer.json()["predictions"][0]["classes"]} == {"red", "green"}
    tiled = await client.post("/v1/predict?tile=64", content=png((0, 0, 255)))
    assert (tiled.status_code, "tile" in tiled.json()["detail"]) == (400, True)


async def test_what_happens_is_counted(client: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.metrics.describe("team", "colours", ServiceObjectives(latency_p95_milliseconds=33))
    gateway.route(gateway.routing)
    samples = read_samples(gateway.metrics)

    def value(name: str, **labels: str) -> float:
        everywhere = {"namespace": "team", "deployment": "colours", "run": "r-1", "role": "stable"}
        return samples[(f"fovea_serving_{name}", *sorted((everywhere | labels).items()))]

    for code in ("200", "429", "503"):
        assert value("requests_total", code=code) == 0, "a rate counts from zero"
    assert value("request_seconds_bucket", le="0.033") == 0
    promised = {"namespace": "team", "deployment": "colours", "metric": "latencyP95Milliseconds"}
    assert samples[("fovea_serving_objective", *sorted(promised.items()))] == 33
    for _ in range(3):
        await client.post("/v1/predict", content=png((0, 0, 255)))
    await client.post("/v1/predict", content=b"%PDF")
    samples = read_samples(gateway.metrics)
    assert value("requests_total", code="200") == 3
    assert value("requests_total", code="415", run="", role="") == 1
    assert value("errors_total", reason="UnsupportedImage", run="", role="") == 1
    assert value("request_seconds_count") == 3
    assert value("request_seconds_bucket", le="0.033") <= value("request_seconds_bucket", le="+Inf") == 3
    assert value("predictions_total", **{"class": "blue"}) == 3
    assert value("images_total", format="PNG") == 3
    assert value("confidence_bucket", le="1.0") == 3
    assert value("batch_size_sum") == 3


@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/colours/infer"])
async def test_work_for_a_client_that_left_is_given_up(
    gateway: Gateway, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png((0, 0, 255))).decode()]}
    body = png((0, 0, 255)) if path == "/v1/predict" else json.dumps({"inputs": [image]}).encode()
    begun, given_up = asyncio.Event(), asyncio.Event()

    async def predict(images: object, options: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, object]:
        if (message := next(messages, None)) is not None:
            return message
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        """Nobody reads it."""

    monkeypatch.setattr(gateway.routing.versions[0].model.upstream, "predict", predict)
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    await asyncio.wait_for(create_app(gateway, Settings())(scope, receive, send), 120)
    assert given_up.is_set()
    assert gateway.admission.at_work == 0
    labels = {"namespace": "", "deployment": "", "run": "r-1", "role": "stable"}
    samples = read_samples(gateway.metrics)
    assert samples[("fovea_serving_requests_total", *sorted((labels | {"code": "499"}).items()))] == 1
    assert samples[("fovea_serving_errors_total", *sorted((labels | {"reason": "ClientDisconnected"}).items()))] == 1


def test_series_of_versions_that_left_are_dropped_in_the_end(gateway: Gateway) -> None:
    (version,) = gateway.routing.versions
    for number in range(20):
        gateway.metrics.routing(Routing([replace(version, name=f"r-{number}")]))
        gateway.metrics.request(replace(version, name=f"r-{number}"), 200, "", 0.1)
    runs = {dict(labels)["run"] for _, *labels in read_samples(gateway.metrics) if "run" in dict(labels)}
    assert runs == {f"r-{number}" for number in range(15, 20)}


def read_samples(metrics: Metrics) -> dict[tuple[Any, ...], float]:
    """Values by the series' name and sorted labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


async def test_page_and_description_come_from_here_alone(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/page/page.css", "/page/page.js"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "//" not in answer.text.replace("// ", ""), "no other host"
    assert (await client.get("/page/../app.py")).status_code == 404
    docs = (await client.get("/docs")).text
    schema = (await client.get("/openapi.json")).json()
    for path, operations in schema["paths"].items():
        assert path in docs
        assert {"post", "get"} & operations.keys()
    assert schema["components"]["schemas"]["Problem"]
    assert {each["name"] for each in schema["paths"]["/v1/predict"]["post"]["parameters"]} >= {"confidence", "tile"}


async def test_open_inference_in_plain_json(client: httpx.AsyncClient) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png((0, 0, 255))).decode()]}
    content = {"id": "7", "inputs": [image], "outputs": [{"name": "probabilities"}], "parameters": {"classes": "blue"}}
    answer = (await client.post("/v2/models/colours/infer", json=content)).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("colours", "r-1", "7")
    assert (answer["outputs"][0]["shape"], answer["outputs"][0]["data"][:2]) == ([1, 3], [0, 0])
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [255, 0, 0, 255, 0, 0]}
    answer = (await client.post("/v2/models/colours/infer", json={"inputs": [pixels]})).json()
    assert json.loads(answer["outputs"][0]["data"][0])["width"] == 2


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [{"name": "image"}],
        [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["not base64"]}],
        [{"name": "image", "datatype": "BYTES", "shape": [2], "data": [""]}],
        [{"name": "image", "datatype": "BYTES", "shape": [0], "data": []}],
        [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1.0]}],
        [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 4], "data": [1, 2, 3, 4]}],
        [{"name": "pixels", "datatype": "UINT8", "shape": [-1], "parameters": {"binary_data_size": 4}}],
        [{"name": "pixels", "datatype": "FP16", "shape": [1], "data": [1.0]}],
        [{"name": "pixels", "datatype": "UINT8", "shape": [1, 0, 0, 3], "data": []}],
        "text",
    ],
)
async def test_a_wrong_tensor_is_a_400_that_says_what_to_send(client: httpx.AsyncClient, inputs: object) -> None:
    answer = await client.post("/v2/models/colours/infer", json={"inputs": inputs})
    assert answer.status_code == 400, answer.text
    assert (await client.post("/v2/models/colours/infer", content=b"no json")).status_code == 400
