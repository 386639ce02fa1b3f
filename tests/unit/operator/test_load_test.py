"""The load test of a version before it gets requests: what is measured, what it comes to, and what the rollout does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from fovea_api.modeldeployment import DeployedVersion, LoadTest, ModelDeploymentSpec
from fovea_operator.kinds.modeldeployment import load_test
from fovea_operator.kinds.modeldeployment.load_test import advance, identity, outcome
from fovea_operator.measurement import (
    LOAD_DURATION,
    LOAD_FINISHED,
    LOAD_REQUESTS,
    LOAD_SECONDS,
    Load,
    Measured,
    Sample,
    Series,
)

from tests.unit.operator.test_modeldeployment import NEW, OLD, START, World, deployment, served, training

VERSION = DeployedVersion(name=NEW, bundle="s3://models/new")
OBJECTIVES = {"latencyP95Milliseconds": 100, "throughputPerSecond": 10, "errorRate": 0.01}


def spec(**more: Any) -> ModelDeploymentSpec:
    return ModelDeploymentSpec.model_validate(deployment(**{"objectives": OBJECTIVES, **more})["spec"])


def begun(given: ModelDeploymentSpec, replicas: int = 1, gateways: Sequence[str] = ("gateway-0",)) -> LoadTest:
    test = advance(None, given, VERSION, replicas, gateways, Load(), START)
    assert test is not None
    assert test.finished is None
    return test


def reported(fast: int = 100, slow: int = 0, seconds: float = 10.0, **failed: int) -> Load:
    """What a gateway reports: answers within and beyond 100 ms, and others by code, such as c429=3."""
    codes = {"200": float(fast + slow)} | {code[1:]: float(count) for code, count in failed.items()}
    buckets = {0.05: float(fast // 2), 0.1: float(fast), 0.2: float(fast + slow), float("inf"): float(fast + slow)}
    return Load(1, codes, buckets, (fast + slow) / seconds)


def judged(load: Load, **objectives: float) -> LoadTest:
    given = spec(objectives=objectives or OBJECTIVES)
    test = advance(begun(given), given, VERSION, 1, ["gateway-0"], load, START)
    assert test is not None
    if test.finished is None:  # a miss, which is tested once more
        test = advance(test, given, VERSION, 1, ["gateway-0"], load, START)
        assert test is not None
    assert test.finished == START
    return test


def met(test: LoadTest) -> dict[str, bool | None]:
    return {each.metric: each.met for each in test.results}


@pytest.mark.parametrize(
    ("objectives", "scaling", "replicas", "rate", "seconds"),
    [
        ({"throughputPerSecond": 10}, {}, 1, 10, 10),
        ({"throughputPerSecond": 0.5}, {}, 1, 0.5, 40),
        ({"throughputPerSecond": 0.1}, {}, 1, 0.1, 60),
        ({"throughputPerSecond": 12}, {"minReplicas": 1, "maxReplicas": 4}, 1, 3, 10),
        ({"throughputPerSecond": 12}, {"minReplicas": 0, "maxReplicas": 4}, 0, 3, 10),
        ({"errorRate": 0.1}, {}, 1, None, 10),
    ],
)
def test_the_load_is_what_is_promised_of_the_replicas_that_are_there(
    objectives: Mapping[str, float], scaling: Mapping[str, int], replicas: int, rate: float | None, seconds: float
) -> None:
    test = begun(spec(objectives=objectives, scaling=scaling), replicas)
    assert (test.rate_per_second, test.seconds) == (rate, seconds)


def test_without_objectives_nothing_is_tested() -> None:
    for given in (spec(objectives=None), spec(objectives={})):
        assert advance(None, given, VERSION, 1, ["gateway-0"], Load(), START) is None


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (reported(100), (True, True, True)),
        (reported(96, slow=4), (True, True, True)),
        (reported(93, slow=7), (None, True, True)),
        (reported(60, slow=40), (False, True, True)),
        (reported(80, c503=20), (True, False, False)),
        (reported(80, c429=20), (True, False, True)),
        (reported(10, seconds=1), (None, None, None)),
        (reported(0, slow=10), (False, None, None)),
    ],
    ids=["good", "within", "perhaps by chance", "slow", "failing", "shedding", "too few sent", "few, and all slow"],
)
def test_a_miss_needs_evidence_and_too_little_is_unknown(load: Load, expected: tuple[bool | None, ...]) -> None:
    assert tuple(met(judged(load)).values()) == expected


def test_the_result_says_what_was_done() -> None:
    test = judged(reported(60, slow=30, c503=10))
    assert (test.requests, test.failed, outcome(test)) == (100, 10, "Missed")
    for words in ("100 requests in 10 s, 10 a second", "10 answered with 503", "errorRate missed: 0.1, target 0.01"):
        assert words in test.message
    assert "errorRate is 0.1, target 0.01" in load_test.missed(test, frozenset())
    assert load_test.missed(test, frozenset(OBJECTIVES)) == "", "what serves misses the same"


def test_a_miss_has_to_be_found_twice() -> None:
    given, missed, later = spec(), reported(60, slow=40), START + timedelta(seconds=15)
    again = advance(begun(given), given, VERSION, 1, ["gateway-0"], missed, later)
    assert again is not None
    assert (again.attempt, again.started, again.finished) == (2, later, None)
    assert identity(again) != identity(begun(given)), "gateways run it anew"
    for load, expected in ((reported(), "Met"), (missed, "Missed")):
        ended = advance(again, given, VERSION, 1, ["gateway-0"], load, later)
        assert ended is not None
        assert (outcome(ended), ended.finished) == (expected, later)


def test_it_waits_for_all_gateways_but_not_for_ever() -> None:
    given = spec()
    test = begun(given, gateways=["gateway-0", "gateway-1"])
    most = timedelta(seconds=test.seconds + given.inference.timeout_seconds + load_test.GRACE_SECONDS)
    assert advance(test, given, VERSION, 1, ["gateway-0"], reported(), START + most * 0.99) == test
    ended = advance(test, given, VERSION, 1, ["gateway-0"], reported(), START + most)
    assert ended is not None
    assert (outcome(ended), set(met(ended).values())) == ("Unknown", {None})
    assert "1 of 2 gateways reported" in ended.message


def test_it_begins_when_there_is_a_gateway() -> None:
    given = spec()
    waiting = begun(given, gateways=())
    later = START + timedelta(seconds=30)
    assert advance(waiting, given, VERSION, 1, (), Load(), later) == waiting
    test = advance(waiting, given, VERSION, 1, ["gateway-0"], Load(), later)
    assert test is not None
    assert (test.gateways, test.started) == (("gateway-0",), later)
    ended = advance(waiting, given, VERSION, 1, (), Load(), START + timedelta(seconds=100))
    assert ended is not None
    assert "no gateway was ready" in ended.message


def test_it_is_repeated_for_other_resources_and_for_nothing_else() -> None:
    test = judged(reported())
    for same in (spec(), spec(rollout={"strategy": "Recreate"}, authentication={"type": "None"})):
        assert advance(test, same, VERSION, 1, ["gateway-0"], Load(), START) == test
    others = [
        spec(resources={"limits": {"cpu": "4"}}),
        spec(scaling={"replicas": 2}),
        spec(objectives={"errorRate": 0.5}),
        spec(inference={"batching": {"maxSize": 1}}),
    ]
    for other in others:
        again = advance(test, other, VERSION, 1, ["gateway-0"], Load(), START + timedelta(hours=1))
        assert again is not None
        assert again.finished is None
        assert identity(again) != identity(test)


def test_reports_of_gateways_are_added_and_other_tests_and_unfinished_ones_are_not() -> None:
    def sample(test: str, finished: float) -> Sample:
        counts = {
            Series(LOAD_FINISHED, NEW, "", test): finished,
            Series(LOAD_DURATION, NEW, "", test): 10.0,
            Series(LOAD_REQUESTS, NEW, "", f"{test},200"): 50.0,
            Series(LOAD_REQUESTS, NEW, "", f"{test},429"): 5.0,
            Series(LOAD_SECONDS, NEW, "", f"{test},0.1"): 45.0,
            Series(LOAD_SECONDS, NEW, "", f"{test},+Inf"): 50.0,
        }
        return Sample(0.0, counts)

    pods = {"a": [sample("t", 1)], "b": [sample("t", 1)], "c": [sample("t", 0)], "d": [sample("before", 1)], "e": []}
    load = Measured(samples=pods).load("t")
    assert (load.finished, load.total, load.answered, load.failed) == (2, 110, 100, 0)
    assert load.buckets == {0.1: 90.0, float("inf"): 100.0}
    assert load.answered_per_second == 10.0


# --- The rollout -----------------------------------------------------------------------------------------------------


def with_objectives(world: World, strategy: str = "Canary", **more: Any) -> World:
    rollout = {"strategy": strategy, "gates": [{"metric": "errorRate", "max": 0.01}], **more}
    world.value["spec"] |= {"objectives": OBJECTIVES, "rollout": rollout}
    return world


def answer(world: World, load: Load) -> None:
    """The gateway reports on the test that it is asked for."""
    given = world.config.load_test
    assert given is not None
    series = {
        Series(LOAD_FINISHED, given.version.name, "", given.id): 1.0,
        Series(LOAD_DURATION, given.version.name, "", given.id): 10.0,
    }
    series |= {Series(LOAD_REQUESTS, "", "", f"{given.id},{code}"): count for code, count in load.requests.items()}
    series |= {Series(LOAD_SECONDS, "", "", f"{given.id},{edge}"): count for edge, count in load.buckets.items()}
    world.measured = Measured(revisions={}, samples={"10.0.0.1": [Sample(world.now.timestamp(), series)]})


def miss(world: World, load: Load) -> None:
    """The gateway reports the same twice: a miss is tested once more."""
    answer(world, load)
    world.settle()
    answer(world, load)
    world.settle()


def under_load(world: World) -> World:
    """The new version is loaded, and the gateway was asked to test it."""
    world.trainings, world.running = (training(NEW, 2), *world.trainings), {*world.running, NEW}
    world.settle()
    assert world.config.load_test is not None
    assert world.config.load_test.version.name == NEW
    return world


def test_a_version_that_meets_its_objectives_goes_on_to_its_first_step() -> None:
    world = under_load(with_objectives(served()))
    assert world.config.load_test is not None
    assert world.config.load_test.gateways == ("gateway-0",)
    assert (world.answering, world.says("Reconciling")[1]) == ([OLD], "LoadTest")
    assert world.step().requeue_after is not None
    answer(world, reported(100))
    world.settle()
    assert world.config.load_test is None
    assert world.answering == [OLD, NEW]
    assert world.status["candidate"]["loadTest"]["requests"] == 100
    assert world.events[-3:] == ["RolloutStarted", "StepStarted", "LoadTestMet"]


def test_a_version_that_misses_them_gets_no_request_and_the_evidence_stays() -> None:
    world = under_load(with_objectives(served()))
    miss(world, reported(60, slow=40))
    assert {name for each in world.configs for name in [version.name for version in each.versions]} == {OLD}
    failed = world.status["rolledBack"]
    assert (failed["reason"], failed["loadTest"]["requests"]) == ("ObjectivesMissed", 100)
    assert "latencyP95Milliseconds is" in failed["message"]
    assert world.says("Stalled")[:2] == ("True", "RolledBack")
    assert {"LoadTestMissed", "RolledBack"} <= set(world.events)
    world.settle(steps=20, seconds=60)
    assert world.events.count("RolloutStarted") == 2, "it is not tried again by itself"
    world.value["metadata"]["annotations"] = {"fovea.dev/retry": "1"}
    world.settle()
    assert world.config.load_test is not None, "one that failed is tested again"


def test_it_is_paused_where_the_rollout_pauses_on_failure() -> None:
    world = under_load(with_objectives(served(), onFailure="Pause"))
    miss(world, reported(60, slow=40))
    assert (world.status["candidate"]["pause"], world.answering) == ("Failed", [OLD])


def test_the_first_version_serves_and_the_condition_says_what_it_misses() -> None:
    world = with_objectives(World(trainings=(training(OLD, 1),), running={OLD}))
    world.settle()
    assert world.answering == [], "it is tested before it serves"
    miss(world, reported(60, slow=40))
    assert world.answering == [OLD]
    status, reason, message = world.says("ObjectivesMet")
    assert (status, reason) == ("False", "ObjectivesMissedUnderLoad")
    assert "latencyP95Milliseconds is" in message
    world.value["spec"]["objectives"] = {"latencyP95Milliseconds": 900}
    world.settle()
    assert world.says("ObjectivesMet")[:2] == ("Unknown", "TooLittleMeasured"), "it spoke of other objectives"


def test_what_serves_misses_too_is_not_held_against_a_version() -> None:
    world = with_objectives(World(trainings=(training(OLD, 1),), running={OLD}))
    world.settle()
    miss(world, reported(60, slow=40))
    under_load(world)
    miss(world, reported(70, slow=30))
    assert world.answering == [OLD, NEW]


def test_recreate_replaces_untested_and_says_what_is_missed() -> None:
    world = under_load(with_objectives(served(), strategy="Recreate"))
    miss(world, reported(60, slow=40))
    assert world.status["stable"]["run"] == NEW
    assert world.says("ObjectivesMet")[0] == "False"


def test_a_test_that_no_gateway_runs_ends_unknown_and_the_rollout_goes_on() -> None:
    world = under_load(with_objectives(served()))
    world.settle(steps=9, seconds=10)
    assert world.answering == [OLD, NEW]
    assert world.events[-1] == "LoadTestUnknown"


def test_a_pause_breaks_it_off_and_it_begins_anew_afterwards() -> None:
    world = under_load(with_objectives(served()))
    assert world.config.load_test is not None
    before = world.config.load_test.id
    world.value["metadata"]["annotations"] = {"fovea.dev/rollout": f"pause/{NEW}"}
    world.settle(steps=5, seconds=60)
    assert world.config.load_test is None
    world.value["metadata"]["annotations"] = {}
    world.settle()
    assert world.config.load_test is not None
    assert world.config.load_test.id != before
