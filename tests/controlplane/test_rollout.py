"""Rollouts against a real API server: with an operator that dies at every write, where a played gateway counts, and by
a real gateway with real bundles. KubeRay is played."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from aiohttp import web
from fovea_api.bundle import BundleManifest
from fovea_api.common import Task
from fovea_api.errors import FoveaError
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_operator import scraping
from fovea_operator.kinds.modeldeployment import load_test as operator_load_test
from fovea_operator.objects import MODEL_DEPLOYMENT, RAY_SERVICE
from fovea_serving.bundle import load_bundle
from fovea_serving.gateway import configuration
from fovea_serving.gateway import load_test as gateway_load_test
from fovea_serving.gateway.configuration import Follower, Surroundings
from fovea_serving.gateway.gateway import Gateway as RealGatewayState
from fovea_serving.gateway.metrics import Metrics
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams import Answer, PredictOptions
from fovea_serving.upstreams.base import DEFAULTS
from fovea_serving.upstreams.local import LocalUpstream
from fovea_store import StorePath
from kubernetes.client import ApiException

from tests.candidates import slow, with_network, wrong
from tests.controlplane.test_modeldeployment import (
    FIRST,
    SECOND,
    SETTINGS,
    applications,
    config,
    deployment,
    loaded,
    serves,
    status,
)
from tests.controlplane.test_operator import World, kuberay_crds, world
from tests.unit.serving.conftest import write_bundle, write_detector

__all__ = ["kuberay_crds", "world"]  # fixtures
ROLLOUT = {
    "strategy": "Canary",
    "steps": [10, 50],
    "interval": "2s",
    "minRequests": 500,
    "gates": [{"metric": "errorRate", "max": 0.01}],
}
PHOTO = cv2.imencode(".png", np.full((24, 32, 3), 10, np.uint8))[1].tobytes()
Weights = tuple[tuple[str, float], ...]


class Gateway:
    """Follows its ConfigMap, answers a hundred requests every 50 ms, and counts them as a real gateway does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.metrics = Metrics(world.namespace, "cells")
        self.routing = Routing()
        self.failing = 0.0
        """Share of the candidate's requests that fail."""
        self.weights: list[Weights] = []
        """All that it was given, by bundle, one after the other."""
        self.load_tests: list[str] = []
        """Those that it was asked for."""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # there is no ConfigMap yet
                self.follow(GatewayConfig.model_validate(await asyncio.to_thread(config, self.world)))
            for version in self.routing.versions if self.routing.on_trial is not None else ():
                for number in range(round(version.weight)):
                    failed = version.role == "Candidate" and number < self.failing * version.weight
                    self.metrics.tested(version, 500 if failed else 200, 0.01)
            await asyncio.sleep(0.05)

    def follow(self, given: GatewayConfig) -> None:
        weights = tuple((version.bundle, version.weight) for version in given.versions)
        if given.revision != self.routing.revision:
            versions = [Version(each.name, each.role, each.weight, None) for each in given.versions]  # type: ignore[arg-type]
            self.routing = Routing(versions, revision=given.revision)
            self.metrics.routing(self.routing)
        if weights:
            self.weights.append(weights)
        if given.load_test is not None and given.load_test.id not in self.load_tests:
            self.load_tests.append(given.load_test.id)
            labels = (self.world.namespace, "cells", given.load_test.version.name, given.load_test.id)
            self.metrics.load_test.begin(labels, None)
            for _ in range(100):
                self.metrics.load_test.request(labels, 200, 0.01)
            self.metrics.load_test.end(labels, given.load_test.seconds)

    @property
    def story(self) -> list[dict[str, float]]:
        """The weights, each once in a row."""
        return [dict(weights) for weights, _ in groupby(self.weights)]


@asynccontextmanager
async def scraped(gateway: Gateway | RealGateway, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """While a gateway runs and its metrics are where the operator looks for them."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=gateway.metrics.text())

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr(scraping, "GATEWAY_METRICS_PORT", runner.addresses[0][1])
    running = asyncio.create_task(gateway.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        await runner.cleanup()


@pytest.fixture
async def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    gateway = Gateway(world)
    async with scraped(gateway, monkeypatch):
        yield gateway


def opened_here(served: ServedVersion, manifest: BundleManifest, given: GatewayConfig) -> LocalUpstream:
    return LocalUpstream(Predictor.from_bundle(load_bundle(served.bundle.removeprefix("file://")), threads=1))


@pytest.fixture
async def real(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RealGateway]:
    monkeypatch.setattr(configuration, "open_upstream", opened_here)
    real = RealGateway(world)
    async with scraped(real, monkeypatch):
        yield real
    await real.gateway.close()


class RealGateway:
    """A real gateway that follows its ConfigMap; the bundles are loaded in this process in Ray Serve's place."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gateway = RealGatewayState()
        self.metrics = self.gateway.metrics
        self.failed: dict[str, str] = {}
        """The error of each request that failed, by its id."""
        self.answered = 0
        self.asked: set[str] = set()
        """Bundles that requests were sent to."""

    async def run(self) -> None:
        follower, last = Follower(self.gateway, Surroundings(host="played-gateway")), None
        clients = [asyncio.create_task(self.ask()) for _ in range(3)]
        try:
            while True:
                with contextlib.suppress(ApiException):  # there is no ConfigMap yet
                    if (given := await asyncio.to_thread(config, self.world)) != last:
                        self.asked |= {each["bundle"] for each in given.get("versions", ())}
                        await follower.apply(GatewayConfig.model_validate(given))
                        last = given
                await asyncio.sleep(0.1)
        finally:
            for client in clients:
                client.cancel()

    async def ask(self) -> None:
        while True:
            name = uuid.uuid4().hex
            try:
                with self.gateway.call(name, "somebody") as call:
                    await self.gateway.predict(call, [PHOTO], lambda manifest, given: given)
                self.answered += 1
            except FoveaError as error:
                if self.gateway.routing.versions:
                    self.failed[name] = error.reason
            await asyncio.sleep(0.01)


async def dying(world: World, is_over: Callable[[], bool]) -> None:
    """One operator after the other, cut off from the API server after its first, second or third write: of an event
    and the status after it, which the next one writes again, each is the last in turn."""
    for number in range(100):
        world.writes.clear()
        world.fail_after = 1 + number % 3
        async with world.operator(**SETTINGS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(4):
                    while len(world.writes) < world.fail_after:
                        await asyncio.sleep(0.02)
                    await asyncio.sleep(0.05)
        await asyncio.to_thread(load_what_is_asked_for, world)
        if await asyncio.to_thread(is_over):
            world.fail_after = None
            return
    raise AssertionError(f"a hundred operators died; {status(world)}")


def load_what_is_asked_for(world: World) -> None:
    if applications(world):
        loaded(world)


async def second_is_tried(world: World, gateway: Gateway) -> None:
    more: dict[str, Any] = {"rollout": ROLLOUT, "objectives": {"latencyP95Milliseconds": 1000}}
    async with world.operator(**SETTINGS):
        await world.apply(deployment(FIRST, **more))
        await serves(world, FIRST)
    gateway.weights.clear()
    gateway.load_tests.clear()
    await world.apply(deployment(SECOND, **more))


async def test_an_operator_that_dies_at_every_write_promotes_step_by_step(world: World, gateway: Gateway) -> None:
    await second_is_tried(world, gateway)
    await dying(world, lambda: status(world)["stable"]["bundle"] == SECOND and "retiring" not in status(world))
    async with world.operator(**SETTINGS):
        await world.until(lambda: len(applications(world)) == 1)
        await world.until(lambda: gateway.weights[-1] == ((SECOND, 100.0),))
    expected = [{FIRST: 100}, {FIRST: 90, SECOND: 10}, {FIRST: 50, SECOND: 50}, {SECOND: 100}]
    assert gateway.story == expected, "no step is passed over, and none is taken back"
    assert len(gateway.load_tests) == 1
    assert status(world)["stable"]["loadTest"]["requests"] == 100


async def test_an_operator_that_dies_at_every_write_takes_a_bad_candidate_out(world: World, gateway: Gateway) -> None:
    gateway.failing = 0.5
    await second_is_tried(world, gateway)
    before: Any = status(world)["stable"]
    await dying(world, lambda: "rolledBack" in status(world) and "retiring" not in status(world))
    async with world.operator(**SETTINGS):
        await world.until(lambda: len(applications(world)) == 1)
        await world.until(lambda: gateway.weights[-1] == ((FIRST, 100.0),))
        await world.until(lambda: world.ready(MODEL_DEPLOYMENT, "cells")["status"] == "True")
        assert gateway.story == [{FIRST: 100}, {FIRST: 90, SECOND: 10}, {FIRST: 100}]
        assert status(world)["stable"] == before
        assert status(world)["rolledBack"]["reason"] == "GateFailed"
        found = {each["type"]: each for each in status(world)["conditions"]}
        assert (found["Stalled"]["status"], found["Stalled"]["reason"]) == ("True", "RolledBack")
        described = await asyncio.to_thread(
            world.plane.kubectl, "-n", world.namespace, "describe", "modeldeployment", "cells"
        )
        for words in ("RolloutStarted", "StepStarted", "RolledBack", "errorRate, is 0.5"):
            assert words in described


async def test_real_bundles_behind_a_real_gateway(world: World, real: RealGateway, tmp_path: Path) -> None:
    """A wrong and a slow one are taken out, a good one takes over; requests fail in the wrong one's share alone."""
    stable = write_bundle(tmp_path, lambda folder: write_detector(folder / "model.onnx"), Task.DETECTION)
    gates = [{"metric": "errorRate", "max": 0.1}, {"metric": "latencyP95Milliseconds", "max": 1500}]
    rollout = ROLLOUT | {"steps": [50], "minRequests": 80, "confidence": 0.9, "gates": gates}
    more: dict[str, Any] = {"rollout": rollout, "authentication": {"type": "None"}, "inference": {"timeoutSeconds": 20}}
    source, target = StorePath.parse(str(stable)), StorePath.parse(str(tmp_path / "candidates"))
    bad = {
        kind: f"file://{with_network(source, target, edit)}"
        for kind, edit in (("wrong", wrong(PHOTO)), ("slow", slow(3)))
    }
    (tmp_path / "copies").mkdir()
    good = tmp_path / "copies" / stable.name
    source.download_tree(good)
    falls = Routing([Version("stable", "Stable", 50, None), Version("new", "Candidate", 50, None)])  # type: ignore[arg-type]

    async def rolled_out(uri: str, ended: Callable[[], bool]) -> dict[str, str]:
        before = dict(real.failed)
        await world.apply(deployment(uri, **more))
        for _ in range(480):
            await asyncio.to_thread(load_what_is_asked_for, world)
            if await asyncio.to_thread(ended):
                return {name: reason for name, reason in real.failed.items() if name not in before}
            await asyncio.sleep(0.5)
        raise AssertionError(f"it never ended: {status(world)}")

    def is_rolled_back(uri: str) -> bool:
        return bool(status(world).get("rolledBack", {}).get("bundle") == uri and "retiring" not in status(world))

    async with world.operator(**SETTINGS):
        await world.apply(deployment(f"file://{stable}", **more))
        await serves(world, f"file://{stable}")
        await world.until(lambda: real.answered > 20)
        before = status(world)["stable"]
        for kind, uri in bad.items():
            failed = await rolled_out(uri, lambda it=uri: is_rolled_back(it))  # type: ignore[misc]
            assert bool(failed) == (kind == "wrong"), failed
            assert {falls.choose(name).name for name in failed} <= {"new"}, "a request to stable failed"
            assert status(world)["rolledBack"]["message"].startswith("errorRate" if kind == "wrong" else "latencyP95")
            assert status(world)["stable"] == before
        failed = await rolled_out(f"file://{good}", lambda: status(world)["stable"]["bundle"] == f"file://{good}")
        assert failed == {}


class Slow(LocalUpstream):
    """A runtime that takes its time."""

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        await asyncio.sleep(1)
        return await super().predict(images, options)


async def test_a_version_that_is_too_slow_under_load_gets_no_request(
    world: World, real: RealGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable = write_bundle(tmp_path, lambda folder: write_detector(folder / "model.onnx"), Task.DETECTION)
    copy = tmp_path / "slow" / stable.name
    StorePath.parse(str(stable)).download_tree(copy)
    candidate = f"file://{copy}"

    def opened(served: ServedVersion, manifest: BundleManifest, given: GatewayConfig) -> LocalUpstream:
        upstream = Slow if served.bundle == candidate else LocalUpstream
        return upstream(Predictor.from_bundle(load_bundle(stable), threads=1))

    monkeypatch.setattr(configuration, "open_upstream", opened)
    monkeypatch.setattr(operator_load_test, "LEAST_SECONDS", 5)
    monkeypatch.setattr(gateway_load_test, "WARM_UP_SECONDS", 0.1)
    objectives = {"latencyP95Milliseconds": 500}
    more: dict[str, Any] = {"rollout": ROLLOUT, "objectives": objectives, "authentication": {"type": "None"}}
    async with world.operator(**SETTINGS):
        await world.apply(deployment(f"file://{stable}", **more))
        await serves(world, f"file://{stable}")
        assert status(world)["stable"]["loadTest"]["requests"] > 0
        await world.apply(deployment(candidate, **more))
        await world.until(lambda: candidate in str(world.get(RAY_SERVICE, "cells")))
        await asyncio.to_thread(loaded, world)
        await world.until(lambda: "rolledBack" in status(world))
        failed = status(world)["rolledBack"]
        assert (failed["reason"], failed["bundle"]) == ("ObjectivesMissed", candidate)
        assert "latencyP95Milliseconds is" in failed["message"]
        assert real.asked == {f"file://{stable}"}
        assert real.failed == {}
