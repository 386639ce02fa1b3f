"""The registry of kinds: all that the engine, the watch, the cache, the chart and the docs need to know of each.

A kind is a package below `kinds/` whose `ENTRY` says it. `kinds.builtin()` collects them; a test, or whoever builds
upon the operator, adds entries of their own with `Registry.extended`.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from fovea_api import names
from fovea_api.common import Reference, Resource
from fovea_api.errors import InvalidManifest
from fovea_api.run import Run, RunType

from fovea_operator.gauges import ObjectGauge
from fovea_operator.metrics import MetricDefinition
from fovea_operator.objects import NAMESPACE, POD, RUN, Key, Kind, View, mapping, parse, text
from fovea_operator.runs.gauges import GAUGES as RUN_GAUGES
from fovea_operator.settings import Settings
from fovea_operator.workloads.job import JobWorkload
from fovea_operator.workloads.workload import Workload
from fovea_operator.writes import Plan

if TYPE_CHECKING:
    from fovea_operator.observe import Observer

S = TypeVar("S")
Reconcile = Callable[["Observer", Key, datetime], Awaitable[Plan | None]]
"""Observes one object and plans its next writes. None: it is deleted."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What the operator may do with resources of an API group: one rule of its ClusterRole."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindEntry:
    """A kind that users write and the operator reconciles."""

    kind: Kind
    model: type[Resource]
    references: Callable[[Any], Iterable[Reference]]
    """The objects that a spec of this kind refers to. A change of one wakes those that refer to it, and the reverse."""
    reconcile: Reconcile
    """Observes an object and plans its next writes."""
    run_types: Mapping[RunType, Workload] = field(default_factory=dict)
    """The runs that work for it, and what carries each out."""
    children: tuple[Kind, ...] = ()
    """Kinds of its other children: those that it creates or applies itself."""
    rights: tuple[Rights, ...] = ()
    """What its observing needs beyond reading primary kinds, Runs and children."""
    metrics: tuple[MetricDefinition, ...] = ()
    """Metrics of its own, which its plans count."""
    gauges: tuple[ObjectGauge, ...] = ()
    """What its objects' statuses say, for Prometheus."""


def reconciler(
    observe: Callable[[Observer, Key, datetime], Awaitable[S | None]], plan: Callable[[S, Settings], Plan]
) -> Reconcile:
    """A kind's observing and its planner as one step."""

    async def step(observer: Observer, key: Key, now: datetime) -> Plan | None:
        snapshot = await observe(observer, key, now)
        return plan(snapshot, observer.settings) if snapshot is not None else None

    return step


def kind_of(model: type[Resource]) -> Kind:
    """The kind of an API model."""
    return Kind(model.__name__, names.API_VERSION, model.definition.plural)


@dataclass(frozen=True)
class Registry:
    """The kinds that one operator reconciles."""

    entries: tuple[KindEntry, ...]

    @classmethod
    def of_packages(cls, package: ModuleType) -> Registry:
        """The `ENTRY` of every package in a package, in the order of their names."""
        packages = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)
        return cls(tuple(importlib.import_module(f"{package.__name__}.{name}").ENTRY for name in packages))

    def extended(self, *entries: KindEntry) -> Registry:
        """A registry that has these kinds too."""
        return Registry((*self.entries, *entries))

    @cached_property
    def primary(self) -> tuple[Kind, ...]:
        """The kinds that users write."""
        return tuple(entry.kind for entry in self.entries)

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """The kinds of children that work on runs."""
        known = {workload.kind: workload for workload in self.run_types.values()}
        return tuple(known.values())

    @cached_property
    def run_types(self) -> Mapping[RunType, Workload]:
        """What carries each type of run out."""
        own = {type: workload for entry in self.entries for type, workload in entry.run_types.items()}
        return {**own, RunType.CLEANUP: JobWorkload()}

    @cached_property
    def children(self) -> tuple[Kind, ...]:
        """Kinds of which only objects with our label are watched; pods last, for they are made last."""
        of_runs = (kind for workload in self.workloads for kind in (workload.kind, *workload.parts))
        own = (kind for entry in self.entries for kind in entry.children)
        return tuple(dict.fromkeys((*of_runs, *own, POD)))

    @cached_property
    def watched(self) -> tuple[Kind, ...]:
        """In the order in which they are listed: what is written first is listed first, so that a child that a listed
        status speaks of is never missing because it was created between two listings."""
        return (NAMESPACE, *self.primary, RUN, *self.children)

    @cached_property
    def _by_kind(self) -> Mapping[Kind, KindEntry]:
        return {entry.kind: entry for entry in self.entries}

    @cached_property
    def _by_name(self) -> Mapping[str, Kind]:
        return {kind.name: kind for kind in self.primary}

    @property
    def metrics(self) -> tuple[MetricDefinition, ...]:
        """The metrics that kinds have of their own."""
        return tuple(metric for entry in self.entries for metric in entry.metrics)

    @cached_property
    def gauges(self) -> Mapping[Kind, tuple[ObjectGauge, ...]]:
        """The gauges about objects, by their kind; of Runs too."""
        return {**{entry.kind: entry.gauges for entry in self.entries}, RUN: RUN_GAUGES}

    def entry(self, kind: Kind) -> KindEntry | None:
        """The entry of a primary kind."""
        return self._by_kind.get(kind)

    def status_fields(self, kind: Kind) -> frozenset[str]:
        """The fields that the status of a primary kind or of a Run has in this version of the API."""
        entry = self.entry(kind)
        return (entry.model if entry is not None else Run).status_fields()

    def primary_kind(self, name: str) -> Kind | None:
        """The primary kind of this name."""
        return self._by_name.get(name)

    def owner_of(self, value: View) -> Key | None:
        """The object of ours that a Run or child works for, by its labels."""
        labels = mapping(value, "metadata", "labels")
        kind, name = self.primary_kind(text(labels, names.LABEL_KIND)), text(labels, names.LABEL_NAME)
        return Key(kind, text(value, "metadata", "namespace"), name) if kind is not None and name else None

    def references(self, kind: Kind, value: View) -> Iterator[Reference]:
        """What an object of a primary kind refers to. Raises InvalidManifest when it cannot be read."""
        if (entry := self.entry(kind)) is not None:
            yield from entry.references(getattr(parse(entry.model, value), "spec"))  # noqa: B009 (each kind has one)

    def referred(self, kind: Kind, value: View) -> Iterator[Key]:
        """The objects of primary kinds that an object refers to; none where this version of the API cannot read it."""
        with contextlib.suppress(InvalidManifest):  # the object itself reports that
            for reference in self.references(kind, value):
                if (target := self.primary_kind(reference.kind)) is not None:
                    yield Key(target, text(value, "metadata", "namespace"), reference.name)
