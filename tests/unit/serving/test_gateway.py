"""The gateway's HTTP interface, with a real model in the same process."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fovea_serving.bundle import load_bundle
from fovea_serving.gateway.app import create_app
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.routing import Routing, Served, Version
from fovea_serving.gateway.settings import Settings
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.local import LocalUpstream
from PIL import Image

COLOURS = {"red": (230, 20, 20), "green": (10, 200, 30), "blue": (0, 0, 255)}


def png(colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest_asyncio.fixture
async def gateway(bundle: Path) -> AsyncIterator[Gateway]:
    verified = load_bundle(bundle)
    gateway = Gateway(settings=Settings(max_wait_seconds=60))  # the machine may be busy
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
