"""The load test of a version: whether it meets `spec.objectives` before it gets a request.

The gateways ask it for some seconds, at the rate that the objectives promise, about the golden image. A miss needs
evidence at the confidence of the rollout, by the tests of its gates, and a second test that finds it too: requests that
wait for one stall of the machine are not independent. What is neither met nor missed, or could not be measured in time,
is unknown: the rollout goes on, and its gates test the version.

The state is the LoadTest of the candidate's status, recorded before any gateway hears of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from fovea_api.modeldeployment import (
    LATENCY_SHARE,
    DeployedVersion,
    LoadTest,
    ModelDeploymentSpec,
    ObjectiveResult,
    ServiceObjectives,
)

from fovea_operator.evidence.betting import Share
from fovea_operator.kinds.modeldeployment.objectives import ERRORS, LATENCY, THROUGHPUT, missed_words, rounded
from fovea_operator.measurement import MIN_REQUESTS, Load, quantile, within

LEAST_SECONDS, MOST_SECONDS = 10.0, 60.0
"""Duration of the load: until MIN_REQUESTS were sent, within these."""
GRACE_SECONDS = 60.0
"""Time beyond the load, and the timeout of a request, in which the gateways must open the version, let it warm up and
report; no rollout waits longer for a test."""
ATTEMPTS = 2
"""Tests that have to find a miss."""
KEPT_RATE = 0.95
"""Part of a rate that counts as the rate: requests are not sent to the instant."""
_MESSAGE, _MOST_GATEWAYS = 1024, 64
"""Characters of a message, and gateways, that status holds."""


def subject(spec: ModelDeploymentSpec, version: DeployedVersion) -> str:
    """Digest of all that a load test depends on; a finished one of the same subject is not repeated."""
    given = spec.to_dict()
    parts = [given.get(name) for name in ("objectives", "resources", "scaling", "inference", "image", "podTemplate")]
    parts += [version.name, version.bundle, version.runtime]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def identity(test: LoadTest) -> str:
    """The id by which gateways report it; a repeated test has another."""
    return f"{test.subject}-{int(test.started.timestamp() * 1000):x}-{test.attempt}"


def advance(
    known: LoadTest | None,
    spec: ModelDeploymentSpec,
    version: DeployedVersion,
    replicas: int,
    gateways: Sequence[str],
    load: Load,
    now: datetime,
) -> LoadTest | None:
    """The test of a version that is ready, as it is to be recorded now; None: there are no objectives.

    Args:
        known: What status records of it.
        spec: The deployment's.
        version: What is tested.
        replicas: Its ready replicas.
        gateways: Host names of the gateway pods that are ready.
        load: What the gateways report of the recorded test.
        now: The time.
    """
    if spec.objectives is None or not spec.objectives.to_dict():
        return None
    if known is None or known.subject != (digest := subject(spec, version)):
        return _begun(spec, subject(spec, version), replicas, gateways, now)
    if known.finished is not None:
        return known
    most = known.seconds + spec.inference.timeout_seconds + GRACE_SECONDS
    late = now - known.started >= timedelta(seconds=most)
    if not known.gateways and gateways and not late:
        return _begun(spec, digest, replicas, gateways, now, known.attempt)
    if known.gateways and load.finished >= len(known.gateways):
        judged = _judged(known, spec.objectives, 1 - spec.rollout.confidence, load, now)
        if outcome(judged) == "Missed" and known.attempt < ATTEMPTS:
            return _begun(spec, digest, replicas, gateways, now, known.attempt + 1)
        return judged
    return _abandoned(known, spec.objectives, load, now) if late else known


def missed(test: LoadTest, known_misses: frozenset[str]) -> str:
    """What is held against the version, in words; empty: nothing. `known_misses`: objectives that the version which
    serves misses too, so that going back to it would mend nothing."""
    found = [each for each in test.results if each.met is False and each.metric not in known_misses]
    return f"under a load before any traffic, {missed_words(found)}" if found else ""


def outcome(test: LoadTest) -> str:
    """A finished test in one word: Met, Missed or Unknown."""
    answers = {each.met for each in test.results}
    if False in answers:
        return "Missed"
    return "Met" if answers == {True} else "Unknown"


def _begun(
    spec: ModelDeploymentSpec, digest: str, replicas: int, gateways: Sequence[str], now: datetime, attempt: int = 1
) -> LoadTest:
    objectives, scaling = spec.objectives, spec.scaling
    assert objectives is not None
    rate = objectives.throughput_per_second
    if rate is not None and scaling.max_replicas is not None:  # the promise is that of all replicas
        rate *= max(1, min(replicas, scaling.max_replicas)) / scaling.max_replicas
    seconds = min(max(LEAST_SECONDS, MIN_REQUESTS / rate if rate is not None else 0.0), MOST_SECONDS)
    return LoadTest(
        subject=digest,
        started=now,
        attempt=attempt,
        gateways=tuple(sorted(gateways))[:_MOST_GATEWAYS],
        rate_per_second=rounded(rate) if rate is not None else None,
        seconds=math.ceil(seconds),
    )


def _judged(test: LoadTest, objectives: ServiceObjectives, error: float, load: Load, now: datetime) -> LoadTest:
    results = tuple(_results(test, objectives, math.log(1 / error), load))
    return _finished(test, load, results, _words(test, load, results), now)


def _abandoned(test: LoadTest, objectives: ServiceObjectives, load: Load, now: datetime) -> LoadTest:
    """It could not be done: nothing is known, whatever single gateways report."""
    targets = (
        (LATENCY, objectives.latency_p95_milliseconds),
        (THROUGHPUT, objectives.throughput_per_second),
        (ERRORS, objectives.error_rate),
    )
    results = tuple(ObjectiveResult(metric=name, target=target) for name, target in targets if target is not None)
    who = f"{load.finished} of {len(test.gateways)} gateways" if test.gateways else "no gateway was ready, and none"
    words = f"could not be tested under load: {who} reported within {(now - test.started).total_seconds():.0f} s"
    return _finished(test, load, results, words, now)


def _finished(
    test: LoadTest, load: Load, results: tuple[ObjectiveResult, ...], message: str, now: datetime
) -> LoadTest:
    total = int(load.total)
    changes = {"finished": now, "requests": total, "failed": total - int(load.answered)}
    return test.model_copy(update=changes | {"results": results, "message": message[:_MESSAGE]})


def _results(test: LoadTest, objectives: ServiceObjectives, evidence: float, load: Load) -> Iterator[ObjectiveResult]:
    """Each objective under the load; `evidence`: log of the wealth from which a miss is shown."""
    if (limit := objectives.latency_p95_milliseconds) is not None:
        p95 = quantile(load.buckets, 1 - LATENCY_SHARE, least=1)
        answers = max(load.buckets.values(), default=0.0)
        slow = Share(answers - within(load.buckets, limit / 1000), answers)
        value = rounded(p95 * 1000) if p95 is not None and math.isfinite(p95) else None
        yield ObjectiveResult(metric=LATENCY, target=limit, measured=value, met=_met(slow, LATENCY_SHARE, evidence))
    if objectives.throughput_per_second is not None and (rate := test.rate_per_second) is not None:
        achieved = load.answered_per_second
        sent = load.total >= KEPT_RATE * rate * test.seconds and load.total >= MIN_REQUESTS
        met = achieved >= KEPT_RATE * rate if sent else None
        yield ObjectiveResult(metric=THROUGHPUT, target=rate, measured=rounded(achieved), met=met)
    if (most := objectives.error_rate) is not None:
        failures = Share(load.failed, load.answered + load.failed)
        share = failures.estimate
        value = rounded(share) if share is not None else None
        yield ObjectiveResult(metric=ERRORS, target=most, measured=value, met=_met(failures, most, evidence))


def _met(share: Share, most: float, evidence: float) -> bool | None:
    """Whether a share is at most so large; None: too few requests, or it is larger and might be so by chance."""
    if share.above(most) >= evidence:
        return False
    if share.total < MIN_REQUESTS:
        return None
    return True if share.events <= most * share.total else None


def _words(test: LoadTest, load: Load, results: tuple[ObjectiveResult, ...]) -> str:
    """What was done and what came of it."""
    rate = f"{test.rate_per_second:g} a second" if test.rate_per_second is not None else "one after the other"
    words = f"{load.total:.0f} requests in {test.seconds:g} s, {rate}"
    if failed := {code: count for code, count in load.requests.items() if code != "200" and count}:
        words += " (" + ", ".join(f"{count:.0f} answered with {code}" for code, count in sorted(failed.items())) + ")"
    said = {True: "met", False: "missed", None: "not decided"}
    each = [f"{result.metric} {said[result.met]}: {_measured(result)}, target {result.target:g}" for result in results]
    return f"{words}: {'; '.join(each)}"


def _measured(result: ObjectiveResult) -> str:
    return f"{result.measured:g}" if result.measured is not None else "not measured"
