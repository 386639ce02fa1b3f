"""The gates of a rollout: what the counts of a step say about each, and about all together.

Each gate is tested against two nulls, with separate error rates. Rejecting "the gate is violated" passes it. The
candidate is promoted when all gates have passed; a bad candidate violates at least one gate, whose test alone would
have to err, so each test runs at the full rate (intersection-union test: Berger, Technometrics 24, 1982), and so does
each step, since the last one must pass in any case. Rejecting "the gate is satisfied" fails it. The candidate is
rolled back when any gate fails, so that rate is divided by the number of gates and steps. Anything else is
inconclusive, missing or implausible counts among it: nothing passes or fails for lack of data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TypeVar

from fovea_api.modeldeployment import LATENCY_SHARE, Gate, GateMetric

from fovea_operator.evidence.betting import (
    Difference,
    PairedDifference,
    Quantity,
    Ratio,
    Share,
    growth_until,
    interval,
)


class Decision(StrEnum):
    """What counts say about a bound."""

    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    SKIPPED = "Skipped"


@dataclass(frozen=True, slots=True)
class Rates:
    """How often a rollout may err, however often one looks."""

    false_promotion: float
    """Probability that a candidate at or beyond a bound is promoted."""
    false_rollback: float
    """Probability that a candidate within all bounds is rolled back."""

    def shared(self, tests: int) -> Rates:
        """The rates of each of so many tests, each of which alone can roll back and none can promote."""
        return replace(self, false_rollback=self.false_rollback / tests)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that one version answered in a step."""

    total: float = 0.0
    """All of them."""
    failed: float = 0.0
    """Those that the service failed."""
    slow: float = 0.0
    """Those over the `max` of the latency gate."""
    slower: float = 0.0
    """Stable's over its 95th percentile as it was when the step began; the candidate's over that times the latency
    gate's ratio."""
    labelled: float = 0.0
    """Those whose right answer became known; a label may come long after its request."""
    right: float = 0.0
    """Those of them that were answered rightly."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Requests that both versions answered."""

    total: float = 0.0
    """All of them."""
    different: float = 0.0
    """Those with different answers."""
    both: float = 0.0
    """Labelled, and both are right."""
    candidate: float = 0.0
    """Labelled, and the candidate alone is right."""
    stable: float = 0.0
    """Labelled, and stable alone is right."""
    neither: float = 0.0
    """Labelled, and none is right."""


_Part = TypeVar("_Part", Requests, Compared)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted in a step, warm-up left out."""

    weight: float
    """The candidate's share of the traffic, from 0 to 1."""
    candidate: Requests = Requests()
    """What the candidate answered."""
    stable: Requests = Requests()
    """What stable answered over the same time."""
    compared: Compared = Compared()
    """What both answered."""

    def plus(self, more: Counts) -> Counts:
        """The sum of both, for one and the same step."""
        parts = {part: _sum(getattr(self, part), getattr(more, part)) for part in _PARTS}
        return replace(self, **parts)

    def flat(self) -> dict[str, float]:
        """The counts by name, such as `candidate/failed`; zeros are left out."""
        named = {f"{part}/{name}": value for part in _PARTS for name, value in asdict(getattr(self, part)).items()}
        return {name: value for name, value in named.items() if value}

    @classmethod
    def read(cls, weight: float, flat: Mapping[str, float]) -> Counts:
        """The counts that `flat` has written."""
        parts: dict[str, dict[str, float]] = {part: {} for part in _PARTS}
        for name, value in flat.items():
            part, _, field = name.partition("/")
            parts[part][field] = value
        return cls(weight, Requests(**parts["candidate"]), Requests(**parts["stable"]), Compared(**parts["compared"]))

    @property
    def readable(self) -> bool:
        """Whether nothing is missing or contradicts itself."""
        return _unreadable(self) is None


_PARTS = ("candidate", "stable", "compared")


def _sum(one: _Part, other: _Part) -> _Part:
    mine, others = asdict(one), asdict(other)
    return type(one)(**{name: value + others[name] for name, value in mine.items()})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What counts say about one gate."""

    metric: GateMetric
    """What was measured."""
    decision: Decision
    """What follows."""
    bound: float
    """The bound of the quantity that was tested."""
    message: str
    """The same in words."""
    estimate: float | None = None
    """The quantity as it was measured."""
    lower: float | None = None
    """It is less with at most the error rate of one side, at all times together."""
    upper: float | None = None
    """It is more with at most the error rate of the other side."""
    log_e_pass: float = 0.0
    """Log e-value against the null that the gate is violated."""
    log_e_fail: float = 0.0
    """Log e-value against the null that the gate is satisfied."""
    samples: int = 0
    """Samples that were counted: requests, or labelled images."""
    needed: int | None = None
    """Further samples until it is decided, if they go on as so far; None: that cannot be said."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the gates say together."""

    decision: Decision
    """Pass: every gate that is not skipped passed. Fail: at least one failed."""
    gates: tuple[Evidence, ...]
    """Each of them, in the order of the spec."""

    @property
    def message(self) -> str:
        """The words of the gates that matter."""
        return "; ".join(gate.message for gate in self.gates if gate.decision is self.decision)


def assess(gate: Gate, counts: Counts | None, rates: Rates) -> Evidence:
    """What the counts say about one gate. None: nothing could be read."""
    bound = bound_of(gate)
    if (problem := _unreadable(counts)) is not None or counts is None:
        return Evidence(gate.metric, Decision.INCONCLUSIVE, bound, f"{gate.metric}: {problem}")
    quantity, samples = _quantity(gate, counts)
    if not quantity.count:
        return Evidence(gate.metric, Decision.INCONCLUSIVE, bound, f"{gate.metric}: nothing was measured yet")
    if _at_most(gate):
        lower, upper = interval(quantity, rates.false_rollback, rates.false_promotion)
    else:
        lower, upper = interval(quantity, rates.false_promotion, rates.false_rollback)
    log_pass, log_fail = _logs(gate, quantity)
    decision = _decision(log_pass, log_fail, rates)
    found = Evidence(
        gate.metric, decision, bound, "", quantity.estimate, lower, upper, log_pass, log_fail, math.floor(samples)
    )
    if decision is Decision.INCONCLUSIVE:
        growth = growth_until(quantity, lambda more: _decision(*_logs(gate, more), rates) is not decision)
        found = replace(found, needed=math.ceil(samples * (growth - 1)) if growth is not None else None)
    return replace(found, message=_words(gate, found))


def decide(gate: Gate, counts: Counts, rates: Rates) -> Decision:
    """The decision of `assess` alone."""
    if _unreadable(counts) is not None:
        return Decision.INCONCLUSIVE
    return _decision(*_logs(gate, _quantity(gate, counts)[0]), rates)


def evaluate(gates: Sequence[Gate], counts: Counts | None, rates: Rates, steps: int = 1) -> StepResult:
    """What the counts of one of so many steps say about all gates."""
    found = tuple(_skipped(gates, [assess(gate, counts, rates.shared(len(gates) * steps)) for gate in gates]))
    decisions = [evidence.decision for evidence in found]
    if Decision.FAIL in decisions:
        return StepResult(Decision.FAIL, found)
    passed = Decision.PASS in decisions and Decision.INCONCLUSIVE not in decisions
    return StepResult(Decision.PASS if passed else Decision.INCONCLUSIVE, found)


def bound_of(gate: Gate) -> float:
    """The bound of the quantity that is tested: of a latency, the share of requests that may take longer."""
    if gate.max_ratio_to_stable is not None:
        return 1.0 if gate.metric is GateMetric.LATENCY_P95 else gate.max_ratio_to_stable
    if gate.metric is GateMetric.LATENCY_P95:
        return LATENCY_SHARE
    return next(value for value in (gate.max, gate.min, gate.min_difference_to_stable) if value is not None)


def _at_most(gate: Gate) -> bool:
    return gate.max is not None or gate.max_ratio_to_stable is not None


def _quantity(gate: Gate, counts: Counts) -> tuple[Quantity, float]:
    """What is tested, and the samples behind it."""
    candidate, stable, compared = counts.candidate, counts.stable, counts.compared
    if gate.metric is GateMetric.DISAGREEMENT:
        return Share(compared.different, compared.total), compared.total
    if gate.metric is GateMetric.ACCURACY:
        if gate.min_difference_to_stable is None:
            return Share(candidate.right, candidate.labelled), candidate.labelled
        if gate.needs_both_answers:
            paired = PairedDifference(compared.candidate, compared.stable, compared.both + compared.neither)
            return paired, paired.count
        one, other = Share(candidate.right, candidate.labelled), Share(stable.right, stable.labelled)
        return Difference(one, other, counts.weight), candidate.labelled
    errors = gate.metric is GateMetric.ERROR_RATE
    if gate.max_ratio_to_stable is not None:
        events = (candidate.failed, stable.failed) if errors else (candidate.slower, stable.slower)
        return Ratio(*events, counts.weight), candidate.total
    return Share(candidate.failed if errors else candidate.slow, candidate.total), candidate.total


def _logs(gate: Gate, quantity: Quantity) -> tuple[float, float]:
    bound = bound_of(gate)
    below, above = quantity.below(bound), quantity.above(bound)
    return (below, above) if _at_most(gate) else (above, below)


def _decision(log_pass: float, log_fail: float, rates: Rates) -> Decision:
    if log_fail >= -math.log(rates.false_rollback):
        return Decision.FAIL
    return Decision.PASS if log_pass >= -math.log(rates.false_promotion) else Decision.INCONCLUSIVE


def _skipped(gates: Sequence[Gate], found: Sequence[Evidence]) -> Iterator[Evidence]:
    """A gate that may be skipped does not hold up what the others decide; what it shows to be bad fails."""
    for gate, evidence in zip(gates, found, strict=True):
        open_ = evidence.decision is Decision.INCONCLUSIVE
        yield replace(evidence, decision=Decision.SKIPPED) if open_ and gate.if_unmeasured == "Skip" else evidence


def _unreadable(counts: Counts | None) -> str | None:
    """Why counts cannot be relied on."""
    if counts is None:
        return "nothing can be read"
    candidate, stable, compared = counts.candidate, counts.stable, counts.compared
    parts = [(each.failed, each.total) for each in (candidate, stable)]
    parts += [(each.slow, each.total) for each in (candidate, stable)]
    parts += [(each.slower, each.total) for each in (candidate, stable)]
    parts += [(each.labelled, math.inf) for each in (candidate, stable)]  # labels come later than their requests
    parts += [(each.right, each.labelled) for each in (candidate, stable)]
    parts += [(compared.different, compared.total)]
    parts += [(value, math.inf) for value in (compared.both, compared.candidate, compared.stable, compared.neither)]
    if not all(0 <= part <= whole and not math.isnan(whole) for part, whole in parts):
        return "what was measured contradicts itself: a count is missing, negative or more than all"
    if not all(math.isfinite(each.total) for each in (candidate, stable, compared)):
        return "what was measured is not finite"
    return None if 0 < counts.weight < 1 or not (stable.total or candidate.total) else "the candidate has no traffic"


def _words(gate: Gate, found: Evidence) -> str:
    what = "share over the limit" if gate.metric is GateMetric.LATENCY_P95 else ""
    if gate.max_ratio_to_stable is not None:
        what = f"{what or 'value'} as a ratio to stable"
    elif gate.min_difference_to_stable is not None:
        what = "difference from stable"
    side = "at most" if _at_most(gate) else "at least"
    value = f"{found.estimate:.3g}" if found.estimate is not None else "unknown"
    words = f"{gate.metric}{f', {what}' if what else ''}, is {value} ({found.lower:.3g} to {found.upper:.3g}), "
    words += f"must be {side} {found.bound:.3g}; {found.samples} samples"
    if found.decision is Decision.INCONCLUSIVE:
        words += f", some {found.needed} more needed" if found.needed is not None else ", no number would decide it"
    return words
