"""What the counts of a step say about the gates of a rollout."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fovea_api.modeldeployment import Gate, Rollout, least_requests
from fovea_operator.evidence.betting import Share
from fovea_operator.evidence.gates import (
    Compared,
    Counts,
    Decision,
    Evidence,
    Rates,
    Requests,
    assess,
    bound_of,
    evaluate,
)

RATES = Rates(0.05, 0.05)
ERRORS = Gate(metric="errorRate", max=0.01)
ERRORS_TO_STABLE = Gate(metric="errorRate", max_ratio_to_stable=1.5)
LATENCY = Gate(metric="latencyP95Milliseconds", max=80)
LATENCY_TO_STABLE = Gate(metric="latencyP95Milliseconds", max_ratio_to_stable=1.2)
ACCURACY = Gate(metric="accuracy", min=0.8)
PAIRED = Gate(metric="accuracy", min_difference_to_stable=-0.02)
UNPAIRED = Gate(metric="accuracy", min_difference_to_stable=-0.1, paired_with_stable=False)
DISAGREEMENT = Gate(metric="disagreement", max=0.1)


def answered(
    total: float, failed: float = 0, slow: float = 0, labelled: float = 0, right: float = 0, slower: float = 0
) -> Requests:
    return Requests(total, failed, slow, slower, labelled, right)


def counts(candidate: Requests, stable: Requests | None = None, weight: float = 0.25, /, **compared: float) -> Counts:
    return Counts(weight, candidate, stable if stable is not None else answered(3000), Compared(**compared))


GOOD, BAD, OPEN = Decision.PASS, Decision.FAIL, Decision.INCONCLUSIVE
DECIDED = (
    (ERRORS, counts(answered(1000, failed=1)), GOOD, 0.001),
    (ERRORS, counts(answered(1000, failed=9)), OPEN, 0.009),
    (ERRORS, counts(answered(100, failed=12)), BAD, 0.12),
    (ERRORS_TO_STABLE, counts(answered(1000, failed=20), answered(3000, failed=150)), GOOD, 0.4),
    (ERRORS_TO_STABLE, counts(answered(1000, failed=50), answered(3000, failed=150)), OPEN, 1.0),
    (ERRORS_TO_STABLE, counts(answered(1000, failed=150), answered(3000, failed=150)), BAD, 3.0),
    (ERRORS_TO_STABLE, counts(answered(1000), answered(3000)), OPEN, None),
    (LATENCY, counts(answered(1000, slow=20)), GOOD, 0.02),
    (LATENCY, counts(answered(1000, slow=50)), OPEN, 0.05),
    (LATENCY, counts(answered(1000, slow=100)), BAD, 0.1),
    (LATENCY_TO_STABLE, counts(answered(1000, slower=20), answered(3000, slower=150)), GOOD, 0.4),
    (LATENCY_TO_STABLE, counts(answered(1000, slower=50), answered(3000, slower=150)), OPEN, 1.0),
    (LATENCY_TO_STABLE, counts(answered(1000, slower=110), answered(3000, slower=150)), BAD, 2.2),
    (ACCURACY, counts(answered(1000, labelled=200, right=180)), GOOD, 0.9),
    (ACCURACY, counts(answered(1000, labelled=200, right=164)), OPEN, 0.82),
    (ACCURACY, counts(answered(1000, labelled=200, right=120)), BAD, 0.6),
    (PAIRED, counts(answered(3000), total=2000, both=1660, candidate=40, stable=40, neither=260), GOOD, 0.0),
    (PAIRED, counts(answered(3000), total=500, both=400, candidate=10, stable=10, neither=80), OPEN, 0.0),
    (PAIRED, counts(answered(3000), total=2000, both=1560, candidate=20, stable=140, neither=280), BAD, -0.06),
    (
        UNPAIRED,
        counts(answered(5000, labelled=2000, right=1800), answered(5000, labelled=2000, right=1800), 0.5),
        GOOD,
        0,
    ),
    (UNPAIRED, counts(answered(500, labelled=100, right=90), answered(500, labelled=100, right=90), 0.5), OPEN, 0.0),
    (
        UNPAIRED,
        counts(answered(5000, labelled=2000, right=1400), answered(5000, labelled=2000, right=1800), 0.5),
        BAD,
        -0.2,
    ),
    (DISAGREEMENT, counts(answered(2000), total=200, different=6), GOOD, 0.03),
    (DISAGREEMENT, counts(answered(2000), total=200, different=20), OPEN, 0.1),
    (DISAGREEMENT, counts(answered(2000), total=200, different=60), BAD, 0.3),
)


@pytest.mark.parametrize(("gate", "found", "decision", "estimate"), DECIDED)
def test_decisions(gate: Gate, found: Counts, decision: Decision, estimate: float | None) -> None:
    evidence = assess(gate, found, RATES)
    assert evidence.decision is decision, evidence
    assert evidence.estimate == (pytest.approx(estimate) if estimate is not None else None)


@pytest.mark.parametrize(("gate", "found", "decision", "estimate"), DECIDED)
def test_the_interval_agrees_with_the_decision(
    gate: Gate, found: Counts, decision: Decision, estimate: float | None
) -> None:
    evidence = assess(gate, found, RATES)
    if evidence.lower is None or evidence.upper is None:
        return
    at_most = gate.max is not None or gate.max_ratio_to_stable is not None
    kept = evidence.upper < bound_of(gate) if at_most else evidence.lower > bound_of(gate)
    broken = evidence.lower > bound_of(gate) if at_most else evidence.upper < bound_of(gate)
    assert (kept, broken) == (decision is GOOD, decision is BAD)


def unreadable() -> list[Counts | None]:
    broken = [
        {"total": math.nan},
        {"total": 1000, "failed": math.nan},
        {"total": 1000, "failed": -3},
        {"total": 1000, "failed": 1001},
        {"total": math.inf},
        {"total": 1000, "slow": 2000},
        {"total": 1000, "slower": 2000},
        {"total": 1000, "labelled": 5, "right": 6},
    ]
    found: list[Counts | None] = [counts(answered(**each)) for each in broken]
    found += [counts(answered(1000), answered(**each)) for each in broken]
    found += [counts(answered(1000), None, weight) for weight in (math.nan, 0.0, 1.0)]
    found += [counts(answered(1000), total=10, different=11), counts(answered(1000), total=10, both=-1, candidate=5)]
    return [*found, None]


class TestWhatCannotBeRead:
    """Flagger counts "no values" as a failure, Argo lets NaN pass."""

    @pytest.mark.parametrize("found", unreadable())
    @pytest.mark.parametrize("gate", [ERRORS, LATENCY_TO_STABLE, PAIRED])
    def test_neither_passes_nor_fails(self, found: Counts | None, gate: Gate) -> None:
        evidence = assess(gate, found, RATES)
        assert evidence.decision is OPEN
        assert (evidence.log_e_pass, evidence.log_e_fail) == (0, 0)

    @pytest.mark.parametrize("gate", {gate for gate, *_ in DECIDED})
    def test_nor_does_no_traffic(self, gate: Gate) -> None:
        assert assess(gate, counts(answered(0), answered(0)), RATES).decision is OPEN

    def test_a_reset_counter_does_not_decide(self) -> None:
        """What was counted before is lost, less is known, and nothing follows from that."""
        assert assess(ERRORS, counts(answered(3)), RATES).decision is OPEN


class TestSamplesStillNeeded:
    def test_are_those_with_which_it_is_decided(self) -> None:
        found = assess(ERRORS, counts(answered(300)), RATES)
        assert found.needed is not None
        assert assess(ERRORS, counts(answered(300 + found.needed)), RATES).decision is GOOD
        assert assess(ERRORS, counts(answered(300 + found.needed - 2)), RATES).decision is OPEN

    def test_of_a_ratio_they_are_requests_and_not_events(self) -> None:
        found = assess(LATENCY_TO_STABLE, counts(answered(100, slower=2), answered(300, slower=15)), RATES)
        assert found.samples == 100
        assert found.needed is not None
        more = 1 + found.needed / 100
        later = counts(answered(100 * more, slower=2 * more), answered(300 * more, slower=15 * more))
        assert assess(LATENCY_TO_STABLE, later, RATES).decision is GOOD

    def test_no_number_decides_what_lies_on_the_bound(self) -> None:
        found = assess(ERRORS, counts(answered(1000, failed=10)), RATES)
        assert found.needed is None
        assert "no number would decide it" in found.message


class TestAllGates:
    GATES = (ERRORS, LATENCY)

    def decided(self, failed: float, slow: float, *gates: Gate, total: float = 1000, **more: Any) -> Decision:
        return evaluate(gates or self.GATES, counts(answered(total, failed, slow)), RATES, **more).decision

    def test_all_must_pass(self) -> None:
        assert self.decided(1, 20) is GOOD
        assert self.decided(1, 48) is OPEN
        assert self.decided(9, 20) is OPEN

    def test_one_is_enough_to_fail(self) -> None:
        assert self.decided(1, 200) is BAD
        assert self.decided(100, 0) is BAD

    def test_each_passes_at_the_full_rate_however_many_there_are(self) -> None:
        """Intersection-union: with 16 gates and 20 steps nothing more is asked of each."""
        least = least_requests(Rollout())
        assert self.decided(0, 0, *[ERRORS] * 16, total=least, steps=20) is GOOD

    def test_the_rate_of_false_rollbacks_is_shared_by_gates_and_steps(self) -> None:
        one = evaluate((ERRORS,), counts(answered(100, failed=6)), RATES)
        assert one.decision is BAD
        assert -math.log(0.05) < one.gates[0].log_e_fail < -math.log(0.05 / 6)
        assert evaluate((ERRORS, ERRORS), counts(answered(100, failed=6)), RATES, steps=3).decision is OPEN

    def test_one_rate_does_not_touch_the_other(self) -> None:
        good, bad = counts(answered(1000, failed=1)), counts(answered(100, failed=12))
        assert assess(ERRORS, good, Rates(0.05, 1e-9)).decision is GOOD
        assert assess(ERRORS, good, Rates(1e-9, 0.05)).decision is OPEN
        assert assess(ERRORS, bad, Rates(1e-9, 0.05)).decision is BAD
        assert assess(ERRORS, bad, Rates(0.05, 1e-9)).decision is OPEN

    def test_what_may_be_skipped_holds_nothing_up(self) -> None:
        skipped = PAIRED.model_copy(update={"if_unmeasured": "Skip"})
        result = evaluate((ERRORS, skipped), counts(answered(1000, failed=1)), RATES)
        assert [gate.decision for gate in result.gates] == [GOOD, Decision.SKIPPED]
        assert result.decision is GOOD
        assert evaluate((ERRORS, PAIRED), counts(answered(1000, failed=1)), RATES).decision is OPEN

    def test_what_may_be_skipped_fails_all_the_same(self) -> None:
        skipped = PAIRED.model_copy(update={"if_unmeasured": "Skip"})
        wrong = counts(answered(3000, failed=1), total=2000, both=1560, candidate=20, stable=140, neither=280)
        assert evaluate((ERRORS, skipped), wrong, RATES).decision is BAD

    def test_nothing_measured_is_no_pass(self) -> None:
        """Argo takes an analysis without a condition for a success."""
        skipped = ERRORS.model_copy(update={"if_unmeasured": "Skip"})
        assert evaluate((skipped,), None, RATES).decision is OPEN
        assert evaluate((), counts(answered(1000)), RATES).decision is OPEN

    def test_the_message_has_what_decided(self) -> None:
        result = evaluate(self.GATES, counts(answered(1000, 1, 200)), RATES)
        assert result.message.startswith("latencyP95Milliseconds, share over the limit, is 0.2 (")
        assert "must be at most 0.05; 1000 samples" in result.message


@pytest.mark.parametrize("bound", [0.0005, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99, 0.999, 0.9999])
def test_what_is_refused_at_apply_is_what_cannot_be_decided(confidence: float, bound: float) -> None:
    """The least number of requests that a manifest may ask for decides for a flawless candidate, and not much less."""
    gate = Gate(metric="errorRate", max=bound)
    least = least_requests(Rollout(gates=(gate,), confidence=confidence, min_requests=10_000_000))
    rates = Rates(1 - confidence, 1 - confidence)

    def flawless(requests: float) -> Evidence:
        return assess(gate, counts(answered(requests)), rates)

    assert flawless(least).decision is GOOD
    assert flawless(math.floor(least * (0.98 - bound / 2)) - 1).decision is OPEN
    assert Share(0, least).below(bound) >= -math.log(1 - confidence)
