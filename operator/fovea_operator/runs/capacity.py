"""Who holds what a child that cannot be scheduled waits for, as far as Fovea's own runs hold it."""

from __future__ import annotations

from collections.abc import Iterator

from fovea_api import names

from fovea_operator.objects import RAY_CLUSTER, Key, View, mapping, text
from fovea_operator.observe import Observer
from fovea_operator.workloads.demand import amounts, total_of
from fovea_operator.workloads.workload import ChildState, Workload, controller_of

UNSCHEDULABLE = "Unschedulable"
_LISTED = 3


def shortage(observer: Observer, workload: Workload, value: View) -> str:
    """What a child asks for in all, and which other runs hold something, to be put behind the scheduler's words: those
    that have finished and keep their pods, and those that start as well, for two may wait for each other."""
    pod_sets = workload.demand(value)
    asked = f"; the run asks for {amounts(total_of(pod_sets))} in all ({'; '.join(map(str, pod_sets))})"
    holders = list(_holders(observer, text(value, "metadata", "namespace"), text(value, "metadata", "name")))
    more = f" and {len(holders) - _LISTED} more" if len(holders) > _LISTED else ""
    return asked + (f"; {', '.join(holders[:_LISTED])}{more}" if holders else "")


def _holders(observer: Observer, namespace: str, own: str) -> Iterator[str]:
    """Finished runs whose Ray cluster is there still, and until when, and runs that start; those of other namespaces
    are not named."""
    cache = observer.cache
    workloads = {workload.kind: workload for workload in observer.registry.workloads}
    for cluster in cache.keys(RAY_CLUSTER):
        name = controller_of(cache.get(cluster) or {})
        for kind, workload in workloads.items():
            job = cache.get(Key(kind, cluster.namespace, name)) if RAY_CLUSTER in workload.parts else None
            if job is None or (cluster.namespace, name) == (namespace, own):
                continue
            state = workload.state(job, (), ()).state
            run = text(mapping(job, "metadata", "labels"), names.LABEL_RUN)
            who = f"run {run}" if cluster.namespace == namespace else "a run of another namespace"
            if state is ChildState.STARTING:
                yield f"{who} starts as well, and the two may wait for each other: suspend one, or use a queue"
            if not state.ended:
                continue
            until = workload.released_at(job)
            when = f" until {until:%H:%M:%S} UTC" if until is not None else ""
            yield f"{who} has finished and keeps {amounts(total_of(workload.demand(job)))}{when}"
