"""A real Prometheus with the generated configuration, beside gateways and an operator that have something to show.

Of the configuration only the discovery is replaced, by files with the labels that Kubernetes' discovery would give:
Debian's Prometheus is built without it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import numpy as np
import pytest
import yaml
from aiohttp import web
from fovea_api.modeldeployment import ServiceObjectives
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
from fovea_serving.upstreams import Answer
from prometheus_client import generate_latest

from monitoring.alerts import alerts
from monitoring.dashboards import DASHBOARDS
from monitoring.scraping import GATEWAYS, OPERATOR
from tests.kube import ROOT

CONFIGURATION = ROOT / "monitoring" / "prometheus"
OWNER = Key(MODEL_DEPLOYMENT, "ns", "cells")
WINDOW = 8
"""Seconds over which the operator measures here."""


@dataclass
class Prometheus:
    """A running Prometheus."""

    address: str
    session: aiohttp.ClientSession

    async def query(self, expression: str) -> list[dict[str, Any]]:
        async with self.session.get(f"{self.address}/api/v1/query", params={"query": expression}) as answer:
            content = await answer.json()
            assert content["status"] == "success", content
            return list(content["data"]["result"])


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

    def answer(self, number: int) -> None:
        """A request: one of ten fails, one of four takes long."""
        code, reason = (503, "UpstreamUnavailable") if number % 10 == 0 else (200, "")
        self.metrics.request(self.version, code, reason, 0.15 if number % 4 == 0 else 0.03)
        detection = Detection(np.zeros((1, 4), np.float32), np.array([1]), np.array([0.9], np.float32))
        self.metrics.images(self.version, [b"0" * 22_000], [ImageHeader("JPEG", 640, 480)])
        self.metrics.answers(self.version, [Answer(detection, 640, 480, 2)])

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
    "ModelDeployment": {"replicas": 1, "conditions": [{"type": "Ready", "status": "True"}]},
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


def configure(folder: Path, pods: Mapping[str, list[tuple[str, str, str]]]) -> Path:
    """The generated configuration at one scrape a second, alerts without delay.

    `pods`: for each job address, name of the container's port, and phase.
    """
    content = yaml.safe_load((CONFIGURATION / "prometheus.yaml").read_text())
    content["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for target, job in zip((OPERATOR, GATEWAYS), content["scrape_configs"], strict=True):
        assert job["job_name"] == target.job
        assert [each["role"] for each in job.pop("kubernetes_sd_configs")] == ["pod"]
        found = [
            {
                "targets": [address],
                "labels": {
                    "__meta_kubernetes_namespace": "elsewhere",
                    "__meta_kubernetes_pod_name": f"pod-{number}",
                    "__meta_kubernetes_pod_container_port_name": port,
                    "__meta_kubernetes_pod_phase": phase,
                },
            }
            for number, (address, port, phase) in enumerate(pods[target.job])
        ]
        (folder / f"{target.job}.json").write_text(json.dumps(found))
        job["file_sd_configs"] = [{"files": [str(folder / f"{target.job}.json")]}]
    rules = yaml.safe_load((CONFIGURATION / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@asynccontextmanager
async def prometheus(configuration: Path) -> AsyncIterator[Prometheus]:
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: run `make tools`"
    port = free_port()
    command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={configuration.parent / 'data'}"]
    log = configuration.parent / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://127.0.0.1:{port}", session)
    finally:
        process.terminate()
        process.wait(20)


async def until(check: Callable[[], Any], what: str) -> None:
    for _ in range(240):
        try:
            if await check():
                return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.25)
    pytest.fail(f"timeout: {what}")


async def test_every_query_has_data_alerts_fire_and_the_operator_sees_the_same_as_in_the_pods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, first, second = free_port(), Gateway(), Gateway()
    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    monkeypatch.setattr(scraping, "GATEWAY_METRICS_PORT", port)
    operator = operator_metrics()
    pods, database = Scraper(), Scraper()
    configuration = configure(
        tmp_path,
        {
            OPERATOR.job: [(f"127.0.0.1:{port}", "http", "Running")],
            GATEWAYS.job: [
                *((f"{host}:{port}", "metrics", "Running") for host in hosts),
                ("127.0.0.5:1", "http", "Running"),
                ("127.0.0.6:1", "metrics", "Succeeded"),
            ],
        },
    )
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
        page(hosts[0], port, first.page),
        page(hosts[1], port, second.page),
        prometheus(configuration) as asked,
    ):
        loading = asyncio.create_task(load())
        settings = Settings(metrics_window_seconds=WINDOW)
        up = "up{job='fovea-gateways'} == 1"
        await until(lambda: asked.query(up), "Prometheus scrapes")
        for scraper in (pods, database):
            scraper.ask(OWNER, hosts)
        for second_of_window in range(WINDOW + 2):
            if second_of_window == WINDOW // 2:
                second.begin()
            await pods.look(asked.session, settings)
            await asyncio.sleep(1)
        await database.look(asked.session, Settings(metrics_window_seconds=WINDOW, prometheus=asked.address))
        agree(pods.ask(OWNER, hosts), database.ask(OWNER, hosts))
        await nothing_is_unknown(asked)

        assert {each["metric"]["pod"] for each in await asked.query("up{job='fovea-gateways'}")} == {
            "pod-0",
            "pod-1",
            "pod-2",
        }
        empty = [
            f"{page.name}: {panel.title}: {query.expr}"
            for page in DASHBOARDS
            for panel in page.panels
            for query in panel.queries
            if not has_values(await asked.query(substituted(query.expr)))
        ]
        empty += [alert.name for alert in alerts() if not has_values(await asked.query(alert.value))]
        assert not empty

        firing = {each["metric"]["alertname"] for each in await asked.query('ALERTS{alertstate="firing"}')}
        assert firing == {
            "FoveaObjectStalled",
            "FoveaCriteriaNotMet",
            "FoveaDatasetFindings",
            "FoveaServingErrors",
            "FoveaErrorObjectiveMissed",
            "FoveaLatencyObjectiveMissed",
        }
        stop.set()
        await loading


def agree(pods: Measured, database: Measured) -> None:
    """But for what Prometheus extrapolates to the edges of the window; a restart and a pod that is away included."""
    assert pods.silent == database.silent == 1
    assert pods.total > 100
    assert database.total == pytest.approx(pods.total, rel=0.35)
    assert database.per_second == pytest.approx(pods.per_second, rel=0.35)
    assert database.error_rate == pytest.approx(pods.error_rate, abs=0.03)
    assert database.quantile(0.95) == pytest.approx(pods.quantile(0.95), rel=0.1)
    assert database.within(0.1) == pytest.approx(pods.within(0.1), abs=0.05)
    assert pods.weights == database.weights


async def nothing_is_unknown(asked: Prometheus) -> None:
    """Of a deployment that nobody scrapes nothing is known, whoever is asked; nor from a Prometheus that is away."""
    other = Key(MODEL_DEPLOYMENT, "ns", "another")
    for address in (asked.address, "http://127.0.0.1:1"):
        scraper = Scraper()
        scraper.ask(other, [])
        await scraper.look(asked.session, Settings(prometheus=address))
        found = scraper.ask(other, [])
        assert (found.per_second, found.error_rate, found.quantile(0.95)) == (None, None, None)


def substituted(expression: str) -> str:
    for variable in ("$namespace", "$deployment", "$name"):
        expression = expression.replace(variable, ".*")
    return expression.replace("$__rate_interval", "10s")


def has_values(found: list[dict[str, Any]]) -> bool:
    return any(each["value"][1] != "NaN" for each in found)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])
