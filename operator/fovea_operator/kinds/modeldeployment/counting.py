"""What the gateways are to count for the gates of a rollout, and what they have counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from fovea_api.common import parse_duration
from fovea_api.gateway import limit_label
from fovea_api.modeldeployment import CandidateVersion, GateMetric, ModelDeploymentSpec, Rollout
from fovea_api.profile import LABELLED, LABELLED_PAIRS

from fovea_operator.evidence.gates import Compared, Counts, Requests
from fovea_operator.kinds.modeldeployment.canary import Versions
from fovea_operator.measurement import COMPARED, FAILED, SHED, SLOW, STABLE, TESTED, Measured, Series

_DIGITS = 4
"""Of a limit in milliseconds."""
SCALE_UP_SECONDS = 300.0
"""Time in which an autoscaler brings a replica: a new node, an image, a bundle."""


def latency_limits(rollout: Rollout, candidate: CandidateVersion, *, stable: bool) -> tuple[float | None, float | None]:
    """Milliseconds beyond which a request of a version is slow: by `max`, and by the ratio to stable.

    Args:
        rollout: `spec.rollout`; of several gates of one form the strictest counts.
        candidate: The candidate, whose status has stable's latency at the start of the step.
        stable: Whether it is the stable version's limit, else the candidate's.
    """
    gates = [gate for gate in rollout.gates if gate.metric is GateMetric.LATENCY_P95]
    most = min((gate.max for gate in gates if gate.max is not None), default=None)
    ratio = min((gate.max_ratio_to_stable for gate in gates if gate.max_ratio_to_stable is not None), default=None)
    known = candidate.stable_latency_milliseconds
    if ratio is None or known is None:
        return most, None
    return most, _rounded(known if stable else known * ratio)


def stable_latency(versions: Versions, measured: Measured) -> float | None:
    """95th percentile of stable's latency in milliseconds; None: too few requests."""
    if versions.stable is None or (found := measured.stable_quantile(versions.stable.name or "", 0.95)) is None:
        return None
    return _rounded(1000 * found)


def may_scale_up(candidate: CandidateVersion, spec: ModelDeploymentSpec, replicas: int, now: datetime) -> bool:
    """Whether what a candidate turns away is no failure of it yet: an autoscaler brings replicas after the load came.
    That has its time from the start of a step: half of the interval, and SCALE_UP_SECONDS at most.

    Args:
        candidate: With the start of its step.
        spec: The deployment's.
        replicas: The candidate's, that are ready.
        now: The time.
    """
    most, started = spec.scaling.max_replicas, candidate.step_started
    if most is None or replicas >= most or started is None:
        return False
    allowed = min(parse_duration(spec.rollout.interval) / 2, timedelta(seconds=SCALE_UP_SECONDS))
    return now - started < allowed


def counted(
    versions: Versions, rollout: Rollout, measured: Measured, *, forgive_shed: bool = False
) -> tuple[Counts, datetime] | None:
    """What was counted since the last look that status records, and until when. None: nothing can be read.

    The first look after the warm-up of a step finds where counting begins, and counts nothing. `forgive_shed`: requests
    that the candidate turned away are left out; else they have failed.
    """
    candidate, until = versions.candidate, measured.last
    if candidate is None or versions.stable is None or until is None:
        return None
    weight = candidate.weight / 100 if candidate.step else 0.5
    if candidate.counted_until is None:
        return Counts(weight), until
    grown = measured.increase_since(candidate.counted_until)
    role = "candidate" if candidate.step else "shadow"
    compared = _by_label(grown, COMPARED, candidate.name or "", role)
    tested = _requests(grown, candidate.name or "", role, latency_limits(rollout, candidate, stable=False))
    if not forgive_shed:
        shed = sum(_by_label(grown, SHED, candidate.name or "", role).values())
        tested = replace(tested, total=tested.total + shed, failed=tested.failed + shed)
    stable = _requests(grown, versions.stable.name or "", STABLE, latency_limits(rollout, candidate, stable=True))
    pairs = _by_label(grown, LABELLED_PAIRS, candidate.name or "", role)
    labels = {outcome: pairs.get(outcome, 0.0) for outcome in ("both", "candidate", "stable", "neither")}
    both = Compared(total=sum(compared.values()), different=compared.get("different", 0.0), **labels)
    return Counts(weight, tested, stable, both), until


def _requests(
    grown: Mapping[Series, float], run: str, role: str, limits: tuple[float | None, float | None]
) -> Requests:
    over = _by_label(grown, SLOW, run, role)
    slow, slower = (over.get(limit_label(limit), 0.0) if limit is not None else 0.0 for limit in limits)
    labelled = _by_label(grown, LABELLED, run, role)
    return Requests(
        total=sum(_by_label(grown, TESTED, run, role).values()),
        failed=sum(_by_label(grown, FAILED, run, role).values()),
        slow=slow,
        slower=slower,
        labelled=sum(labelled.values()),
        right=labelled.get("right", 0.0),
    )


def _by_label(grown: Mapping[Series, float], name: str, run: str, role: str) -> dict[str, float]:
    """What grew of the series of a version, by the label that matters."""
    return {
        series.label: count
        for series, count in grown.items()
        if (series.name, series.run, series.role) == (name, run, role)
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
