"""What the pods of a child ask for in all, as the scheduler counts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fovea_api.common import parse_quantity

from fovea_operator.objects import JsonObject, View, items, mapping, text, time

CPU = "cpu"
Amounts = Mapping[str, float]
"""Amounts by resource: cores of cpu, bytes of memory, pieces of anything else."""
_UNITS = (("Ti", 2.0**40), ("Gi", 2.0**30), ("Mi", 2.0**20), ("Ki", 2.0**10))


@dataclass(frozen=True, slots=True)
class PodSet:
    """Pods of a child that are alike."""

    name: str
    count: int
    each: Amounts

    def __str__(self) -> str:
        who = f"{self.name} of" if self.count == 1 else f"{self.count} {self.name}s of"
        return f"{who} {amounts(self.each)}"


def requests_of(pod_spec: View, injected: Amounts | None = None) -> Amounts:
    """What a pod asks for: the sum of its containers, or an init container that asks for more; and its overhead.

    `injected`: requests of an init container that others add.
    """
    first = list(items(pod_spec, "initContainers"))
    beside = [container for container in first if text(container, "restartPolicy") == "Always"]
    together = total(_container(container) for container in (*items(pod_spec, "containers"), *beside))
    before = [injected or {}, *(_container(container) for container in first if container not in beside)]
    names = dict.fromkeys((*together, *(name for each in before for name in each)))
    asked = {name: max(together.get(name, 0.0), *(each.get(name, 0.0) for each in before)) for name in names}
    return total([asked, _amounts(mapping(pod_spec, "overhead"))])


def _container(container: View) -> Amounts:
    """A container's requests; where it names only a limit, that is requested."""
    limits, requests = (mapping(container, "resources", name) for name in ("limits", "requests"))
    return _amounts({**limits, **requests})


def _amounts(quantities: View) -> Amounts:
    return {name: parse_quantity(str(amount)) for name, amount in quantities.items()}


def is_gpu(resource: str) -> bool:
    """Whether pieces of a resource are GPUs or slices of them, such as nvidia.com/gpu and nvidia.com/mig-1g.10gb."""
    return resource.endswith(("/gpu", ".shared")) or "/mig-" in resource


def kept_of_pod(spec: View) -> JsonObject:
    """The part of a pod's spec that says what it asks for, where, and waits for; it is all that is kept of it in
    memory."""
    kept: JsonObject = {}
    for group in ("containers", "initContainers"):
        named = (
            {name: each[name] for name in ("resources", "restartPolicy") if name in each} for each in items(spec, group)
        )
        kept[group] = [*named]
    return kept | {name: spec[name] for name in ("overhead", "schedulingGates", "nodeSelector") if name in spec}


@dataclass(frozen=True, slots=True)
class PodTime:
    """What a pod reserves, and how long."""

    cpus: float
    gpus: float
    since: datetime
    """When it was scheduled."""
    until: datetime | None = None
    """When it ended; None: it has not."""

    def seconds_between(self, start: datetime, end: datetime) -> float:
        """The part of its time that lies between two times."""
        return max(0.0, (min(self.until or end, end) - max(self.since, start)).total_seconds())


def pod_time(pod: View) -> PodTime | None:
    """What a pod reserves, and how long; None: it has not been scheduled."""
    conditions = {text(each, "type"): each for each in items(pod, "status", "conditions")}
    scheduled = conditions.get("PodScheduled", {})
    since = time(scheduled, "lastTransitionTime") if text(scheduled, "status") == "True" else None
    if since is None:
        return None
    asked = requests_of(mapping(pod, "spec"))
    until: datetime | None = None
    if text(pod, "status", "phase") in ("Succeeded", "Failed"):
        ended = (
            time(each, "state", "terminated", "finishedAt")
            for field in ("initContainerStatuses", "containerStatuses")
            for each in items(pod, "status", field)
        )
        unready = time(conditions.get("Ready", {}), "lastTransitionTime")
        until = max(filter(None, ended), default=unready) or since
    return PodTime(asked.get(CPU, 0.0), sum(amount for name, amount in asked.items() if is_gpu(name)), since, until)


def total(parts: Iterable[Amounts]) -> Amounts:
    """The sum of amounts."""
    summed: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            summed[name] = summed.get(name, 0.0) + amount
    return summed


def total_of(pod_sets: Sequence[PodSet]) -> Amounts:
    """What all pods ask for together."""
    return total({name: amount * pods.count for name, amount in pods.each.items()} for pods in pod_sets)


def amounts(requested: Amounts) -> str:
    """Amounts in words, such as `1.2 cpu, 3Gi memory`."""
    return (
        ", ".join(f"{_quantity(name, amount)} {name}" for name, amount in sorted(requested.items()) if amount)
        or "nothing"
    )


def _quantity(name: str, amount: float) -> str:
    if name in ("memory", "ephemeral-storage"):
        for unit, size in _UNITS:
            if amount >= size:
                return f"{amount / size:.4g}{unit}"
    return f"{amount:.4g}"
