"""A real Prometheus beside gateways and an operator that have something to show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from fovea_api.common import Task
from fovea_api.modeldeployment import ServiceObjectives
from fovea_api.profile import FEATURES, ReferenceProfile
from fovea_operator import scraping
from fovea_operator.gauges import ObjectGauges
from fovea_operator.kinds import builtin
from fovea_operator.measurement import Measured
from fovea_operator.metrics import ATTEMPTS_ENDED
from fovea_operator.metrics import Metrics as OperatorMetrics
from fovea_operator.objects import MODEL_DEPLOYMENT, JsonObject, Key, Kind
from fovea_operator.scraping import Scraper
from fovea_operator.settings import Settings
from fovea_serving.gateway.metrics import Metrics as GatewayMetrics
from fovea_serving.gateway.routing import Routing, Served, Version
from fovea_serving.pipeline import Detection
from fovea_serving.pipeline.header import ImageHeader
from fovea_serving.pipeline.profile import answer_features, size_features
from fovea_serving.upstreams import Answer
from prometheus_client import generate_latest

from monitoring.alerts import alerts
from monitoring.dashboards import DASHBOARDS
from monitoring.scraping import GATEWAYS, OPERATOR
from tests.ports import free_port
from tests.prometheus import PodPort, Prometheus, keda_example, running

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
"""Of the gateways; the last does not answer."""
OWNER = Key(MODEL_DEPLOYMENT, "ns", "cells")
WINDOW = 8
"""Seconds over which the operator measures here."""


PROPERTIES = dict.fromkeys(set(FEATURES) - {"confidence", "objects", "size", "aspect"}, 0.3)
"""Features that are measured of the pixels of an image."""
REFERENCE = ReferenceProfile(
    splits=("test",),
    items=40,
    features={name: (0, 40, *(0,) * (feature.bins - 2)) for name, feature in FEATURES.items()},
    classes={"RBC": 30.0, "WBC": 10.0},
    accuracy=0.9,
)


class Gateway:
    """A gateway's own metrics, counted as it counts them, on an address of its own."""

    def __init__(self) -> None:
        self.metrics = GatewayMetrics()
        self.begin()

    def begin(self) -> None:
        """Starts, or starts anew: all counters are zero."""
        self.metrics = GatewayMetrics()
        promises = ServiceObjectives(latency_p95_milliseconds=100, error_rate=0.01, throughput_per_second=5)
        self.metrics.describe(OWNER.namespace, OWNER.name, promises)
        manifest = SimpleNamespace(classes=("RBC", "WBC"))
        model = Served(cast(Any, manifest), "sha256-0", cast(Any, None), cast(Any, None))
        self.version = Version("r-1", "Stable", 100, model)
        self.metrics.routing(Routing([self.version]))
        self.metrics.ready(self.version, True)
        self.metrics.drift.reference(self.version.name, "stable", REFERENCE)
        self.metrics.drift.stored({"some": 3, "none": 4})

    def answer(self, number: int) -> None:
        """A request: one of ten fails, one of four takes long."""
        code, reason = (503, "UpstreamUnavailable") if number % 10 == 0 else (200, "")
        self.metrics.request(self.version, code, reason, 0.15 if number % 4 == 0 else 0.03)
        detection = Detection(np.zeros((1, 4), np.float32), np.array([1]), np.array([0.9], np.float32))
        self.metrics.images(self.version, [b"0" * 22_000], [ImageHeader("JPEG", 640, 480)])
        self.metrics.answers(self.version, [Answer(detection, 640, 480, 2)])
        drift, place = self.metrics.drift, (self.version.name, "stable")
        drift.image(*place, {**PROPERTIES, **answer_features(detection, Task.DETECTION), **size_features(640, 480)})
        drift.classes(*place, {"WBC": 1.0})
        drift.labelled(*place, "wrong" if number % 5 == 0 else "right")
        drift.captured("sample")
        drift.capture_lost("limit")

    def page(self) -> bytes:
        self.metrics.load(3, 0.1)
        return self.metrics.text()


OBJECTS: Mapping[str, JsonObject] = {
    "Dataset": {
        "splits": {"train": 8, "test": 2},
        "classes": [{"name": "RBC", "annotations": 90}, {"name": "WBC", "annotations": 10}],
        "quality": {"nearDuplicates": 1},
        "findings": [{"kind": "TestLabelsMissing", "severity": "Serious", "count": 2}],
    },
    "TrainingJob": {
        "result": {
            "eligible": False,
            "successCriteria": [
                {"metric": "test/mAP", "min": 0.5, "measured": 0.4, "met": False},
                {"metric": "test/latency", "max": 50, "measured": 30, "met": True},
            ],
        },
        "usage": {"cpuHours": 2.5, "gpuHours": 0},
        "conditions": [{"type": "Stalled", "status": "True", "reason": "InvalidOption"}],
    },
    "ModelDeployment": {
        "replicas": 1,
        "drift": {"state": "None", "detectors": [{"name": "Embeddings", "score": 0.1, "drifted": False}]},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
    "Run": {
        "phase": "Running",
        "progress": {
            "percent": 40,
            "epoch": 4.2,
            "imagesPerSecond": 12.5,
            "metrics": {"train/loss": 0.7, "validation/loss": 0.8, "validation/mAP": 0.3},
        },
    },
}


def operator_metrics() -> OperatorMetrics:
    """An operator that leads, with one object of each kind."""

    def listed(kind: Kind) -> list[JsonObject]:
        spec: JsonObject = {"type": "Training", "owner": {"kind": "TrainingJob", "name": "cells"}}
        metadata: JsonObject = {"namespace": OWNER.namespace, "name": OWNER.name}
        found = OBJECTS.get(kind.name)
        return [{"metadata": metadata, "spec": spec, "status": found}] if found is not None else []

    metrics = OperatorMetrics(builtin().metrics)
    metrics.registry.register(ObjectGauges(builtin(), listed))
    metrics.queue_depth.function = lambda: {"Run": 2}
    metrics.leader.set(1)
    metrics.cached.labels("Run").set(1)
    return metrics


def work(metrics: OperatorMetrics) -> None:
    """What an operator counts while it works."""
    metrics.queue_wait.labels("Run").observe(0.02)
    metrics.reconcile_duration.labels("Run").observe(0.01)
    metrics.reconcile_errors.labels("Run", "Conflict").inc(0)
    metrics.watch_events.labels("Run", "MODIFIED").inc()
    metrics.requests.labels("patch", "Run", "200").inc()
    metrics.count(ATTEMPTS_ENDED.name, ("Training", "Succeeded"))
    metrics.count(ATTEMPTS_ENDED.name, ("Training", "Failed"))


@asynccontextmanager
async def page(host: str, port: int, read: Callable[[], bytes]) -> AsyncIterator[web.TCPSite]:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=read())

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    try:
        yield site
    finally:
        await runner.cleanup()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Port of all pages of metrics."""
    free = free_port()
    monkeypatch.setattr(scraping, "GATEWAY_METRICS_PORT", free)
    return free


@pytest.fixture
def asked(tmp_path: Path, port: int) -> Iterator[Prometheus]:
    """A Prometheus of an operator and three gateways, and beside them of ports that are not meant."""
    gateways = [PodPort(f"{host}:{port}", "metrics", pod=host) for host in HOSTS]
    others = [PodPort("127.0.0.5:1", "http"), PodPort("127.0.0.6:1", "metrics", "Succeeded")]
    ports = {OPERATOR.job: [PodPort(f"127.0.0.1:{port}", "http")], GATEWAYS.job: [*gateways, *others]}
    with running(tmp_path, ports) as prometheus:
        yield prometheus


async def test_every_query_has_data_alerts_fire_and_the_operator_sees_the_same_as_in_the_pods(
    asked: Prometheus, port: int
) -> None:
    """The second gateway starts anew in the middle; the third is not there."""
    first, second, operator = Gateway(), Gateway(), operator_metrics()
    pods, database = Scraper(), Scraper()
    answered = 0
    stop = asyncio.Event()

    async def load() -> None:
        nonlocal answered
        while not stop.is_set():
            answered += 1
            for gateway in (first, second):
                gateway.answer(answered)
            work(operator)
            await asyncio.sleep(0.05)

    async with (
        page("127.0.0.1", port, lambda: generate_latest(operator.registry)),
        page(HOSTS[0], port, first.page),
        page(HOSTS[1], port, second.page),
        aiohttp.ClientSession() as session,
    ):
        loading = asyncio.create_task(load())
        while len(await asyncio.to_thread(asked.query, "up == 1")) < 3:
            await asyncio.sleep(0.2)
        for scraper in (pods, database):
            scraper.ask(OWNER, HOSTS)
        while not await measure(session, pods, database, asked.address, second.begin):
            pass  # the machine stood still meanwhile
        agree(pods.ask(OWNER, HOSTS), database.ask(OWNER, HOSTS))
        await nothing_is_unknown(session, asked.address)
        await asyncio.to_thread(look, asked, set(HOSTS))
        stop.set()
        await loading


async def measure(
    session: aiohttp.ClientSession, pods: Scraper, database: Scraper, prometheus: str, in_the_middle: Callable[[], None]
) -> bool:
    """Measures a window. False: some seconds of it were lost to pods or Prometheus, as these look each second."""
    looked = [time.monotonic()]
    for second in range(WINDOW + 2):
        if second == WINDOW // 2:
            in_the_middle()
        await pods.look(session, Settings(metrics_window_seconds=WINDOW))
        await asyncio.sleep(1)
        looked.append(time.monotonic())
    await database.look(session, Settings(metrics_window_seconds=WINDOW, prometheus=prometheus))
    looked.append(time.monotonic())
    return all(later - earlier < 2 for earlier, later in pairwise(looked))


def look(asked: Prometheus, pods: set[str]) -> None:
    """Whether Prometheus has what dashboards and alerts ask for, of these pods and no others."""
    assert {each["metric"]["pod"] for each in asked.query("up{job='fovea-gateways'}")} == pods
    empty = [
        f"{page.name}: {panel.title}: {query.expr}"
        for page in DASHBOARDS
        for panel in page.panels
        for query in panel.queries
        if not asked.has_data(query.expr)
    ]
    trigger = keda_example()["spec"]["triggers"][0]["metadata"]
    scales_by = trigger["query"].replace("haematology", OWNER.namespace).replace("blood-cells", OWNER.name)
    assert len(asked.query(scales_by)) == 1, "KEDA takes a single number"
    assert not empty + [alert.name for alert in alerts() if not asked.has_data(alert.value)]
    assert asked.firing() == {
        "FoveaObjectStalled",
        "FoveaCriteriaNotMet",
        "FoveaDatasetFindings",
        "FoveaServingErrors",
        "FoveaErrorObjectiveMissed",
        "FoveaLatencyObjectiveMissed",
    }


def agree(pods: Measured, database: Measured) -> None:
    """But for what Prometheus extrapolates to the edges of the window; a restart and a pod that is away included."""
    assert pods.silent == database.silent == 1
    assert pods.total > 100
    assert database.total == pytest.approx(pods.total, rel=0.35)
    assert database.per_second == pytest.approx(pods.per_second, rel=0.35)
    assert database.error_rate == pytest.approx(pods.error_rate, abs=0.03)
    assert database.quantile(0.95) == pytest.approx(pods.quantile(0.95), rel=0.1)
    assert database.within(0.1) == pytest.approx(pods.within(0.1), abs=0.05)
    assert pods.revisions == database.revisions


async def nothing_is_unknown(session: aiohttp.ClientSession, prometheus: str) -> None:
    """Of a deployment that nobody scrapes nothing is known, whoever is asked; nor from a Prometheus that is away."""
    other = Key(MODEL_DEPLOYMENT, "ns", "another")
    for address in (prometheus, "http://127.0.0.1:1"):
        scraper = Scraper()
        scraper.ask(other, [])
        await scraper.look(session, Settings(prometheus=address))
        found = scraper.ask(other, [])
        assert (found.per_second, found.error_rate, found.quantile(0.95)) == (None, None, None)
