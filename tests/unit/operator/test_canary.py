"""The state machine of a rollout: tables of situations, and properties of whole rollouts that are cut off anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fovea_api.modeldeployment import (
    DeployedVersion,
    Gate,
    LoadTest,
    ModelDeploymentStatus,
    Rollout,
    RolloutPhase,
    StableVersion,
)
from fovea_operator.evidence.gates import Counts, Requests
from fovea_operator.kinds.modeldeployment.canary import Advanced, Observed, Transition, Versions, advance
from hypothesis import given, settings
from hypothesis import strategies as st

START = datetime(2026, 11, 26, tzinfo=UTC)
ROLLOUT = Rollout(gates=(Gate(metric="errorRate", max=0.01),), interval="10m", deadline="6h")


def version(name: str) -> DeployedVersion:
    return DeployedVersion(name=name, bundle=f"s3://models/{name}")


OLD = StableVersion(**dict(version("old")) | {"since": START - timedelta(days=1)})
NEW = version("new")


def requests(total: float, failed: float = 0, weight: float = 0.05) -> Counts:
    return Counts(weight, Requests(total, failed), Requests(total * 10, 0))


def weights(versions: Versions) -> dict[str, int]:
    return {each.name or "": weight for each, weight in versions.shares}


def stored(versions: Versions) -> Versions:
    """What a new operator reads after the status was written, as JSON."""
    status = ModelDeploymentStatus(
        stable=versions.stable,
        candidate=versions.candidate,
        retiring=versions.retiring,
        rolled_back=versions.rolled_back,
        rollout_command=versions.command,
    )
    return Versions.of(ModelDeploymentStatus.model_validate(status.to_dict()))


class Simulation:
    """A rollout whose operator is replaced after each look: nothing survives but the status."""

    def __init__(self, rollout: Rollout = ROLLOUT, stable: StableVersion | None = OLD) -> None:
        self.rollout = rollout
        self.versions = Versions(stable)
        self.now = START
        self.target = NEW
        self.events: list[str] = []

    def look(self, minutes: float = 1, **observed: Any) -> Transition | None:
        self.now += timedelta(minutes=minutes)
        defaults = {"ready": True, "followed": True, "drained": True, "increase": requests(400)}
        seen = Observed(self.now, **defaults | observed)
        self.versions, transition = self.advanced(seen)
        self.versions = stored(self.versions)
        if transition is not None:
            self.events.append(transition.reason)
        return transition

    def advanced(self, seen: Observed) -> Advanced:
        return advance(self.versions, self.target, self.rollout, seen)

    def looks(self, count: int, **observed: Any) -> Simulation:
        for _ in range(count):
            self.look(**observed)
        return self

    @property
    def weight(self) -> int:
        return self.versions.candidate.weight if self.versions.candidate is not None else 0

    @property
    def phase(self) -> RolloutPhase | None:
        return self.versions.candidate.phase if self.versions.candidate is not None else None

    def until(self, phase: RolloutPhase, **observed: Any) -> Simulation:
        for _ in range(100):
            if self.phase is phase:
                return self
            self.look(**observed)
        raise AssertionError(f"never {phase}: {self.events}")


class TestGoodCandidate:
    def test_goes_step_by_step_and_serves(self) -> None:
        run, weights = Simulation(), []
        for _ in range(60):
            run.look()
            weights.append(run.weight)
        assert run.events == ["RolloutStarted", "StepStarted", "StepStarted", "StepStarted", "Promoted"]
        assert sorted(set(weights)) == [0, 5, 25, 50]
        assert run.versions.stable is not None
        assert run.versions.stable.name == "new"
        assert run.versions.candidate is None

    def test_stays_at_each_step_for_the_interval(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY)
        run.looks(10)
        assert run.weight == 5
        run.looks(1)
        assert run.weight == 25

    def test_the_interval_counts_from_when_all_gateways_follow(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY, followed=False)
        run.looks(30, followed=False)
        assert run.versions.candidate is not None
        assert (run.weight, run.versions.candidate.step_started, run.versions.candidate.counts) == (5, None, {})

    def test_requests_of_the_warm_up_are_not_counted(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY)
        run.look()
        run.look(minutes=0.4, increase=requests(400, failed=400))
        assert run.versions.candidate is not None
        assert run.versions.candidate.counts == {}

    def test_waits_for_its_requests(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(40, increase=requests(20))
        assert run.weight == 5
        assert run.look(minutes=10, increase=requests(400)) is not None
        assert run.weight == 25

    def test_the_first_version_needs_no_test(self) -> None:
        run = Simulation(stable=None).looks(4)
        assert run.events == ["RolloutStarted", "Promoted"]
        assert run.versions.retiring is None

    @pytest.mark.parametrize(
        ("strategy", "events"),
        [
            ("Recreate", ["RolloutStarted", "Promoted"]),
            ("Shadow", ["RolloutStarted", "ShadowStarted", "Promoted"]),
            ("ShadowThenCanary", ["RolloutStarted", "ShadowStarted", *["StepStarted"] * 3, "Promoted"]),
        ],
    )
    def test_strategies(self, strategy: str, events: list[str]) -> None:
        run = Simulation(ROLLOUT.model_copy(update={"strategy": strategy})).looks(
            80, increase=requests(400, weight=0.5)
        )
        assert run.events == events

    def test_a_shadow_gets_no_traffic(self) -> None:
        run = Simulation(ROLLOUT.model_copy(update={"strategy": "Shadow"})).until(RolloutPhase.SHADOW).looks(5)
        assert (run.weight, weights(run.versions)) == (0, {"old": 100})


class TestBadCandidate:
    def test_is_gone_at_the_next_look(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(2)
        run.look(increase=requests(100, failed=50))
        assert run.events[-1] == "RolledBack"
        assert weights(run.versions) == {"old": 100}

    def test_the_former_state_is_back_exactly(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(15)
        run.look(increase=requests(100, failed=100))
        assert run.versions.stable == OLD
        assert run.versions.retiring is not None
        assert run.versions.retiring.name == "new"
        run.look()
        assert (run.versions.stable, run.versions.candidate, run.versions.retiring) == (OLD, None, None)

    def test_the_evidence_stands_in_status(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(2)
        run.look(increase=requests(100, failed=50))
        failed = run.versions.rolled_back
        assert failed is not None
        assert (failed.name, failed.reason, failed.step) == ("new", "GateFailed", 1)
        assert [(gate.metric, gate.outcome, gate.requests) for gate in failed.analysis] == [("errorRate", "Fail", 500)]
        assert "must be at most 0.01" in failed.message

    @pytest.mark.parametrize("phase", [RolloutPhase.LOADING, RolloutPhase.CANARY])
    def test_one_that_the_runtime_cannot_run_is_rolled_back_with_its_words(self, phase: RolloutPhase) -> None:
        run = Simulation().until(phase)
        run.look(ready=False, refused="CUDA out of memory")
        assert run.versions.rolled_back is not None
        assert run.versions.rolled_back.message == "CUDA out of memory"
        assert run.versions.stable == OLD

    def test_without_another_one_the_first_version_is_waited_for(self) -> None:
        run = Simulation(stable=None).until(RolloutPhase.LOADING, ready=False)
        run.looks(3, ready=False, refused="no such file", minutes=400)
        assert run.phase is RolloutPhase.LOADING

    def test_pause_instead_takes_its_traffic_and_keeps_it_loaded(self) -> None:
        run = Simulation(ROLLOUT.model_copy(update={"on_failure": "Pause"})).until(RolloutPhase.CANARY).looks(2)
        run.look(increase=requests(100, failed=50))
        assert (run.phase, run.weight) == (RolloutPhase.PAUSED, 0)
        assert [each.name for each in run.versions.loaded] == ["new", "old"]


class TestCounting:
    RATIO = ROLLOUT.model_copy(
        update={"gates": (Gate(metric="latencyP95Milliseconds", max_ratio_to_stable=1.2), *ROLLOUT.gates)}
    )

    def test_a_step_begins_when_it_is_known_how_fast_stable_is(self) -> None:
        run = Simulation(self.RATIO).until(RolloutPhase.CANARY)
        run.looks(3)
        assert run.versions.candidate is not None
        assert run.versions.candidate.step_started is None
        run.look(stable_latency=120.0)
        assert run.versions.candidate.stable_latency_milliseconds == 120
        assert run.versions.candidate.step_started is None, "the gateways do not count by it yet"
        run.look(stable_latency=300.0)
        assert run.versions.candidate.step_started == run.now
        assert run.versions.candidate.stable_latency_milliseconds == 120, "it stays as it was when the step began"

    def test_the_time_until_which_was_counted_is_recorded_with_the_counts(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(2, counted_until=START)
        assert run.versions.candidate is not None
        assert (run.versions.candidate.counted_until, run.versions.candidate.counts["candidate/total"]) == (START, 400)
        later = START + timedelta(hours=1)
        run.look(counted_until=later, increase=requests(-1))
        assert run.versions.candidate.counted_until == START, "what cannot be read is read again"

    def test_other_gates_begin_the_step_anew(self) -> None:
        """Gates that are changed in the light of what was counted would pass more often than they may."""
        run = Simulation().until(RolloutPhase.CANARY).looks(5, increase=requests(100, failed=1))
        assert run.versions.candidate is not None
        run.rollout = ROLLOUT.model_copy(update={"gates": (Gate(metric="errorRate", max=0.5),)})
        run.look()
        assert (run.weight, run.versions.candidate.counts) == (5, {})


class TestNothingMeasured:
    """Flagger counts "no values" as failures; with Argo NaN passes, and a metric without a condition does."""

    @pytest.mark.parametrize(
        "increase",
        [None, requests(0), Counts(0.05, Requests(float("nan"), 0)), Counts(0.05, Requests(10, 20)), requests(-5)],
    )
    @pytest.mark.parametrize(
        ("how", "on_failure", "ends"),
        [
            ("Extend", "Rollback", "RolledBack"),
            ("Extend", "Pause", "RolloutPaused"),
            ("Pause", "Rollback", "RolloutPaused"),
            ("Rollback", "Pause", "RolledBack"),
        ],
    )
    def test_waits_and_ends_by_the_deadline_as_the_spec_says(
        self, increase: Counts | None, how: str, on_failure: str, ends: str
    ) -> None:
        spec = ROLLOUT.model_copy(update={"on_inconclusive": how, "on_failure": on_failure})
        run = Simulation(spec).until(RolloutPhase.CANARY).looks(20, increase=increase, minutes=10)
        assert run.events == ["RolloutStarted", "StepStarted"]
        run.looks(20, increase=increase, minutes=10)
        assert run.events == ["RolloutStarted", "StepStarted", ends]
        assert run.versions.stable == OLD

    @pytest.mark.parametrize(("how", "ends"), [("Pause", "RolloutPaused"), ("Rollback", "RolledBack")])
    def test_enough_measured_and_undecided(self, how: str, ends: str) -> None:
        spec = ROLLOUT.model_copy(update={"on_inconclusive": how})
        run = Simulation(spec).until(RolloutPhase.CANARY).looks(12, increase=requests(200, failed=2))
        assert run.events[-1] == ends
        assert "no number would decide it" in str(run.versions)

    def test_one_bad_look_loses_nothing(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(5)
        assert run.versions.candidate is not None
        before = run.versions.candidate.counts
        run.look(increase=None)
        assert run.versions.candidate.counts == before

    def test_a_candidate_that_never_loads_ends_by_the_deadline(self) -> None:
        """Flagger: stuck progressing."""
        run = Simulation().until(RolloutPhase.LOADING).looks(40, ready=False, minutes=10)
        assert run.events == ["RolloutStarted", "RolledBack"]
        assert run.versions.rolled_back is not None
        assert run.versions.rolled_back.reason == "Inconclusive"

    def test_a_load_test_that_begins_again_and_again_ends_by_the_deadline(self) -> None:
        run = Simulation().until(RolloutPhase.LOADING)
        for _ in range(40):
            run.look(minutes=10, load_test=LoadTest(subject="s", started=run.now, seconds=10))
        assert run.events == ["RolloutStarted", "RolledBack"]
        assert run.versions.rolled_back is not None
        assert run.versions.rolled_back.load_test is None


class TestCommands:
    def test_abort_from_any_state(self) -> None:
        for strategy in ("Canary", "ShadowThenCanary"):
            for looks in range(1, 60, 9):
                run = Simulation(ROLLOUT.model_copy(update={"strategy": strategy})).looks(looks)
                if run.versions.candidate is not None:
                    run.look(command="abort/new")
                    assert run.events[-1] == "RolledBack"
                    assert run.versions.stable == OLD
                    assert weights(run.versions) == {"old": 100}

    def test_promote_skips_the_gates_but_not_the_loading(self) -> None:
        run = Simulation().until(RolloutPhase.LOADING, ready=False)
        assert run.look(ready=False, command="promote/new") is None
        run.look(command="promote/new")
        assert run.events[-1] == "Promoted"

    def test_pause_holds_the_weight_for_as_long_as_it_stands(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(3)
        run.looks(100, command="pause/new", minutes=10)
        assert (run.phase, run.weight, run.events[-1]) == (RolloutPhase.PAUSED, 5, "RolloutPaused")
        run.looks(60)
        assert run.events[-1] == "Promoted", "the time of the pause does not count towards the deadline"
        assert run.events.count("RolloutResumed") == 1

    def test_a_paused_candidate_that_fails_is_rolled_back(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(2)
        run.looks(2, command="pause/new")
        run.look(command="pause/new", increase=requests(100, failed=60))
        assert run.events[-1] == "RolledBack"

    @pytest.mark.parametrize(("on_failure", "ends"), [("Rollback", "RolledBack"), ("Pause", "RolloutPaused")])
    def test_one_that_waits_for_a_person_with_its_share_and_fails_loses_it(self, on_failure: str, ends: str) -> None:
        spec = ROLLOUT.model_copy(update={"on_inconclusive": "Pause", "on_failure": on_failure})
        run = Simulation(spec).until(RolloutPhase.PAUSED, increase=requests(200, failed=2))
        run.looks(3, increase=requests(200, failed=2))
        assert (run.phase, run.weight) == (RolloutPhase.PAUSED, 5)
        run.look(increase=requests(1000, failed=800))
        assert (run.events[-1], run.weight) == (ends, 0)
        run.looks(3, increase=requests(1000, failed=800))
        assert run.events[-2:] == ["RolloutPaused", ends]

    @pytest.mark.parametrize("command", ["abort", "abort/old", "abort/newer", "rollback/new", "new/abort", ""])
    def test_what_does_not_name_the_candidate_does_nothing(self, command: str) -> None:
        run = Simulation().until(RolloutPhase.CANARY)
        assert run.look(command=command) is None

    @pytest.mark.parametrize("verb", ["abort", "promote"])
    def test_one_that_stays_does_not_act_twice(self, verb: str) -> None:
        """Labels that stay."""
        command = f"{verb}/new"
        run = Simulation().until(RolloutPhase.CANARY)
        run.look(command=command)
        if verb == "promote":
            run.target = version("old")
            run.look(command=command)
            run.until(RolloutPhase.CANARY, command=command)
            run.looks(60, command=command)
            assert run.versions.stable is not None
            assert run.versions.stable.name == "old"
            run.target = NEW
        run.looks(3, command=command, retry="1")
        run.until(RolloutPhase.CANARY, command=command, retry="1")
        assert run.looks(3, command=command, retry="1").phase is RolloutPhase.CANARY

    def test_the_same_command_acts_again_once_it_was_removed(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY)
        run.look(command="abort/new")
        run.looks(4, retry="1")
        run.look(command="abort/new", retry="1")
        assert run.events.count("RolledBack") == 2


class TestRetry:
    def failed(self, **spec: Any) -> Simulation:
        run = Simulation(ROLLOUT.model_copy(update=spec)).until(RolloutPhase.CANARY, retry="0").looks(2, retry="0")
        run.look(increase=requests(100, failed=50), retry="0")
        return run

    @pytest.mark.parametrize("retry", ["", "0"])
    def test_a_failed_version_is_not_tried_again_by_itself(self, retry: str) -> None:
        run = self.failed()
        events = list(run.events)
        assert run.looks(50, retry=retry).events == events

    def test_but_once_for_each_new_value(self) -> None:
        """Flagger: a failed revision can never be tried again."""
        run = self.failed()
        run.until(RolloutPhase.CANARY, retry="1").looks(60, retry="1")
        assert run.events[-1] == "Promoted"

    def test_it_drains_before_it_is_loaded_again(self) -> None:
        run = self.failed()
        run.looks(5, retry="1", drained=False)
        assert run.phase is RolloutPhase.PENDING
        assert run.looks(2, retry="1").phase is RolloutPhase.LOADING or run.weight == 5

    def test_of_a_paused_one_starts_from_the_first_step(self) -> None:
        run = self.failed(on_failure="Pause")
        run.look(retry="1")
        assert (run.phase, run.weight, run.events[-1]) == (RolloutPhase.PENDING, 0, "RolloutRestarted")
        run.looks(60, retry="1")
        assert run.events[-1] == "Promoted"

    def test_a_value_too_long_for_status_is_cut(self) -> None:
        run = Simulation().looks(2, retry="x" * 1000)
        assert run.versions.candidate is not None
        assert len(run.versions.candidate.retry) == 256


class TestAnotherVersion:
    def test_takes_the_place_of_the_candidate_after_its_requests(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY)
        run.target = version("newer")
        run.looks(2, drained=False)
        assert (run.phase, run.weight) == (RolloutPhase.PENDING, 0)
        assert run.versions.retiring is not None
        assert run.versions.retiring.name == "new"
        run.looks(70)
        assert run.versions.stable is not None
        assert run.versions.stable.name == "newer"

    def test_the_stable_one_again_ends_the_rollout_without_blame(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY)
        run.target = version("old")
        run.looks(2)
        assert run.versions == Versions(OLD)

    def test_an_unknown_one_changes_nothing(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(2)
        before = run.versions
        seen = Observed(run.now, ready=True, followed=True)
        assert advance(before, None, ROLLOUT, seen)[0].shares == before.shares

    def test_a_shorter_list_of_steps_goes_on_from_the_weight_it_has(self) -> None:
        run = Simulation().until(RolloutPhase.CANARY).looks(12)
        assert run.weight == 25
        run.rollout = ROLLOUT.model_copy(update={"steps": (10, 60)})
        run.looks(12)
        assert run.weight == 60


# --- Properties of whole rollouts ------------------------------------------------------------------------------------

LOOK = st.fixed_dictionaries(
    {
        "ready": st.sampled_from([True, True, True, False]),
        "followed": st.booleans(),
        "drained": st.booleans(),
        "minutes": st.sampled_from([0, 1, 5, 20, 200]),
        "refused": st.sampled_from([""] * 9 + ["it crashed"]),
        "increase": st.sampled_from(
            [None, requests(0), requests(300), requests(2000), requests(500, 5), requests(100, 60), requests(-1)]
        ),
        "command": st.sampled_from([""] * 9 + ["pause/new", "promote/new", "abort/new", "abort/newer", "promote/old"]),
        "retry": st.sampled_from(["", "", "1", "2"]),
        "target": st.sampled_from([NEW] * 6 + [version("newer"), version("old"), None]),
    }
)
SPECS = st.builds(
    lambda strategy, inconclusive, failure, steps: ROLLOUT.model_copy(
        update={"strategy": strategy, "on_inconclusive": inconclusive, "on_failure": failure, "steps": steps}
    ),
    st.sampled_from(["Canary", "Shadow", "ShadowThenCanary", "Recreate"]),
    st.sampled_from(["Extend", "Pause", "Rollback"]),
    st.sampled_from(["Rollback", "Pause"]),
    st.sampled_from([(5, 25, 50), (1,), (10, 20, 30, 99)]),
)


def walked(spec: Rollout, looks: Sequence[dict[str, Any]], stable: StableVersion | None = OLD) -> Simulation:
    """A rollout of whatever may happen; what must never happen is checked at each look."""
    run = Simulation(spec, stable)
    for look in looks:
        before, observed = run.versions, dict(look)
        run.target = observed.pop("target")
        event = run.look(**observed)
        after = run.versions
        reason = event.reason if event is not None else ""
        if after.stable is not None:
            assert sum(weight for _, weight in after.shares) == 100
            assert all(0 <= weight <= 100 for _, weight in after.shares)
        assert run.weight in {0, *spec.steps}
        if reason != "Promoted":
            assert after.stable == before.stable, "the stable version changes by a promotion alone"
        elif before.stable is not None:
            assert after.retiring is not None
            assert after.retiring.name == before.stable.name
        if after.stable is not None:
            assert after.stable in after.loaded
        was = before.candidate.weight if before.candidate is not None else 0
        if run.weight > was:
            assert reason == "StepStarted"
            assert run.weight == min(weight for weight in spec.steps if weight > was), "no step is passed over"
        assert run.weight == 0 or after.retiring is None, "a candidate waits until the version before it has drained"
        dropped = {each.name for each in before.loaded} - {each.name for each in after.loaded}
        assert not dropped or observed["drained"] or was == 0, "nothing is unloaded while it may have requests"
    return run


@settings(max_examples=100)
@given(spec=SPECS, looks=st.lists(LOOK, max_size=40), first=st.booleans())
def test_whatever_happens(spec: Rollout, looks: list[dict[str, Any]], first: bool) -> None:
    walked(spec, looks, None if first else OLD)


@settings(max_examples=30)
@given(spec=SPECS, looks=st.lists(LOOK, max_size=25))
def test_every_state_has_an_exit(spec: Rollout, looks: list[dict[str, Any]]) -> None:
    """From wherever it got, a retry and good answers promote the version, an abort removes it, and silence ends."""
    run = walked(spec, looks)
    run.target = NEW
    here, now = run.versions, run.now
    run.looks(100, retry="a new one")
    assert run.versions.stable is not None
    assert (run.versions.stable.name, run.versions.candidate) == ("new", None)
    if here.candidate is not None and here.candidate.name == "new":
        run.versions, run.now = here, now
        run.look(command="")
        run.look(command="abort/new")
        assert run.versions.candidate is None
    run.versions, run.now = here, now
    run.looks(100, increase=None, minutes=10)
    assert run.versions.candidate is None or run.phase is RolloutPhase.PAUSED


@settings(max_examples=50)
@given(spec=SPECS, looks=st.lists(LOOK, max_size=30), cut=st.integers(0, 30))
def test_the_traffic_does_not_depend_on_when_the_operator_dies(
    spec: Rollout, looks: list[dict[str, Any]], cut: int
) -> None:
    """A step that was worked out and never recorded has no effect: the weights are those of the recorded status."""
    recorded = walked(spec, looks[:cut]).versions
    seen = Observed(START + timedelta(days=9), ready=True, followed=True, drained=True, increase=requests(3000))
    lost, event = advance(recorded, NEW, spec, seen)
    again, event_again = advance(stored(recorded), NEW, spec, seen)
    assert (stored(again), event_again) == (stored(lost), event)
    assert stored(recorded).shares == recorded.shares
