"""Captures, feedback and the features of drift: through the gateway, with a real model and a real S3 server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_grpc
from fovea_api.common import Task
from fovea_api.modeldeployment import CapturePolicy
from fovea_api.profile import (
    CLASSES,
    FEATURES,
    LABELLED,
    LABELLED_PAIRS,
    PROFILE,
    REFERENCE,
    REFERENCE_ITEMS,
    ReferenceProfile,
    bin_counts,
)
from fovea_serving.bundle import load_bundle
from fovea_serving.captures import Capture, CaptureStore
from fovea_serving.gateway import capturing
from fovea_serving.gateway.app import create_app
from fovea_serving.gateway.authentication import ApiKeys
from fovea_serving.gateway.capturing import Allowance, Capturer
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.open_inference_grpc import grpc_server
from fovea_serving.gateway.routing import Routing, Served, Version
from fovea_serving.gateway.settings import Settings
from fovea_serving.pipeline import Classification
from fovea_serving.pipeline.profile import ProfileBuilder, size_features
from fovea_serving.pipeline.properties import Embedding, measured, thumbnail
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.local import LocalUpstream
from fovea_store import StorePath
from fovea_store.filesystems import filesystem
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.ports import free_port
from tests.s3 import running
from tests.unit.serving.conftest import PATIENT, UNHURRIED
from tests.unit.serving.test_capture_exchange import filled

LONGEST_SECONDS = 120.0
"""For what will happen; it only ends a hang."""
RED, BLUE, GREY = (230, 20, 20), (0, 0, 255), (128, 128, 128)


def png(colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 server."""
    (tmp_path / "s3/fovea").mkdir(parents=True)
    with running(tmp_path / "s3") as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        filesystem.cache_clear()  # a process has one endpoint; here each test has its own
        yield "s3://fovea/captures"
        filesystem.cache_clear()


def opened(bundle: Path, profile: ReferenceProfile | None = None) -> Gateway:
    verified = load_bundle(bundle)
    gateway = Gateway(PATIENT, UNHURRIED)
    upstream = LocalUpstream(Predictor.from_bundle(verified, threads=1))
    model = Served.of(verified.manifest, verified.digest, upstream, profile=profile)
    gateway.route(Routing([Version("r-1", "Stable", 100, model)]))
    return gateway


def keeping(gateway: Gateway, uri: str, **policy: Any) -> CaptureStore:
    """Makes the gateway keep requests there."""
    gateway.monitor.capturer = Capturer(
        CapturePolicy(uri=uri, **policy), None, feedback=True, gateways=1, metrics=gateway.metrics.drift
    )
    return gateway.monitor.capturer.store


@pytest_asyncio.fixture
async def gateway(bundle: Path) -> AsyncIterator[Gateway]:
    gateway = opened(bundle)
    yield gateway
    await gateway.close()


def client_of(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(gateway, Settings())), base_url="http://gateway")


@pytest.fixture
def done() -> Iterator[threading.Event]:
    """Set by a test, or at its end: until then a store waits."""
    done = threading.Event()
    yield done
    done.set()


def slow(monkeypatch: pytest.MonkeyPatch, done: threading.Event) -> list[Capture]:
    """Makes every store wait before it writes: the double of one whose connection is silent. Gives what is being
    written."""
    write = CaptureStore.write
    begun: list[Capture] = []

    def wait_and_write(store: CaptureStore, capture: Capture, images: Sequence[bytes]) -> None:
        begun.append(capture)
        done.wait()
        write(store, capture, images)

    monkeypatch.setattr(CaptureStore, "write", wait_and_write)
    return begun


async def eventually(check: Callable[[], object]) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not await asyncio.to_thread(check):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def series(gateway: Gateway, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
    """The samples of a name that have these labels, each with all of its labels."""
    families = text_string_to_metric_families(gateway.metrics.text().decode())
    found = [each for family in families for each in family.samples if each.name == name]
    return [(each.labels, each.value) for each in found if labels.items() <= each.labels.items()]


def value(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of these samples."""
    return sum(each for _, each in series(gateway, name, **labels))


async def test_feedback_reaches_a_gateway_that_did_not_answer(bundle: Path, s3: str) -> None:
    """Two gateways share a store on a real S3 server; each request is counted once, whatever is said of it again."""
    first, second = opened(bundle), opened(bundle)
    store = keeping(first, s3, sampleRate=0, lowConfidenceBelow=0)
    keeping(second, s3, sampleRate=0, lowConfidenceBelow=0)
    async with client_of(first) as asked, client_of(second) as told:
        await asked.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": "a-1"})
        await asked.post("/v1/predict", content=png(RED), headers={"X-Request-Id": "a-2"})
        await eventually(lambda: store.find("a-1") and store.find("a-2"))
        right = await told.post("/v1/feedback", json={"requestId": "a-1", "class": "blue"})
        assert right.json() == {"requestId": "a-1", "run": "r-1", "right": True, "counted": True}
        unknown = await told.post("/v1/feedback", json={"requestId": "a-2", "class": "violet"})
        assert unknown.json()["right"] is False, "a class that the model does not know"
        again = await told.post("/v1/feedback", json={"requestId": "a-2", "wrong": False})
        assert (again.json()["right"], again.json()["counted"]) == (True, False)
        await told.post("/v1/feedback", json={"requestId": "a-1", "wrong": True})
    found = store.find("a-2")
    assert found is not None
    assert found.label is not None
    assert found.label.images, "whether it is wrong says less than what is right"
    assert not found.capture.has_images, "no image was to be kept"
    for outcome in ("right", "wrong"):
        assert value(second, LABELLED, run="r-1", role="stable", outcome=outcome) == 1
    await asyncio.gather(first.close(), second.close())


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "no JSON object"),
        (b'{"class": "blue"}', 400, "`requestId` is missing"),
        (b'{"requestId": "no-such", "class": "blue"}', 404, "no answer is kept"),
        (b'{"requestId": "../../other/a-1", "wrong": true}', 404, "no answer is kept"),
        (b'{"requestId": "a-1~label", "wrong": true}', 404, "no answer is kept"),
        (b'{"requestId": "a\\u0000", "wrong": true}', 404, "no answer is kept"),
        (b'{"requestId": "a-1"}', 400, "a label has none of"),
        (b'{"requestId": "a-1", "objects": [' + b"{}," * 5000 + b"{}]}", 400, "at most 5,000"),
        (b'{"requestId": "a-1", "wrong": "yes"}', 400, "neither true nor false"),
        (b'{"requestId": "a-1", "images": [{"class": "blue"}, {"class": "red"}]}', 400, "2 labels for a request of 1"),
        (b'{"requestId": "a-1", "objects": [{"class": "x", "box": [1, 2, 3]}]}', 400, "`classes` is no list"),
    ],
)
async def test_bad_feedback_is_refused_with_the_reason(
    gateway: Gateway, tmp_path: Path, body: bytes, status: int, words: str
) -> None:
    keeping(gateway, f"file://{tmp_path}/captures")
    async with client_of(gateway) as client:
        await client.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": "a-1"})
        answer = await client.post("/v1/feedback", content=body)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
        good = await client.post("/v1/feedback", json={"requestId": "a-1", "class": "blue"})
        assert (good.status_code, good.json()["counted"]) == (200, True), "a bad label leaves nothing behind"


async def test_a_label_of_a_mirrored_request_counts_for_the_pair(bundle: Path, tmp_path: Path) -> None:
    gateway = opened(bundle)
    model = gateway.routing.versions[0].model
    versions = [Version("r-1", "Stable", 0, model), Version("r-2", "Candidate", 100, model)]
    gateway.route(Routing(versions, "", 1.0, "1"))
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=0, lowConfidenceBelow=0)
    async with client_of(gateway) as client:
        for name in ("a-1", "a-2", "a-3"):
            await client.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": name})
            await eventually(lambda: (found := store.find(name)) and store.find_pair(found))  # noqa: B023
        await client.post("/v1/feedback", json={"requestId": "a-1", "class": "blue"})
        await client.post("/v1/feedback", json={"requestId": "a-2", "class": "red"})
        await client.post("/v1/feedback", json={"requestId": "a-3", "wrong": True})
    pairs = {labels["outcome"]: count for labels, count in series(gateway, LABELLED_PAIRS, run="r-2", stable="r-1")}
    assert pairs == {"both": 1, "neither": 1}, "that the client's answer is wrong says nothing of the other's"
    assert value(gateway, LABELLED, run="r-2", role="candidate") == 3
    await gateway.close()


async def test_feedback_that_is_not_asked_for_is_refused(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        answer = await client.post("/v1/feedback", json={"requestId": "a-1", "class": "blue"})
        assert (answer.status_code, "spec.monitoring.feedback" in answer.json()["detail"]) == (409, True)


async def test_uncertain_images_are_kept_with_their_prediction(gateway: Gateway, tmp_path: Path) -> None:
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=0, lowConfidenceBelow=0.5)
    async with client_of(gateway) as client:
        await client.post("/v1/predict", content=png(GREY), headers={"X-Request-Id": "grey"})
        await client.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": "blue"})
    await eventually(lambda: store.find("grey") and store.find("blue"))
    (kept,) = store.all()
    assert (kept.capture.id, kept.capture.reason, kept.capture.run) == ("grey", "lowConfidence", "r-1")
    assert store.read_image(kept, 0) == png(GREY)
    assert store.counts() == {"some": 0, "none": 1}
    assert store.delete("grey"), "a person may be withdrawn"
    assert not list(store.all())
    assert not list((tmp_path / "captures").rglob("grey*"))


async def test_no_id_takes_the_place_of_anothers_label_or_pair(gateway: Gateway, tmp_path: Path) -> None:
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1, maxPerHour=1_000_000)
    async with client_of(gateway) as client:
        for name in ("a", "a.label", "a.pair", "a-0.png", "a.json"):
            await client.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": name})
        await eventually(lambda: len(list(store.all())) == 5)
        answer = await client.post("/v1/feedback", json={"requestId": "a", "class": "blue"})
        assert (answer.status_code, answer.json()["counted"]) == (200, True)
    assert store.counts() == {"some": 1, "none": 4}
    assert store.delete("a")
    assert {each.capture.id for each in store.all()} == {"a.label", "a.pair", "a-0.png", "a.json"}


async def test_answers_without_images_are_not_among_those_that_are_listed(gateway: Gateway, tmp_path: Path) -> None:
    """With feedback they are some millions a day, and a gateway counts the captures each minute."""
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=0, lowConfidenceBelow=0)
    async with client_of(gateway) as client:
        await client.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": "a"})
        await eventually(lambda: store.find("a"))
        await client.post("/v1/feedback", json={"requestId": "a", "class": "blue"})
    (day,) = (tmp_path / "captures").iterdir()
    assert [each for each in day.iterdir() if each.is_file()] == []
    assert sorted(each.name for each in (day / "answers").iterdir()) == ["a.json", "a~label.json"]


def test_a_day_that_another_gateway_has_just_deleted_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The double stands for the moment between the listing of the days and the look into one."""
    store = CaptureStore(StorePath.parse(str(tmp_path)), timedelta(days=1))
    monkeypatch.setattr(CaptureStore, "days", lambda _: ["2020-01-01"])
    assert store.find("a") is None
    assert not list(store.all())
    assert store.counts() == {"some": 0, "none": 0}
    assert not store.delete("a")
    assert store.expire(datetime.now(UTC)) == 0


async def test_an_answer_that_is_not_written_yet_is_counted_once_all_the_same(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: threading.Event
) -> None:
    """The double stands for a slow store."""
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=0, lowConfidenceBelow=0)
    monkeypatch.setattr(type(store), "write", lambda *_: done.wait())
    async with client_of(gateway) as client:
        await client.post("/v1/predict", content=png(BLUE), headers={"X-Request-Id": "a"})
        answers = [await client.post("/v1/feedback", json={"requestId": "a", "class": "blue"}) for _ in range(3)]
    assert [answer.json()["counted"] for answer in answers] == [True, False, False]


async def test_images_that_wait_for_a_slow_store_hold_few_bytes(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: threading.Event
) -> None:
    monkeypatch.setattr(capturing, "MOST_BYTES", 3 * len(png(BLUE)))
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1, maxPerHour=1_000_000)
    slow(monkeypatch, done)
    async with client_of(gateway) as client:
        for _ in range(5):
            await client.post("/v1/predict", content=png(BLUE))
        assert value(gateway, "fovea_serving_captures_lost_total", reason="queue") == 2
        done.set()
        await eventually(lambda: len(list(store.all())) == 3 and not gateway.monitor.capturer._bytes)  # type: ignore[union-attr]
        await client.post("/v1/predict", content=png(BLUE))
    await eventually(lambda: len(list(store.all())) == 4)


async def test_whoever_stops_keeping_leaves_no_thread_behind(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: threading.Event
) -> None:
    """Also where the queue is full, because the store hangs: it is written when the store is back."""
    monkeypatch.setattr(capturing, "MOST_WAITING", 3)
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1, maxPerHour=1_000_000)
    begun = slow(monkeypatch, done)
    capturer = gateway.monitor.capturer
    assert capturer is not None
    async with client_of(gateway) as client:
        for number in range(8):
            await client.post("/v1/predict", content=png(BLUE))
            if number == 1:
                await eventually(lambda: len(begun) == 2)  # both threads are at work
    threading.Timer(0.5, done.set).start()
    await asyncio.to_thread(capturer.close)
    await eventually(lambda: not any(thread.is_alive() for thread in capturer._threads))
    assert store.counts()["none"] == 5, "two at work and three that waited"


async def test_a_version_that_cannot_be_closed_keeps_no_capture_from_being_written(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def close() -> None:
        raise OSError("the connection is gone")

    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1, maxPerHour=1_000_000)
    async with client_of(gateway) as client:
        await client.post("/v1/predict", content=png(BLUE))
    capturer, upstream = gateway.monitor.capturer, gateway.routing.versions[0].model.upstream
    assert capturer is not None
    with monkeypatch.context() as broken:
        broken.setattr(upstream, "close", close)
        await gateway.close()
    await eventually(lambda: not any(thread.is_alive() for thread in capturer._threads))
    assert store.counts()["none"] == 1
    await upstream.close()


async def test_feedback_that_waits_for_a_dead_store_holds_up_nothing_else(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: threading.Event
) -> None:
    """API keys are read by the threads that feedback would otherwise fill."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/one").write_text("secret")
    gateway.authenticator = ApiKeys(tmp_path / "keys", clock=iter(range(0, 10**6, 10)).__next__)
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=0)
    monkeypatch.setattr(type(store), "find", lambda *_: done.wait() and None)
    async with client_of(gateway) as client:
        client.headers["X-API-Key"] = "secret"
        waiting = [
            asyncio.create_task(client.post("/v1/feedback", json={"requestId": "a", "wrong": True})) for _ in range(40)
        ]
        await eventually(lambda: sum(each.done() for each in waiting) == 8)
        async with asyncio.timeout(LONGEST_SECONDS):
            assert (await client.post("/v1/predict", content=png(BLUE))).status_code == 200
        done.set()
        codes = [answer.status_code for answer in await asyncio.gather(*waiting)]
    assert (codes.count(404), codes.count(503)) == (32, 8)


async def test_images_of_a_batch_and_of_the_open_inference_protocol_are_kept_too(
    gateway: Gateway, tmp_path: Path
) -> None:
    store = keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1, maxPerHour=1_000_000)
    async with client_of(gateway) as client:
        files = [("image", (f"{index}.png", png(BLUE), "image/png")) for index in range(2)]
        await client.post("/v1/predict:batch", files=files, headers={"X-Request-Id": "b" * 128})
        content = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png(BLUE)).decode()]}
        answer = await client.post(
            "/v2/models/colours/infer", json={"inputs": [content]}, headers={"X-Request-Id": "http"}
        )
        assert answer.status_code == 200
    port = free_port()
    server = grpc_server(gateway, Settings(host="127.0.0.1", grpc_port=port))
    await server.start()
    async with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as triton:
        image = triton_grpc.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([png(BLUE)], np.object_))
        await triton.infer("colours", [image], request_id="grpc")
    await server.stop(None)
    kept = {f"{'b' * 120}-0", f"{'b' * 120}-1", "http", "grpc"}
    await eventually(lambda: {each.capture.id for each in store.all()} == kept)
    assert all(len(each.capture.client) == 16 for each in store.all())


async def test_a_store_that_takes_nothing_costs_no_request_and_is_counted(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "full").write_text("a file where a folder should be")
    keeping(gateway, f"file://{tmp_path}/full", sampleRate=1, maxPerHour=1_000_000)
    async with client_of(gateway) as client:
        for _ in range(5):
            assert (await client.post("/v1/predict", content=png(BLUE))).status_code == 200
    await eventually(lambda: value(gateway, "fovea_serving_captures_lost_total", reason="store") == 5)


async def test_a_store_that_hangs_is_not_waited_for(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: threading.Event
) -> None:
    """The double stands for a store whose connection is silent."""
    keeping(gateway, f"file://{tmp_path}/captures", sampleRate=1, maxPerHour=1_000_000)
    slow(monkeypatch, done)
    async with client_of(gateway) as client:
        for _ in range(140):
            assert (await client.post("/v1/predict", content=png(BLUE))).status_code == 200
    at_work_at_most = capturing.WRITERS
    lost = value(gateway, "fovea_serving_captures_lost_total", reason="queue")
    assert 140 - capturing.MOST_WAITING - at_work_at_most <= lost <= 140 - capturing.MOST_WAITING
    done.set()


def test_the_hourly_limit_is_spread_and_never_exceeded() -> None:
    now = [0.0]
    allowance = Allowance(60, 10, lambda: now[0])
    taken = 0
    for second in range(3600):
        now[0] = float(second)
        taken += allowance.take()
        assert second > 5 or taken <= 10
    assert 60 <= taken <= 70, "sixty, and the burst at the start"


def test_the_hourly_limit_is_one_of_images() -> None:
    """A request may have more of them than may come at once."""
    now = [0.0]
    allowance = Allowance(60, 10, lambda: now[0])
    taken = 0
    for second in range(36000):
        now[0] = float(second)
        taken += 32 * allowance.take(32)
    assert 600 - 32 <= taken <= 600 + 10 + 32


def test_who_withdraws_leaves_nothing_behind(tmp_path: Path) -> None:
    """An id may be of several days, and an image may have lost its record."""
    for day in ("2026-11-25", "2026-11-26"):
        (tmp_path / day / "answers").mkdir(parents=True)
        for name in ("a-0.jpg", "a-1.png", "a.json", "a~label.json", "answers/a.json", "answers/a~pair.json"):
            (tmp_path / day / name).write_text("{}")
        for name in ("a-0-0.jpg", "a-0.json"):
            (tmp_path / day / name).write_text("of another request")
    (tmp_path / "2026-11-26/a.json").unlink()
    store = CaptureStore(StorePath.parse(str(tmp_path)), timedelta(days=30))
    assert store.delete("a")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a-0-0.jpg", "a-0.json"}
    assert not store.delete("a")


def test_a_file_that_is_being_written_is_no_capture(tmp_path: Path) -> None:
    (tmp_path / "2026-11-26").mkdir()
    (tmp_path / "2026-11-26" / ".a-0.png.649768f105dd4efa9b44a58e79097919.tmp").write_bytes(b"half")
    assert CaptureStore(StorePath.parse(str(tmp_path)), timedelta(days=30)).counts() == {"some": 0, "none": 0}


def test_days_beyond_the_retention_are_deleted(tmp_path: Path) -> None:
    store = filled(tmp_path, {"a": -56 * 86400, "b": -25 * 86400, "c": 0})
    store = CaptureStore(store.root, timedelta(days=30))
    for others in ("notes", "2026-09-30"):
        (tmp_path / others).mkdir()
        (tmp_path / others / "a.json").write_text("{}")
    assert store.expire(datetime(2026, 11, 26, 12, tzinfo=UTC)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-09-30", "2026-11-01", "2026-11-26", "notes"], (
        "what is not ours stays"
    )


# Features


def noisy(sigma: float, side: int = 256) -> np.ndarray:
    random = np.random.default_rng(0)
    ramp = np.linspace(80, 160, side)[None, :, None] + random.normal(0, sigma, (side, side, 1))
    return np.repeat(np.clip(ramp, 0, 255), 3, 2).round().astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 12.0])
def test_noise_is_estimated_in_levels(sigma: float) -> None:
    assert measured(noisy(sigma), None)["noise"] == pytest.approx(sigma, rel=0.1)


def test_properties_of_plain_pictures_are_those_of_the_definition() -> None:
    half = np.zeros((40, 60, 3), np.uint8)
    half[:, 30:] = 255
    found = measured(half, None)
    assert (found["brightness"], found["contrast"], found["saturation"]) == (pytest.approx(0.5), pytest.approx(0.5), 0)
    assert measured(np.full((40, 60, 3), (0, 0, 255), np.uint8), None)["saturation"] == pytest.approx(1)
    assert measured(noisy(5), None)["sharpness"] > measured(noisy(1), None)["sharpness"] > 0
    assert set(measured(np.zeros((1, 1, 3), np.uint8), None)) < set(FEATURES)


def profiled(count: int = 40) -> tuple[ReferenceProfile, list[np.ndarray]]:
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (1, 1, 3), np.uint8).repeat(20, 0).repeat(30, 1) for _ in range(count)]
    embedding = Embedding.fit([thumbnail(image) for image in images])
    builder = ProfileBuilder(Task.CLASSIFICATION, ("red", "green", "blue"), embedding)
    for image in images:
        prediction = Classification(np.array([0.7, 0.2, 0.1], np.float32))
        builder.add({**measured(image, embedding), **size_features(30, 20)}, prediction, True)
    return builder.finish(["test"], []), images


def test_a_profile_counts_each_image_once_in_each_feature() -> None:
    profile, images = profiled()
    assert profile.items == len(images)
    assert all(sum(counts) == len(images) for counts in profile.features.values())
    assert profile.classes == {"red": len(images)}
    assert (profile.accuracy, "objects" in profile.features) == (1.0, False)
    near = [sum(profile.features[name][6:12]) for name in ("embedding1", "embedding2")]
    assert min(near) > 0.7 * len(images), "within 1.5 deviations of what it was fitted to"


async def test_the_gateway_counts_in_the_bins_of_the_reference(bundle: Path) -> None:
    profile, _ = profiled()
    gateway = opened(bundle, profile)
    async with client_of(gateway) as client:
        for colour in (RED, BLUE, BLUE):
            await client.post("/v1/predict", content=png(colour))
        await client.post("/v1/predict?classes=red", content=png(BLUE))
    assert value(gateway, CLASSES, run="r-1", **{"class": "blue"}) == 2, "a request with a choice is left out"
    assert value(gateway, REFERENCE_ITEMS, run="r-1", role="stable") == 40
    for name, counts in profile.features.items():
        reference = {float(labels["le"]): each for labels, each in series(gateway, REFERENCE, feature=name)}
        assert bin_counts(FEATURES[name], reference) == counts
    live = {float(labels["le"]): each for labels, each in series(gateway, "fovea_serving_confidence_bucket")}
    counted = bin_counts(FEATURES["confidence"], live)
    assert counted is not None
    assert sum(counted) == 3
    await eventually(lambda: value(gateway, "fovea_serving_image_brightness_count", run="r-1") >= 1)
    await gateway.close()


def test_a_bundle_gives_its_profile_back_and_one_without_has_none(bundle: Path) -> None:
    assert load_bundle(bundle).profile() is None
    assert PROFILE == "profile.json"
    assert json.loads(profiled()[0].model_dump_json(by_alias=True))["schemaVersion"] == 1
