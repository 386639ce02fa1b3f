"""What the pods of a child ask for in all, as the scheduler counts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fovea_api.common import parse_quantity

from fovea_operator.objects import View, items, mapping

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
    """What a pod asks for: the sum of its containers, or an init container that asks for more.

    `injected`: requests of an init container that others add.
    """
    together = total(_container(container) for container in items(pod_spec, "containers"))
    before = [injected or {}, *(_container(container) for container in items(pod_spec, "initContainers"))]
    names = dict.fromkeys((*together, *(name for each in before for name in each)))
    return {name: max(together.get(name, 0.0), *(each.get(name, 0.0) for each in before)) for name in names}


def _container(container: View) -> Amounts:
    """A container's requests; where it names only a limit, that is requested."""
    limits, requests = (mapping(container, "resources", name) for name in ("limits", "requests"))
    return {name: parse_quantity(str(amount)) for name, amount in {**limits, **requests}.items()}


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
