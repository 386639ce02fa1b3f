"""A candidate beside the stable version: what is counted of both, what is asked twice, and that it costs nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytest_asyncio
from fovea_api.bundle import BundleManifest
from fovea_serving.bundle import Bundle, load_bundle
from fovea_serving.gateway import gateway, trial
from fovea_serving.gateway.gateway import Call, Gateway
from fovea_serving.gateway.routing import Role, Routing, Served, Version
from fovea_serving.gateway.settings import Settings
from fovea_serving.pipeline import Classification
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams import Answer, InvalidOptions, Overloaded, PredictOptions, UpstreamFailed
from fovea_serving.upstreams.base import DEFAULTS
from fovea_serving.upstreams.local import LocalUpstream

from tests.unit.serving.conftest import PATIENT, UNHURRIED
from tests.unit.serving.test_gateway import read_samples

Spoil = Callable[[list[Answer]], list[Answer]]


class Model(LocalUpstream):
    """A real model whose answers a test may hold up, replace or forbid."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor)
        self.asked = 0
        self.error: Exception | None = None
        self.spoil: Spoil = lambda answers: answers
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        self.asked += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return self.spoil(await super().predict(images, options))


class World:
    """A gateway with the models `stable` and `new`."""

    def __init__(self, bundle: Bundle) -> None:
        predictor = Predictor.from_bundle(bundle, threads=1)
        self.bundle = bundle
        self.models = {name: Model(predictor) for name in ("stable", "new")}
        self.gateway = Gateway(PATIENT, UNHURRIED)
        self.gateway.metrics.describe("team", "colours", None)
        self.image = cv2.imencode(".png", np.full((20, 30, 3), (250, 20, 20), np.uint8))[1].tobytes()

    def route(self, weight: float, role: Role = "Candidate", mirrored: float = 0.0) -> None:
        def version(name: str, role: Role, weight: float) -> Version:
            served = Served.of(self.bundle.manifest, self.bundle.digest, self.models[name])
            return Version(name, role, weight, served, (0.001, 1e6))

        versions = [version("stable", "Stable", 100 - weight), version("new", role, weight)]
        self.gateway.route(Routing(versions, mirrored=mirrored, revision="r-7"))

    async def ask(self, count: int, choice: trial.Choice | None = None) -> list[str]:
        """The versions that answered; empty for each error. Copies have been answered too."""
        found = await self.answers(count, choice)
        await self.settle()
        return found

    async def answers(self, count: int, choice: trial.Choice | None = None) -> list[str]:
        """The same while copies are under way."""

        def defaults(manifest: BundleManifest, given: PredictOptions) -> PredictOptions:
            return given

        async def one(number: int) -> str:
            try:
                with self.gateway.call(f"request-{number}", "somebody") as call:
                    return (await self.gateway.predict(call, [self.image], choice or defaults)).version.name
            except Exception:
                return ""

        return [await one(number) for number in range(count)]

    async def settle(self) -> None:
        while self.gateway._background:
            await asyncio.gather(*self.gateway._background)

    def counted(self, name: str, run: str, role: str, **labels: str) -> float:
        where = {"namespace": "team", "deployment": "colours", "run": run, "role": role} | labels
        return read_samples(self.gateway.metrics)[(f"fovea_serving_rollout_{name}_total", *sorted(where.items()))]


@pytest_asyncio.fixture
async def world(bundle: Path) -> AsyncIterator[World]:
    world = World(load_bundle(bundle))
    yield world
    for model in world.models.values():
        model.go_on.set()
    await world.gateway.close()


async def test_what_both_answer_is_counted_with_failures_and_what_is_over_a_limit(world: World) -> None:
    world.route(25)
    assert world.counted("requests", "new", "candidate") == world.counted("failures", "stable", "stable") == 0
    answered = await world.ask(80)
    of_new = answered.count("new")
    assert 8 < of_new < 35
    assert world.counted("requests", "new", "candidate") == of_new
    assert world.counted("requests", "stable", "stable") == 80 - of_new
    assert world.counted("slow", "new", "candidate", milliseconds="0.001") == of_new
    assert world.counted("slow", "new", "candidate", milliseconds="1e+06") == 0
    world.models["new"].error = UpstreamFailed("it broke")
    assert (await world.ask(80)).count("") == of_new, "the same ids fall to it"
    assert world.counted("failures", "new", "candidate") == of_new
    assert world.counted("failures", "stable", "stable") == 0


async def test_what_was_wrong_tests_nobody(world: World) -> None:
    world.route(50)
    world.models["new"].error = InvalidOptions("no such class")
    failed = (await world.ask(20)).count("")
    assert failed > 3
    assert world.counted("requests", "new", "candidate") == world.counted("failures", "new", "candidate") == 0


@pytest.mark.parametrize("by", ["runtime", "gateway"])
async def test_what_a_candidate_turns_away_counts_if_stable_had_room_for_it(world: World, by: str) -> None:
    world.route(50)
    if by == "runtime":
        world.models["new"].error = Overloaded("full")
    else:
        world.gateway.admission_of_candidate.at_work = 10_000
    shed = (await world.ask(20)).count("")
    assert shed > 3
    assert world.counted("shed", "new", "candidate") == shed
    assert world.counted("requests", "new", "candidate") == world.counted("failures", "new", "candidate") == 0
    world.gateway.admission.at_work = 10_000
    assert set(await world.ask(20)) == {""}
    assert world.counted("shed", "new", "candidate") == shed, "too much load is the fault of neither"
    assert world.counted("failures", "stable", "stable") == 0
    world.gateway.admission.at_work = world.gateway.admission_of_candidate.at_work = 0


async def test_where_both_turn_requests_away_there_is_too_much_load(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At such times the gateway sees room at the stable version again and again, or all the time: a queue of its
    runtime is full."""
    monkeypatch.setattr(gateway, "SHED_SECONDS", 3600.0)
    world.route(50)
    world.models["stable"].error = Overloaded("full")
    assert "" in await world.ask(20)
    world.models["new"].error, world.models["stable"].error = Overloaded("full"), None
    assert "" in await world.ask(20)
    assert world.counted("shed", "new", "candidate") == 0


async def test_what_waits_for_room_was_not_turned_away(world: World) -> None:
    """An image of a batch."""
    world.route(50)
    world.gateway.admission_of_candidate.at_work = 10_000
    of_new = next(name for name in map(str, range(50)) if world.gateway.routing.choose(name).role == "Candidate")
    with pytest.raises(Overloaded), world.gateway.call(of_new, "somebody", waits=True) as call:
        await world.gateway.predict(call, [world.image], lambda manifest, given: given)
    assert world.counted("failures", "new", "candidate") == 0
    world.gateway.admission_of_candidate.at_work = 0


async def test_without_a_candidate_nothing_is_counted(world: World) -> None:
    world.route(0)
    world.gateway.route(Routing(world.gateway.routing.versions[:1]))
    await world.ask(3)
    samples = read_samples(world.gateway.metrics)
    found = {key[0]: value for key, value in samples.items() if key[0].startswith("fovea_serving_rollout")}
    assert not any(value for name, value in found.items() if name.endswith("_total"))


async def test_an_id_that_fell_to_the_candidate_does_so_at_a_larger_weight(world: World) -> None:
    before: set[int] = set()
    for weight in (5, 25, 50):
        world.route(weight)
        fell = {number for number in range(400) if world.gateway.routing.choose(f"request-{number}").name == "new"}
        assert before < fell
        before = fell


def turned(answers: list[Answer]) -> list[Answer]:
    """Another class for each image."""
    return [
        replace(answer, prediction=Classification(np.roll(answer.prediction.probabilities, 1)))  # type: ignore[attr-defined]
        for answer in answers
    ]


async def test_a_share_of_the_candidates_requests_is_asked_of_stable_too_and_compared(world: World) -> None:
    world.route(50, mirrored=0.4)
    answered = await world.ask(100)
    of_new = answered.count("new")
    same = world.counted("compared", "new", "candidate", answers="same")
    assert 0.15 * of_new < same < 0.7 * of_new
    assert world.models["stable"].asked == answered.count("stable") + same
    assert world.counted("requests", "stable", "stable") == answered.count("stable"), "copies are nobody's requests"
    world.models["new"].spoil = turned
    await world.ask(100)
    assert world.counted("compared", "new", "candidate", answers="different") == same, "the same ids are mirrored"
    world.models["stable"].error = UpstreamFailed("away")
    assert "new" in await world.ask(20)
    assert world.counted("compared", "new", "candidate", answers="same") == same


async def test_a_shadow_is_tested_by_the_requests_that_were_copied(world: World) -> None:
    world.route(0, "Shadow")
    assert set(await world.ask(10)) == {"stable"}
    for run, role in (("stable", "stable"), ("new", "shadow")):
        assert world.counted("requests", run, role) == 10
    assert world.counted("compared", "new", "shadow", answers="same") == 10
    world.models["new"].error = UpstreamFailed("it broke")
    assert set(await world.ask(10)) == {"stable"}, "nobody hears of it"
    assert world.counted("failures", "new", "shadow") == 10
    world.models["new"].error, world.models["stable"].error = None, UpstreamFailed("it broke")
    assert set(await world.ask(10)) == {""}
    assert (world.counted("requests", "new", "shadow"), world.counted("failures", "stable", "stable")) == (30, 10)


async def test_a_shadow_that_refuses_what_stable_answers_fails_and_one_that_is_full_does_not(world: World) -> None:
    world.route(0, "Shadow")
    world.models["new"].error = InvalidOptions("no such class")
    assert set(await world.ask(10)) == {"stable"}
    assert world.counted("failures", "new", "shadow") == world.counted("requests", "stable", "stable") == 10
    world.models["stable"].error = UpstreamFailed("it broke")
    await world.ask(10)
    world.models["stable"].error, world.models["new"].error = None, Overloaded("full")
    await world.ask(10)
    assert world.counted("requests", "new", "shadow") == world.counted("requests", "stable", "stable") == 10


async def test_a_request_is_answered_though_it_cannot_be_monitored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.route(0, "Shadow")
    monkeypatch.setattr(world.gateway.monitor, "metrics", None)
    assert set(await world.ask(3)) == {"stable"}
    assert world.counted("requests", "new", "shadow") == 3


async def test_copies_hold_few_bytes_of_images(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MAX_COPY_BYTES", 2 * len(world.image))
    world.route(0, "Shadow")
    world.models["new"].go_on.clear()
    await world.answers(5)
    world.models["new"].go_on.set()
    await world.settle()
    assert world.counted("requests", "new", "shadow") == 2
    await world.ask(2)
    assert world.counted("requests", "new", "shadow") == 4, "those that have ended hold nothing"


async def test_a_shadow_that_hangs_slows_and_fails_no_request_and_what_is_too_much_is_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MAX_COPIES", 4)
    world.route(0, "Shadow")
    world.models["new"].go_on.clear()
    assert set(await world.answers(10)) == {"stable"}
    shed = {"namespace": "team", "deployment": "colours", "run": "new", "role": "shadow"}
    samples = read_samples(world.gateway.metrics)
    assert samples[("fovea_serving_copies_shed_total", *sorted(shed.items()))] == 6
    world.models["new"].go_on.set()
    await world.settle()
    for run, role in (("stable", "stable"), ("new", "shadow")):
        assert world.counted("requests", run, role) == 4, "both have had the same"


async def test_a_candidate_that_hangs_turns_no_request_to_stable_away(world: World) -> None:
    world.gateway._settings = Settings(max_wait_seconds=0.001, max_at_work=8)
    world.route(50)
    world.gateway.admission = world.gateway.new_admission()
    world.gateway.admission_of_candidate = world.gateway.new_admission()
    world.models["new"].go_on.clear()

    async def one(number: int) -> Any:
        call = Call(f"request-{number}", "somebody")
        try:
            return (await world.gateway.predict(call, [world.image], lambda manifest, given: given)).version.name
        except Exception as error:
            return type(error).__name__

    fell = [world.gateway.routing.choose(f"request-{number}").name for number in range(60)]
    hanging = [asyncio.create_task(one(number)) for number, name in enumerate(fell) if name == "new"]
    await asyncio.sleep(0.05)
    assert {await one(number) for number, name in enumerate(fell) if name == "stable"} == {"stable"}
    world.models["new"].go_on.set()
    assert set(await asyncio.gather(*hanging)) == {"new", "Overloaded"}


async def test_the_gateway_says_which_configuration_it_follows(world: World) -> None:
    world.route(10)
    labels = {"namespace": "team", "deployment": "colours"}
    samples = read_samples(world.gateway.metrics)
    assert samples[("fovea_serving_configuration", *sorted((labels | {"revision": "r-7"}).items()))] == 1
    world.gateway.route(Routing((), revision="r-8"))
    found = [
        dict(rest)["revision"] for name, *rest in read_samples(world.gateway.metrics) if name.endswith("configuration")
    ]
    assert found == ["r-8"]
