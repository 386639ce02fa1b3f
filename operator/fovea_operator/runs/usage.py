"""Counts what the pods of runs reserve: their requests, times the time from being scheduled to their end.

A Run's status has what is counted so far, and what its pods held then. So it is counted whatever happens to the pods
and to the operator: what was held and is there no more has ended unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta

from fovea_api.run import RunOwnerStatus, RunStatus, RunType, RunUsage, Usage, UsageOfRuns

from fovea_operator.metrics import CPU_SECONDS, GPU_SECONDS
from fovea_operator.runs.snapshot import RunView
from fovea_operator.workloads.demand import PodTime
from fovea_operator.writes import Count

_LAG = timedelta(seconds=10)
"""Time within which the end of a pod is seen: one that ended so long before the last count may have been held then."""
_DIGITS = 6
"""Of an hour: milliseconds."""


def own_part(status: RunStatus) -> RunStatus:
    """A Run's status without what its pods write."""
    return status.model_copy(update={"progress": None, "result": None})


def counted(view: RunView, now: datetime) -> RunUsage:
    """What the pods of a run have reserved until now, and what they hold."""
    before = view.status.usage or RunUsage(until=view.created)
    start, pods = before.until, view.pod_times
    known = _known(view, before)
    unseen = max(0.0, (_last_end(view, now) - start).total_seconds())

    def hours(amount: Callable[[PodTime], float], held: float) -> float:
        seen = sum(amount(pod) * pod.seconds_between(start, now) for pod in pods)
        vanished = max(0.0, held - sum(map(amount, known)))
        return (seen + vanished * unseen) / 3600

    held_cpus, held_gpus = _held(pod for pod in pods if pod.until is None)
    return RunUsage(
        cpu_hours=round(before.cpu_hours + hours(_cpus, before.held_cpus), _DIGITS),
        gpu_hours=round(before.gpu_hours + hours(_gpus, before.held_gpus), _DIGITS),
        until=now,
        held_cpus=held_cpus,
        held_gpus=held_gpus,
    )


def with_usage(view: RunView, status: RunStatus, now: datetime) -> RunStatus:
    """A run's next status with what is counted.

    That pods run on is no news: it is counted when the status changes anyway, when pods have ended, and when a run that
    works has got more of them.
    """
    before, after = view.status.usage or RunUsage(until=view.created), counted(view, now)
    known, holds = _held(_known(view, before)), (after.held_cpus, after.held_gpus)
    held = (before.held_cpus, before.held_gpus)
    ended = any(pod.until is not None and pod.seconds_between(before.until, now) for pod in view.pod_times)
    vanished = any(less < more for less, more in zip(known, held, strict=True))
    grown = status.phase == "Running" and holds != held
    changed = status != own_part(view.status) and (view.status.usage is not None or any(holds))
    return status.model_copy(update={"usage": after}) if ended or vanished or grown or changed else status


def usage_counts(type: RunType, before: RunUsage | None, after: RunUsage | None) -> tuple[Count, ...]:
    """The metrics of what was counted since."""
    old, new = before or Usage(), after or Usage()
    grown = ((CPU_SECONDS, new.cpu_hours - old.cpu_hours), (GPU_SECONDS, new.gpu_hours - old.gpu_hours))
    return tuple(Count(metric.name, (type.value,), hours * 3600) for metric, hours in grown if hours > 0)


def usage_of(runs: Sequence[RunView], going: Collection[str], old: RunOwnerStatus, now: datetime) -> UsageOfRuns | None:
    """What the pods of an object's runs have reserved until now.

    `going`: names of Runs that are deleted after the status is written; one that its history no longer names was
    counted among the deleted then.
    """
    deleted = (old.usage.deleted_runs if old.usage is not None else None) or Usage()
    known = set(old.history)
    deleted = _sum([deleted, *(counted(view, now) for view in runs if view.name in going and view.name in known)])
    total = _sum([deleted, *(counted(view, now) for view in runs if view.name not in going)])
    if total == Usage():
        return None
    return UsageOfRuns(**dict(total), deleted_runs=deleted if deleted != Usage() else None)


def _sum(parts: Iterable[Usage]) -> Usage:
    known = list(parts)
    return Usage(
        cpu_hours=round(sum(part.cpu_hours for part in known), _DIGITS),
        gpu_hours=round(sum(part.gpu_hours for part in known), _DIGITS),
    )


def _known(view: RunView, before: RunUsage) -> list[PodTime]:
    """The pods that were held at the last count and are there still, ended or not."""
    start = before.until
    return [pod for pod in view.pod_times if pod.since <= start and (pod.until is None or pod.until >= start - _LAG)]


def _held(pods: Iterable[PodTime]) -> tuple[float, float]:
    """Cores and GPUs of pods together."""
    known = list(pods)
    return round(sum(map(_cpus, known)), _DIGITS), round(sum(map(_gpus, known)), _DIGITS)


def _cpus(pod: PodTime) -> float:
    return pod.cpus


def _gpus(pod: PodTime) -> float:
    return pod.gpus


def _last_end(view: RunView, now: datetime) -> datetime:
    """When pods that are there no more ended at the latest: with their children, where these have ended."""
    ends = [child.released_at for child in view.children]
    known = [end for end in ends if end is not None]
    return min(now, max(known) + _LAG) if known and len(known) == len(ends) else now
