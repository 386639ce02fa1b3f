"""How often a rollout errs, and how many requests it takes: simulated rollouts with the operator's own gates.

    python benchmarks/rollout.py --json rollout.json

Each rollout passes three steps (5, 25 and 50 % of the traffic) and is looked at after every 100 requests of the
candidate, from `minRequests` on for a promotion and from the first look on for a rollback, until it is promoted, rolled
back or has had 4,000 requests in a step. Beside it stands what is commonly done at the same looks: the exact binomial
test at 5 %, and a plain comparison of the measured value with the bound.

Random are the counts alone. All decisions are those of fovea_operator.evidence, called for each distinct count.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fovea_api.modeldeployment import Gate
from fovea_operator.evidence.betting import Share, interval
from fovea_operator.evidence.gates import Compared, Counts, Decision, Rates, Requests
from fovea_operator.evidence.gates import decide as decision_of
from numpy.typing import NDArray

STEPS = (5, 25, 50)
CONFIDENCE = 0.95
LOOK, MOST = 100, 4000
MIN_REQUESTS = 1000
ERRORS = Gate(metric="errorRate", max=0.01)
LATENCY = Gate(metric="latencyP95Milliseconds", max_ratio_to_stable=1.2)
ACCURACY = Gate(metric="accuracy", min_difference_to_stable=-0.02)
PROMOTED, ROLLED_BACK, OPEN = 1, -1, 0

Decide = Callable[[tuple[int, ...], float], int]
"""Counts and the candidate's share of the traffic, to a decision."""


@dataclass(frozen=True)
class Scenario:
    """What is true of a candidate."""

    name: str
    errors: float
    """Its share of failed requests; the bound is 0.01."""
    slow: float
    """Its share of requests over 1.2 times stable's 95th percentile; at 0.05 it is at the bound."""


SCENARIOS = (
    Scenario("good: 0.1 % errors, latency of stable", 0.001, 0.022),
    Scenario("good: 0.3 % errors, 8 % slower", 0.003, 0.034),
    Scenario("at the bound of errors", 0.01, 0.022),
    Scenario("at the bound of latency", 0.001, 0.05),
    Scenario("at both bounds", 0.01, 0.05),
    Scenario("bad: 2 % errors", 0.02, 0.022),
    Scenario("bad: 5 % errors", 0.05, 0.022),
    Scenario("bad: 20 % errors", 0.2, 0.022),
    Scenario("bad: twice as many slow requests", 0.001, 0.1),
)


@dataclass(frozen=True)
class Outcome:
    """What became of the rollouts of a scenario; shares with 95 % intervals."""

    scenario: str
    method: str
    rollouts: int
    promoted: float
    promoted_interval: tuple[float, float]
    rolled_back: float
    rolled_back_interval: tuple[float, float]
    undecided: float
    requests: tuple[int, int, int] | None
    """Requests of the candidate in a step until it was decided, of those that were: median, 80 %, 95 %."""


def betting(gate: Gate, tests: int) -> Decide:
    """The operator's gate, one of so many tests of a rollout."""
    rates = Rates(1 - CONFIDENCE, 1 - CONFIDENCE).shared(tests)

    @cache
    def decide(counts: tuple[int, ...], weight: float) -> int:
        decision = decision_of(gate, counted(gate, counts, weight), rates)
        return {Decision.PASS: PROMOTED, Decision.FAIL: ROLLED_BACK}.get(decision, OPEN)

    return decide


def counted(gate: Gate, counts: tuple[int, ...], weight: float) -> Counts:
    """Counts of a gate: events of the candidate and of stable, and the candidate's requests; or pairs."""
    if gate.metric == "accuracy":
        candidate, stable, alike = counts
        pairs = Compared(total=sum(counts), both=alike, candidate=candidate, stable=stable)
        return Counts(weight, Requests(sum(counts)), Requests(sum(counts)), pairs)
    events, of_stable, total = counts
    stable_total = round(total * (1 - weight) / weight)
    if gate.metric == "errorRate":
        return Counts(weight, Requests(total, failed=events), Requests(stable_total))
    return Counts(weight, Requests(total, slower=events), Requests(stable_total, slower=of_stable))


_LOG_FACTORIALS = np.concatenate(([0.0], np.log(np.arange(1, 20_000)).cumsum()))


def fixed(events: int, total: int, bound: float) -> int:
    """The exact one-sided binomial tests at 5 %, each made for a single look."""
    k = np.arange(events + 1)
    logs = _LOG_FACTORIALS[total] - _LOG_FACTORIALS[k] - _LOG_FACTORIALS[total - k]
    chances = np.exp(logs + k * math.log(bound) + (total - k) * math.log1p(-bound))
    if chances.sum() <= 1 - CONFIDENCE:
        return PROMOTED
    return ROLLED_BACK if 1 - chances[:-1].sum() <= 1 - CONFIDENCE else OPEN


def naive(gate: Gate) -> Decide:
    """The fixed test, repeated at each look; a ratio is tested on the candidate's share of all events."""

    @cache
    def decide(counts: tuple[int, ...], weight: float) -> int:
        events, of_stable, total = counts
        if gate.metric == "errorRate":
            return fixed(events, total, 0.01)
        return fixed(events, events + of_stable, weight) if events + of_stable else OPEN

    return decide


def plain(gate: Gate) -> Decide:
    """The measured value against the bound, as canary controllers do."""

    @cache
    def decide(counts: tuple[int, ...], weight: float) -> int:
        events, of_stable, total = counts
        stable_total = total * (1 - weight) / weight
        bound = 0.01 * total if gate.metric == "errorRate" else of_stable / stable_total * total
        return PROMOTED if events <= bound else ROLLED_BACK

    return decide


METHODS: dict[str, Callable[[Gate, int], Decide]] = {
    "Fovea": betting,
    "fixed test, repeated": lambda gate, _: naive(gate),
    "value against bound": lambda gate, _: plain(gate),
}


def simulate(scenario: Scenario, rollouts: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Events after each look of each step, [steps, looks, rollouts]."""
    random = np.random.default_rng(seed)
    looks = MOST // LOOK
    found = {name: np.zeros((len(STEPS), looks, rollouts), np.int64) for name in ("errors", "slow", "stable")}
    for index, percent in enumerate(STEPS):
        # At each look the candidate has LOOK requests more; what stable has meanwhile is random, as routing is.
        of_stable = random.negative_binomial(LOOK, percent / 100, (looks, rollouts))
        shape = (looks, rollouts)
        found["errors"][index] = random.binomial(LOOK, scenario.errors, shape).cumsum(0)
        found["slow"][index] = random.binomial(LOOK, scenario.slow, shape).cumsum(0)
        found["stable"][index] = random.binomial(of_stable, 0.05).cumsum(0)
    return found


def decided(decide: Decide, counts: NDArray[np.int64], weight: float) -> NDArray[np.int64]:
    """The decision for each column of counts [3, n]; each distinct one is worked out once."""
    distinct, inverse = np.unique(counts, axis=1, return_inverse=True)
    values = [decide(tuple(map(int, column)), weight) for column in distinct.T]
    return np.asarray(values, np.int64)[inverse.reshape(-1)]


def outcome(scenario: Scenario, method: str, rollouts: int, seed: int) -> Outcome:
    """What becomes of the rollouts of a scenario by one method."""
    data = simulate(scenario, rollouts, seed)
    tests = [METHODS[method](gate, 2 * len(STEPS)) for gate in (ERRORS, LATENCY)]
    state = np.zeros(rollouts, np.int64)
    requests: list[NDArray[np.int64]] = []
    going = np.arange(rollouts)
    for index, percent in enumerate(STEPS):
        passed = []
        for look in range(MOST // LOOK):
            if not going.size:
                break
            total = np.full(going.size, (look + 1) * LOOK)
            zeros = np.zeros_like(total)
            errors = np.stack((data["errors"][index, look, going], zeros, total))
            slow = np.stack((data["slow"][index, look, going], data["stable"][index, look, going], total))
            verdicts = [decided(tests[0], errors, percent / 100), decided(tests[1], slow, percent / 100)]
            failing = np.logical_or(verdicts[0] == ROLLED_BACK, verdicts[1] == ROLLED_BACK)
            passing = np.logical_and(verdicts[0] == PROMOTED, verdicts[1] == PROMOTED) & ~failing
            if method == "value against bound" and total[0] < MIN_REQUESTS:
                failing[:] = False  # nobody compares the value of a handful of requests
            ready = passing & (total[0] >= MIN_REQUESTS)
            state[going[failing]] = ROLLED_BACK
            requests.append(total[failing | ready])
            passed.append(going[ready])
            going = going[~failing & ~ready]
        going = np.concatenate(passed) if passed else going[:0]
    state[going] = PROMOTED
    waited = np.concatenate(requests) if requests else np.zeros(0, np.int64)
    promoted, rolled_back = int((state == PROMOTED).sum()), int((state == ROLLED_BACK).sum())
    return Outcome(
        scenario.name,
        method,
        rollouts,
        promoted / rollouts,
        interval(Share(promoted, rollouts), 0.025, 0.025),
        rolled_back / rollouts,
        interval(Share(rolled_back, rollouts), 0.025, 0.025),
        1 - (promoted + rolled_back) / rollouts,
        tuple(int(each) for each in np.quantile(waited, (0.5, 0.8, 0.95))) if waited.size else None,  # type: ignore[arg-type]
    )


def repeated_looks(rollouts: int) -> dict[str, dict[str, float]]:
    """One gate alone, with a candidate exactly at the bound: how often it is ever passed, and ever failed."""
    random = np.random.default_rng(2)
    errors = random.binomial(LOOK, 0.01, (MOST // LOOK, rollouts)).cumsum(0)
    found = {}
    for name, method in METHODS.items():
        decide = method(ERRORS, 1)
        ever = {PROMOTED: np.zeros(rollouts, bool), ROLLED_BACK: np.zeros(rollouts, bool)}
        for look, events in enumerate(errors):
            total = np.full_like(events, (look + 1) * LOOK)
            decisions = decided(decide, np.stack((events, np.zeros_like(events), total)), 0.5)
            for decision, reached in ever.items():
                reached |= decisions == decision
        found[name] = {"ever passed": float(ever[PROMOTED].mean()), "ever failed": float(ever[ROLLED_BACK].mean())}
    return found


def until_decided(gate: Gate, draw: Callable[[np.random.Generator, int], NDArray[np.int64]], runs: int) -> list[int]:
    """Samples until one gate alone is decided, looked at after each tenth: median, 80 %, 95 %."""
    random, every, most = np.random.default_rng(1), 10, 8000
    decide = betting(gate, 1)
    increments = np.stack([draw(random, every) for _ in range(runs * most // every)])
    totals = increments.reshape(runs, most // every, 3).cumsum(1)
    needed = []
    for run in totals:
        low, high = 0, len(run) - 1
        needed.append(next(((i + 1) * every for i in range(low, high) if decide(tuple(map(int, run[i])), 0.5)), most))
    return [int(each) for each in np.quantile(needed, (0.5, 0.8, 0.95))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began, results = time.perf_counter(), []
    print(f"{'candidate':38} {'method':22} {'promoted':>24} {'rolled back':>24} {'open':>6}  requests (50/80/95 %)")
    for seed, scenario in enumerate(SCENARIOS):
        for method in METHODS:
            found = outcome(scenario, method, arguments.rollouts, seed)
            results.append(found)
            shares = [
                f"{share:7.2%} ({low:.2%} to {high:.2%})".rjust(24)
                for share, (low, high) in (
                    (found.promoted, found.promoted_interval),
                    (found.rolled_back, found.rolled_back_interval),
                )
            ]
            print(
                f"{scenario.name:38} {method:22} {' '.join(shares)} {found.undecided:6.1%}  {found.requests}",
                flush=True,
            )
    repeated = repeated_looks(arguments.rollouts)
    print("one gate, a candidate at its bound:", json.dumps(repeated))
    alone = {
        "errorRate max 0.01, true 0.001": until_decided(
            ERRORS, lambda random, n: np.array([random.binomial(n, 0.001), 0, n]), 300
        ),
        "accuracy -0.02 paired, equal, 4 % discordant": until_decided(
            ACCURACY, lambda random, n: random.multinomial(n, (0.02, 0.02, 0.96)), 300
        ),
    }
    for name, needed in alone.items():
        print(f"{name}: {needed} samples")
    print(f"{time.perf_counter() - began:.0f} s")
    if arguments.json is not None:
        written = {"rollouts": [asdict(each) for each in results], "repeated looks": repeated, "samples": alone}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
