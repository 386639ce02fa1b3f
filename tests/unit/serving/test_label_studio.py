"""Label Studio's ML backend: predictions in its form, of images from allowed places alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from fovea_api.gateway import LabelStudioHost
from fovea_serving.captures import CaptureStore
from fovea_serving.gateway.authentication import ApiKeys
from fovea_serving.gateway.gateway import Gateway
from fovea_store import StoreUnavailable

from tests.unit.serving.test_captures import BLUE, client_of, eventually, keeping, opened, png, value

CHOICES = """<Choices name="kind" toName="img"><Choice value="red"/></Choices>"""
CLASSES = f"""<View><Image name="img" value="$photo"/>{CHOICES}</View>"""
BOXES = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image"/></View>"""


def inline(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


async def ask(gateway: Gateway, image: str, config: str = CLASSES, field: str = "photo", **headers: str) -> Any:
    body = {"tasks": [{"id": 7, "data": {field: image}}], "label_config": config, "project": "1.2", "params": {}}
    async with client_of(gateway) as client:
        return await client.post("/predict", json=body, headers=headers)


@pytest_asyncio.fixture
async def gateway(bundle: Path) -> AsyncIterator[Gateway]:
    gateway = opened(bundle)
    yield gateway
    await gateway.close()


@pytest_asyncio.fixture
async def studio(tmp_path: Path) -> AsyncIterator[LabelStudioHost]:
    """A server with Label Studio's paths: an image that needs the token, and one that sends elsewhere."""

    async def upload(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Token t-1":
            return web.Response(status=401)
        if request.match_info["name"] == "away.png":
            raise web.HTTPFound("/data/upload/1/blue.png")
        return web.Response(body=png(BLUE))

    async def secret(request: web.Request) -> web.Response:
        raise AssertionError("nothing but images is asked for")

    app = web.Application()
    app.router.add_get("/ls/data/upload/1/{name}", upload)
    app.router.add_get("/{anything:.*}", secret)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (tmp_path / "token").write_text("t-1\n")
    yield LabelStudioHost(url=f"http://127.0.0.1:{runner.addresses[0][1]}/ls", token=str(tmp_path / "token"))
    await runner.cleanup()


async def test_a_task_is_predicted_in_label_studios_form_and_is_no_traffic(gateway: Gateway, tmp_path: Path) -> None:
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1)
    answer = (await ask(gateway, inline(png(BLUE)))).json()
    assert answer["model_version"] == "r-1"
    (prediction,) = answer["results"]
    assert prediction["result"] == [
        {"type": "choices", "from_name": "kind", "to_name": "img", "value": {"choices": ["blue"]}}
    ]
    assert 0.5 < prediction["score"] <= 1
    assert value(gateway, "fovea_serving_requests_total") == value(gateway, "fovea_serving_confidence_count") == 0
    assert not store.root.exists() or not list(store.all())


async def test_boxes_are_in_percent_and_name_the_tags_of_the_project(detector: Path) -> None:
    gateway = opened(detector)
    answer = (await ask(gateway, inline(png((255, 255, 255), (64, 48))), BOXES, "image")).json()
    result = answer["results"][0]["result"]
    assert result
    assert {(each["type"], each["from_name"], each["to_name"]) for each in result} == {
        ("rectanglelabels", "label", "image")
    }
    assert {(each["original_width"], each["original_height"]) for each in result} == {(64, 48)}
    async with client_of(gateway) as client:
        form = {"file": png((255, 255, 255), (64, 48))}
        objects = (await client.post("/v1/predict", files=form)).json()["predictions"][0]["objects"]
    for each, known in zip(result, objects, strict=True):
        box = each["value"]
        found = (box["x"] * 0.64, box["y"] * 0.48, (box["x"] + box["width"]) * 0.64, (box["y"] + box["height"]) * 0.48)
        assert found == pytest.approx(known["box"], abs=1e-3)
        assert box["rectanglelabels"] == [known["class"]]
    await gateway.close()


async def test_health_and_setup_say_what_label_studio_asks(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        assert (await client.get("/health")).json()["status"] == "UP"
        setup = {"project": "1.2", "schema": CLASSES, "hostname": "http://ls", "access_token": "t"}
        assert (await client.post("/setup", json=setup)).json() == {"model_version": "r-1"}
        for schema in (BOXES, "<View>", "", '<!DOCTYPE a [<!ENTITY b "c">]><View/>'):
            refused = await client.post("/setup", json={**setup, "schema": schema})
            assert (refused.status_code, "label_config" in refused.json()["detail"]) == (400, True)


async def test_an_image_of_the_captures_is_found_by_its_name(gateway: Gateway, tmp_path: Path) -> None:
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1)
    async with client_of(gateway) as client:
        await client.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": "a-1"})
    await eventually(lambda: store.root.exists() and list(store.all()))
    answer = await ask(gateway, "/data/local-files/?d=images/c0-20261126T100000/a-1-0.png")
    assert answer.json()["results"][0]["result"][0]["value"] == {"choices": ["blue"]}
    unknown = await ask(gateway, "/data/local-files/?d=images/c0/b-1-0.png")
    assert (unknown.status_code, "spec.monitoring.labelStudio" in unknown.json()["detail"]) == (400, True)
    assert isinstance(store, CaptureStore)


@pytest.mark.parametrize("path", ["/data/upload/1/blue.png", "{url}/data/upload/1/blue.png"])
async def test_an_image_of_label_studio_is_fetched_with_its_token(
    gateway: Gateway, studio: LabelStudioHost, path: str
) -> None:
    gateway.label_studio = studio
    answer = await ask(gateway, path.format(url=studio.url))
    assert answer.json()["results"][0]["result"][0]["value"] == {"choices": ["blue"]}


@pytest.mark.parametrize(
    "image",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:1/ls/data/upload/1/blue.png",
        "{url}.evil.example/data/upload/1/blue.png",
        "http://user@{host}/ls/data/upload/1/blue.png",
        "{url}/api/users",
        "/api/users",
        "/data/../api/users",
        "{url}/data/%2e%2e/api/users",
        "{url}/data/upload/../../../api",
        "file:///etc/passwd",
        "s3://bucket/blue.png",
        "//169.254.169.254/data/x",
        "/data/upload/1/away.png",
        "http://[::1",
        "data:image/png;base64,\u00e9\u00e9\u00e9\u00e9",
    ],
)
async def test_nothing_is_fetched_from_elsewhere(gateway: Gateway, studio: LabelStudioHost, image: str) -> None:
    gateway.label_studio = studio
    host = studio.url.removeprefix("http://").removesuffix("/ls")
    refused = await ask(gateway, image.format(url=studio.url, host=host))
    assert refused.status_code == 400
    assert "tasks[0].data.photo" in refused.json()["detail"]
    assert "t-1" not in json.dumps(refused.json())


async def test_a_store_or_a_token_that_is_away_is_unavailable_and_no_fault_of_the_gateway(
    gateway: Gateway, studio: LabelStudioHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.label_studio = studio.model_copy(update={"token": str(tmp_path / "none")})
    answer = await ask(gateway, "/data/upload/1/blue.png")
    assert (answer.status_code, "key token" in answer.json()["detail"]) == (503, True)
    keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1)

    def away(*_: object) -> None:
        raise StoreUnavailable("the store does not answer", "s3://captures")

    monkeypatch.setattr(CaptureStore, "find", away)
    assert (await ask(gateway, "c0/a-1-0.png")).status_code == 503
    assert (await ask(gateway, f"c0/{'a' * 300}-0.png")).status_code == 400
    assert (await ask(gateway, f"c0/a-{'1' * 5000}.png")).status_code == 400


async def test_whoever_asks_shows_a_key_also_as_the_password_of_basic_authentication(
    gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/studio").write_text("k-1")
    gateway.authenticator = ApiKeys(tmp_path / "keys")
    basic = {name: base64.b64encode(f"studio:{name}".encode()).decode() for name in ("k-1", "k-2")}
    image = inline(png(BLUE))
    assert (await ask(gateway, image)).status_code == 401
    assert (await ask(gateway, image, authorization=f"Basic {basic['k-2']}")).status_code == 401
    for broken in (b"Basic !", b"Basic \xe9\xe9\xe9\xe9", b"Basic /w=="):
        async with client_of(gateway) as client:
            assert (await client.get("/health", headers={b"authorization": broken})).status_code == 401
    assert (await ask(gateway, image, authorization=f"Basic {basic['k-1']}")).status_code == 200
    async with client_of(gateway) as client:
        for method, path in (("GET", "/health"), ("POST", "/setup")):
            assert (await client.request(method, path, json={})).status_code == 401


async def test_broken_bodies_are_refused_with_the_place(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        for body, place in (
            (b"[", "body"),
            (b"[" * 100_000, "body"),
            (b"{}", "tasks"),
            (json.dumps({"tasks": [{}], "label_config": CLASSES}).encode(), "tasks[0].data.photo"),
            (json.dumps({"tasks": [{}], "label_config": "<View \ud800/>"}).encode(), "label_config"),
            (json.dumps({"tasks": [{}] * 33, "label_config": CLASSES}).encode(), "33 tasks"),
        ):
            refused: httpx.Response = await client.post("/predict", content=body)
            assert refused.status_code in (400, 413)
            assert place in refused.json()["detail"]
    assert (await ask(gateway, "data:image/png;base64,!!")).status_code == 400
    assert (await ask(gateway, inline(b"no image"))).status_code == 415
