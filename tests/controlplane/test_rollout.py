"""Rollouts against a real API server, with an operator that dies at every write; a played gateway counts requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from typing import Any

import pytest
from aiohttp import web
from fovea_api.gateway import GatewayConfig
from fovea_operator import scraping
from fovea_operator.objects import MODEL_DEPLOYMENT
from fovea_serving.gateway.metrics import Metrics
from fovea_serving.gateway.routing import Routing, Version

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

__all__ = ["kuberay_crds", "world"]  # fixtures
ROLLOUT = {
    "strategy": "Canary",
    "steps": [10, 50],
    "interval": "2s",
    "minRequests": 500,
    "gates": [{"metric": "errorRate", "max": 0.01}],
}
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

    @property
    def story(self) -> list[dict[str, float]]:
        """The weights, each once in a row."""
        return [dict(weights) for weights, _ in groupby(self.weights)]


@pytest.fixture
async def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    gateway = Gateway(world)

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=gateway.metrics.text())

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr(scraping, "GATEWAY_METRICS_PORT", runner.addresses[0][1])
    running = asyncio.create_task(gateway.run())
    yield gateway
    running.cancel()
    await runner.cleanup()


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
    async with world.operator(**SETTINGS):
        await world.apply(deployment(FIRST, rollout=ROLLOUT))
        await serves(world, FIRST)
    gateway.weights.clear()
    await world.apply(deployment(SECOND, rollout=ROLLOUT))


async def test_an_operator_that_dies_at_every_write_promotes_step_by_step(world: World, gateway: Gateway) -> None:
    await second_is_tried(world, gateway)
    await dying(world, lambda: status(world)["stable"]["bundle"] == SECOND and "retiring" not in status(world))
    async with world.operator(**SETTINGS):
        await world.until(lambda: len(applications(world)) == 1)
        await world.until(lambda: gateway.weights[-1] == ((SECOND, 100.0),))
    expected = [{FIRST: 100}, {FIRST: 90, SECOND: 10}, {FIRST: 50, SECOND: 50}, {SECOND: 100}]
    assert gateway.story == expected, "no step is passed over, and none is taken back"


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
