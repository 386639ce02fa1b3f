"""What pods reserve is counted once, whatever happens to them and to the operator."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fovea_api.run import Run, RunOwnerStatus, RunStatus, RunType, RunUsage, Usage, UsageOfRuns
from fovea_operator.cache import Cache
from fovea_operator.kinds import builtin
from fovea_operator.objects import POD, RAY_JOB, TRAINING_JOB, Key
from fovea_operator.runs.plan import own_status
from fovea_operator.runs.snapshot import RunView
from fovea_operator.runs.usage import counted, usage_counts, usage_of, with_usage
from fovea_operator.workloads.demand import PodTime, pod_time
from fovea_operator.workloads.workload import Child, ChildState
from fovea_operator.writes import SetStatus

START = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def view(*pods: PodTime, name: str = "r-0123456789", usage: RunUsage | None = None, **status: Any) -> RunView:
    """A Run that was made at START."""
    spec = {
        "type": "Training",
        "owner": {"kind": "TrainingJob", "name": "cells"},
        "identity": f"sha256-{'1' * 64}",
        "recipe": {},
        "store": "s3://fovea/ns",
    }
    metadata = {"name": name, "namespace": "ns", "creationTimestamp": START}
    run = Run.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "usage": usage} | status}
    )
    return RunView(run, (), pod_times=pods)


def pod(since: float, until: float | None = None, cpus: float = 1, gpus: float = 0) -> PodTime:
    return PodTime(cpus, gpus, at(since), at(until) if until is not None else None)


def before(until: float, cpu_hours: float = 0, cpus: float = 0, gpus: float = 0) -> RunUsage:
    return RunUsage(until=at(until), cpu_hours=cpu_hours, held_cpus=cpus, held_gpus=gpus)


SITUATIONS: dict[str, tuple[RunUsage | None, Sequence[PodTime], tuple[float, float, float]]] = {
    # what was counted before, the pods at 3600 s; core hours, GPU hours, held cores
    "no pod was scheduled": (None, [], (0, 0, 0)),
    "all pods of all attempts count": (
        None,
        [pod(0, 1800), pod(1800, cpus=2, gpus=1), pod(2700, cpus=0.5)],
        (0.5 + 1 + 0.125, 0.5, 2.5),
    ),
    "a pod of an object of this name before does not": (None, [pod(-3600, -60)], (0, 0, 0)),
    "what was counted is not counted again": (
        before(1800, 0.5, 2),
        [pod(0, 900), pod(900, cpus=2)],
        (0.5 + 1, 0, 2),
    ),
    "a pod that ended unseen is counted until now": (before(1800, 0.5, 3), [pod(0)], (0.5 + 0.5 + 1, 0, 1)),
    "one that ended as it was counted last had been seen": (before(1800, 0.5, 1), [pod(0, 1798)], (0.5, 0, 0)),
    "one that is over for long was not held": (before(1800, 0.5, 1), [pod(0, 900)], (0.5 + 0.5, 0, 0)),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_is_counted(name: str) -> None:
    usage, pods, (cpu_hours, gpu_hours, held) = SITUATIONS[name]
    made = counted(view(*pods, usage=usage), at(3600))
    assert (made.cpu_hours, made.gpu_hours, made.held_cpus) == pytest.approx((cpu_hours, gpu_hours, held))
    assert made.until == at(3600)


def test_pods_that_ended_while_nobody_looked_ended_with_their_child() -> None:
    """The operator was away for a day; the RayJob says until when it had kept its cluster."""
    ended = Child(
        Key(RAY_JOB, "ns", "r-0123456789-1"),
        "u",
        "r-0123456789",
        START,
        ChildState.SUCCEEDED,
        released_at=at(1800 - 10),
    )
    made = counted(replace(view(usage=before(0, cpus=4)), children=(ended,)), at(86400))
    assert made.cpu_hours == pytest.approx(2)


NEWS: dict[str, tuple[RunUsage | None, Sequence[PodTime], dict[str, Any], bool]] = {
    # what was counted before, the pods, what changes in the status, whether that is counted now
    "nothing happened": (before(0, cpus=1), [pod(0)], {}, False),
    "pods that were never there": (None, [], {"phase": "Queued"}, False),
    "a pod starts beside others that start": (before(0, cpus=1), [pod(0), pod(9)], {"phase": "Pending"}, False),
    "work began": (before(0, cpus=1), [pod(0), pod(9)], {"phase": "Failed"}, True),
    "a run that works got one more": (before(0, cpus=1), [pod(0), pod(9)], {}, True),
    "a pod ended": (before(0, cpus=1), [pod(0, 60)], {}, True),
    "another took its place": (before(0, cpus=1), [pod(0, 60), pod(60)], {}, True),
    "a pod vanished": (before(0, cpus=1), [], {}, True),
    "one that ended is there still": (before(60), [pod(0, 60)], {}, False),
}


@pytest.mark.parametrize("name", NEWS)
def test_what_is_news(name: str) -> None:
    usage, pods, change, due = NEWS[name]
    phase = "Pending" if name.startswith("a pod starts") else "Running"
    known = view(*pods, usage=usage, phase=phase)
    made = with_usage(known, known.status.model_copy(update=change), at(3600))
    assert (made.usage != usage) is due


@dataclass(frozen=True)
class Life:
    """A pod, and until when a deleted one is seen."""

    time: PodTime
    seen_until: float


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_seen_and_when_the_sum_is_what_was_reserved(seed: int) -> None:
    """Pods come, end and are deleted; the operator looks now and then, and writes what is news. It sees each end while
    the pod is there, or what it held no more."""
    chance = random.Random(seed)
    lives = []
    for _ in range(8):
        since = chance.randrange(0, 2000)
        until = since + chance.randrange(30, 1500)
        cpus, gpus = chance.choice((0.1, 1.0, 4.0)), chance.choice((0.0, 1.0))
        lives.append(Life(pod(since, until, cpus, gpus), until + chance.randrange(30, 600)))
    known, now = view(), 0
    while now < 5000:
        now += chance.randrange(1, 30)  # a pod is seen after its end at least once

        def seen(life: Life, now: int = now) -> PodTime:
            return life.time if (life.time.until or START) <= at(now) else replace(life.time, until=None)

        pods = [seen(life) for life in lives if life.time.since <= at(now) and now < life.seen_until]
        known = replace(known, pod_times=tuple(pods))
        status = known.status
        if chance.random() < 0.2:
            status = status.model_copy(update={"phase": chance.choice(("Running", "Pending"))})
        made = with_usage(known, status, at(now))
        known = replace(known, run=known.run.model_copy(update={"status": made}))
    usage = known.status.usage
    assert usage is not None
    assert (usage.held_cpus, usage.held_gpus) == (0, 0)
    hours = [(life.time.until or START) - life.time.since for life in lives]
    cpu = sum(life.time.cpus * each.total_seconds() / 3600 for life, each in zip(lives, hours, strict=True))
    gpu = sum(life.time.gpus * each.total_seconds() / 3600 for life, each in zip(lives, hours, strict=True))
    assert usage.cpu_hours == pytest.approx(cpu, abs=1e-4)
    assert usage.gpu_hours == pytest.approx(gpu, abs=1e-4)


def test_metrics_count_what_was_added() -> None:
    counts = usage_counts(RunType.TRAINING, before(0, 1.5), before(60, 1.75))
    assert [(count.metric, count.labels, count.amount) for count in counts] == [
        ("fovea_run_reserved_cpu_seconds_total", ("Training",), 900.0)
    ]


def test_runs_that_the_history_limit_deletes_stay_in_the_sum_and_count_once() -> None:
    runs = [view(name=f"r-{digit * 10}", usage=before(0, hours)) for digit, hours in zip("cba", (1, 2, 4), strict=True)]
    names = tuple(each.name for each in runs)
    old = RunOwnerStatus(history=names, usage=None)
    made = usage_of(runs, names[2:], old, at(0))
    assert made is not None
    assert (made.cpu_hours, made.deleted_runs) == (7, Usage(cpu_hours=4))
    cut_off = RunOwnerStatus(history=names[:2], usage=made)  # the status was written, and the Run is there still
    assert usage_of(runs, names[2:], cut_off, at(0)) == made
    assert usage_of(runs[:2], (), cut_off, at(0)) == made
    assert usage_of([], (), RunOwnerStatus(), at(0)) is None


def test_that_pods_run_on_is_no_news_about_their_object_and_their_end_is() -> None:
    key = Key(TRAINING_JOB, "ns", "job")
    old, new = (RunOwnerStatus(usage=UsageOfRuns(cpu_hours=hours)) for hours in (1, 2))
    assert own_status(key, old, new, [view(pod(0))]) == ()
    assert own_status(key, old, new, [view(pod(0, until=60))]) == (SetStatus(key, new.to_dict()),)
    assert own_status(key, None, new, [view(pod(0))]) == (SetStatus(key, new.to_dict()),)


def test_what_a_pod_reserves_and_how_long() -> None:
    """As the API server has it, with what KubeRay and an admission webhook have added, through the cache."""
    container = {
        "name": "main",
        "image": "i",
        "resources": {"requests": {"cpu": "500m"}, "limits": {"nvidia.com/gpu": "2"}},
    }
    sidecar = {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}}
    first = {"name": "wait", "resources": {"requests": {"cpu": "200m"}}}
    spec = {"containers": [container], "initContainers": [sidecar, first], "overhead": {"cpu": "250m"}, "nodeName": "n"}
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-26T08:00:00Z"}
    ended = {"state": {"terminated": {"finishedAt": "2026-11-26T08:30:00Z", "exitCode": 0}}}
    value: Any = {
        "metadata": {"name": "p", "namespace": "ns", "resourceVersion": "1"},
        "spec": spec,
        "status": {"phase": "Running", "conditions": [scheduled]},
    }
    cache = Cache(builtin())

    def read(status: dict[str, Any]) -> PodTime | None:
        value["metadata"]["resourceVersion"] = str(int(value["metadata"]["resourceVersion"]) + 1)
        cache.put(POD, value | {"status": value["status"] | status})
        kept = cache.get(Key(POD, "ns", "p"))
        assert kept is not None
        assert "image" not in str(kept), "a cluster has many pods"
        return pod_time(kept)

    assert read({}) == PodTime(0.85, 2, START)
    assert read({"phase": "Succeeded", "containerStatuses": [ended]}) == PodTime(0.85, 2, START, at(1800))
    before_the_main = {"phase": "Failed", "initContainerStatuses": [ended], "containerStatuses": [{"state": {}}]}
    assert read(before_the_main) == PodTime(0.85, 2, START, at(1800))
    unready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-26T08:20:00Z"}
    assert read({"phase": "Failed", "conditions": [scheduled, unready]}) == PodTime(0.85, 2, START, at(1200))
    assert read({"phase": "Pending", "conditions": [scheduled | {"status": "False"}]}) is None


def test_an_older_status_is_counted_from_the_runs_creation() -> None:
    assert counted(replace(view(), pod_times=(pod(60),)), at(120)) == RunUsage(
        cpu_hours=round(60 / 3600, 6), until=at(120), held_cpus=1
    )
    assert RunStatus().usage is None
