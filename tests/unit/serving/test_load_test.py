"""A load test of a version that gets no requests: a real bundle, asked as the configuration says, counted apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fovea_api.bundle import BundleManifest
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_operator.measurement import Load, Measured, read_sample
from fovea_serving.bundle import load_bundle
from fovea_serving.gateway import configuration, load_test
from fovea_serving.gateway.configuration import Follower, Surroundings
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams import Answer, PredictOptions, Upstream, UpstreamUnavailable
from fovea_serving.upstreams.base import DEFAULTS
from fovea_serving.upstreams.local import LocalUpstream

from tests.unit.serving.conftest import PATIENT, UNHURRIED

HOST = "gateway-0"
LONGEST_SECONDS = 120.0
"""For what will happen; it only ends a hang."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_test, "WARM_UP_SECONDS", 0.05)
    monkeypatch.setattr(load_test, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(load_test, "RETRY_SECONDS", 0.05)


class Model(LocalUpstream):
    """The bundle's network; `before` may hang or fail first."""

    before: Callable[[], Any] = staticmethod(lambda: None)
    closed = 0

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        if (found := type(self).before()) is not None:
            await found
        return await super().predict(images, options)

    async def close(self) -> None:
        await super().close()
        type(self).closed += 1


class Follows:
    """A gateway without a version that follows configurations."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.gateway = Gateway(settings=UNHURRIED)
        self.follower = Follower(self.gateway, Surroundings(host=HOST))

    def config(self, test: dict[str, Any] | None, **more: Any) -> GatewayConfig:
        version = {"name": "r-1", "role": "Candidate", "runtime": "RayServe", "address": "http://r-1"}
        version["bundle"] = f"file://{self.bundle}"
        content = {"namespace": "team", "deployment": "colours", "authentication": {"type": "None"}}
        content["inference"] = PATIENT.to_dict()
        if test is not None:
            given = {"id": "t", "gateways": [HOST], "seconds": 0.5, "version": version}
            content |= {"loadTest": given | test}
        return GatewayConfig.model_validate(content | more)

    def reported(self, test: str = "t") -> Load:
        """What the operator reads of it."""
        return Measured(samples={"pod": [read_sample(self.gateway.metrics.text().decode(), 0.0)]}).load(test)

    async def ended(self, test: str = "t") -> Load:
        async with asyncio.timeout(LONGEST_SECONDS):
            while not self.reported(test).finished:
                await asyncio.sleep(0.02)
        return self.reported(test)


@pytest.fixture
async def tested(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Follows]:
    predictor = Predictor.from_bundle(load_bundle(bundle), threads=1)

    def open_upstream(served: ServedVersion, manifest: BundleManifest, config: GatewayConfig) -> Upstream:
        return Model(predictor)

    monkeypatch.setattr(configuration, "open_upstream", open_upstream)
    monkeypatch.setattr(Model, "before", staticmethod(lambda: None))
    monkeypatch.setattr(Model, "closed", 0)
    tested = Follows(bundle)
    yield tested
    await tested.follower.apply(tested.config(None))
    await tested.gateway.close()


async def test_a_real_bundle_is_asked_at_the_rate_and_counted_apart(tested: Follows) -> None:
    limit = {"latencyP95Milliseconds": 3456}
    given = tested.config({"ratePerSecond": 40, "gateways": [HOST, "gateway-1"], "seconds": 1}, objectives=limit)
    await tested.follower.apply(given)
    load = await tested.ended()
    assert set(load.requests) == {"200"}
    assert 0 < load.answered <= 20, "half of the rate, for the other gateway asks too"
    assert 0 < load.answered_per_second <= 20
    assert 3.456 in load.buckets
    assert load.buckets[float("inf")] == load.answered
    text = tested.gateway.metrics.text().decode()
    counted = [
        line for line in text.splitlines() if line.startswith(("fovea_serving_request", "fovea_serving_rollout"))
    ]
    assert counted == [], "these are nobody's requests"
    assert Model.closed == 1
    await tested.follower.apply(given.model_copy(update={"reason": "another"}))
    await asyncio.sleep(0.2)
    assert tested.reported() == load, "it is run once"


async def test_without_a_rate_it_asks_one_after_the_other(tested: Follows) -> None:
    at_work, most = 0, 0

    async def count() -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.01)
        at_work -= 1

    Model.before = staticmethod(count)
    await tested.follower.apply(tested.config({}))
    assert (await tested.ended()).answered > 3
    assert most == 1


async def test_one_that_hangs_or_fails_is_what_the_test_shows(tested: Follows) -> None:
    Model.before = staticmethod(asyncio.Event().wait)
    await tested.follower.apply(tested.config({"ratePerSecond": 20}, inference={"timeoutSeconds": 0.1}))
    load = await tested.ended()
    assert set(load.requests) == {"504"}
    assert load.buckets[0.05] == 0
    assert load.buckets[float("inf")] == load.failed, "those that were given up are slow ones"

    async def refuse() -> None:
        raise UpstreamUnavailable("it starts")

    Model.before = staticmethod(refuse)
    await tested.follower.apply(tested.config({"ratePerSecond": 20, "id": "u"}))
    assert set((await tested.ended("u")).requests) == {"503"}
    assert tested.reported("t").finished == 0, "the test before is forgotten"


async def test_only_those_that_are_named_take_part(tested: Follows) -> None:
    await tested.follower.apply(tested.config({"gateways": ["gateway-1"]}))
    await asyncio.sleep(0.2)
    assert "load_test_finished{" not in tested.gateway.metrics.text().decode()


async def test_it_is_broken_off_when_it_is_no_longer_asked_for(tested: Follows) -> None:
    await tested.follower.apply(tested.config({"seconds": 3600, "ratePerSecond": 50}))
    async with asyncio.timeout(LONGEST_SECONDS):
        while "load_test_requests_total{" not in tested.gateway.metrics.text().decode():
            await asyncio.sleep(0.02)
    await tested.follower.apply(tested.config(None))
    assert Model.closed == 1
    assert tested.reported().finished == 0


async def test_a_bundle_that_cannot_be_read_holds_up_nothing_and_is_not_reported(
    tested: Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_test, "OPEN_SECONDS", 0.2)
    tested.bundle = tested.bundle.with_name("absent")
    await tested.follower.apply(tested.config({}))
    assert tested.gateway.configured
    await asyncio.sleep(0.6)
    assert tested.reported().finished == 0


def test_throughput_is_not_held_down_by_latency_or_by_a_single_late_answer() -> None:
    slow_but_steady = [0.7 + number / 20 for number in range(200)]
    assert load_test.answering_time(slow_but_steady, 10) == 10
    assert load_test.answering_time([*slow_but_steady[:-1], 20.0], 10) == 10
    assert load_test.answering_time([0.1 + number / 7 for number in range(100)], 10) == pytest.approx(100 / 7, rel=0.02)
    assert load_test.answering_time([], 10) == 10
