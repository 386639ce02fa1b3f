"""Whether a deployment meets its objectives. With too few measurements that is unknown, never met or missed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fovea_api.modeldeployment import LoadTest, ObjectiveResult, ServiceObjectives

from fovea_operator.conditions import Finding
from fovea_operator.measurement import Measured

CONDITION = "ObjectivesMet"
LATENCY, THROUGHPUT, ERRORS = "latencyP95Milliseconds", "throughputPerSecond", "errorRate"
_SHARE = 0.95
_DIGITS = 3


def metrics(measured: Measured) -> dict[str, float]:
    """What is measured, by name; what is not known is absent."""
    p95 = measured.quantile(_SHARE)
    values = {
        "requestsPerSecond": measured.per_second,
        LATENCY: p95 * 1000 if p95 is not None else None,
        ERRORS: measured.error_rate,
    }
    return {name: rounded(value) for name, value in values.items() if value is not None}


def results(objectives: ServiceObjectives | None, measured: Measured) -> tuple[ObjectiveResult, ...]:
    """Each objective with its measured value."""
    return tuple(_results(objectives, measured)) if objectives is not None else ()


def _results(objectives: ServiceObjectives, measured: Measured) -> Iterator[ObjectiveResult]:
    if (limit := objectives.latency_p95_milliseconds) is not None:
        p95, within = measured.quantile(_SHARE), measured.within(limit / 1000)
        value = rounded(p95 * 1000) if p95 is not None else None
        met = within >= _SHARE if within is not None else None
        yield ObjectiveResult(metric=LATENCY, target=limit, measured=value, met=met)
    if (least := objectives.throughput_per_second) is not None:
        rate = measured.per_second
        borne = True if rate is not None and rate >= least else (False if measured.shed else None)
        yield ObjectiveResult(
            metric=THROUGHPUT, target=least, measured=rounded(rate) if rate is not None else None, met=borne
        )
    if (most := objectives.error_rate) is not None:
        share = measured.error_rate
        met = share <= most if share is not None else None
        value = rounded(share) if share is not None else None
        yield ObjectiveResult(metric=ERRORS, target=most, measured=value, met=met)


def assess(results: Sequence[ObjectiveResult], load_test: LoadTest | None = None) -> tuple[str, Finding]:
    """Status and finding of the condition.

    Args:
        results: Each objective with what was measured of the requests.
        load_test: That of the version that serves: what it showed to be missed holds until requests say otherwise.
    """
    missed = [result for result in results if result.met is False]
    if missed:
        return "False", Finding("ObjectivesMissed", missed_words(missed))
    unknown = [result.metric for result in results if result.met is None]
    before = load_test.results if load_test is not None else ()
    if missed := [result for result in before if result.met is False and result.metric in unknown]:
        words = f"under a load before any traffic, {missed_words(missed)}; too few requests since"
        return "False", Finding("ObjectivesMissedUnderLoad", words)
    if unknown:
        return "Unknown", Finding("TooLittleMeasured", f"too few requests to evaluate {', '.join(unknown)}")
    return "True", Finding("ObjectivesMet", "; ".join(map(_words, results)))


def missed_words(results: Sequence[ObjectiveResult]) -> str:
    """Objectives and what was measured, in words."""
    return "; ".join(map(_words, results))


def _words(result: ObjectiveResult) -> str:
    return f"{result.metric} is {result.measured}, target {result.target}"


def rounded(value: float) -> float:
    """To three digits, as status has it."""
    return float(f"{value:.{_DIGITS}g}")
