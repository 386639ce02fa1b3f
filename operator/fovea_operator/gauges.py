"""Gauges about the objects themselves, as their statuses have them: read from the cache when somebody asks.

They exist on the replica that works alone, and as long as their object. What could grow without bound is cut: classes
beyond MAX_CLASSES count as one, a mapping gives its first MAX_VALUES, and a run that has ended its phase alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import JsonValue

from fovea_operator.objects import Kind, View, items, mapping, text

if TYPE_CHECKING:
    from fovea_operator.registry import Registry

MAX_CLASSES = 100
OTHER_CLASSES = "(other)"
"""As in the gateway's metrics."""
MAX_VALUES = 100

_OBJECT = ("namespace", "name")

Values = Iterable[tuple[tuple[str, ...], float]]
"""Values by their labels."""


@dataclass(frozen=True, slots=True)
class ObjectGauge:
    """A gauge with values of each object of a kind. Its labels are `namespace`, `name` and those given."""

    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[View], Values]
    """What an object has to say."""


@dataclass(frozen=True, slots=True)
class StatusNumbers:
    """Reads the numbers at a path in the status: a number has no further label, of a mapping each key is one."""

    path: tuple[str, ...]
    scale: float = 1
    """What the number is multiplied by."""

    def __call__(self, value: View) -> Values:
        found = mapping(value, "status", *self.path[:-1]).get(self.path[-1])
        if isinstance(found, dict):
            known = islice(numbers(found), MAX_VALUES)
            yield from (((key,), each * self.scale) for key, each in known)
        elif (single := number_of(found)) is not None:
            yield (), single * self.scale


def number_of(value: JsonValue) -> float | None:
    """A number of JSON, be it whole, a fraction, or true or false."""
    return float(value) if isinstance(value, int | float) else None


def numbers(values: Mapping[str, JsonValue]) -> Iterator[tuple[str, float]]:
    """The numbers in a mapping, by their keys."""
    for key, value in values.items():
        if (found := number_of(value)) is not None:
            yield key, found


def _ready(value: View) -> Values:
    for condition in items(value, "status", "conditions"):
        if text(condition, "type") == "Ready":
            yield (), float(text(condition, "status") == "True")


def _stalled(value: View) -> Values:
    for condition in items(value, "status", "conditions"):
        if text(condition, "type") == "Stalled" and text(condition, "status") == "True":
            yield (text(condition, "reason"),), 1.0


def _usage(value: View) -> Values:
    for key, hours in numbers(mapping(value, "status", "usage")):
        yield (key.removesuffix("Hours"),), hours


OF_EVERY_KIND = (
    ObjectGauge("fovea_object_ready", "Whether the condition Ready of an object is True.", (), _ready),
    ObjectGauge("fovea_object_stalled", "1 while somebody has to change something.", ("reason",), _stalled),
    ObjectGauge("fovea_object_usage_hours", "Core (cpu) and GPU hours of its runs.", ("resource",), _usage),
)
"""Gauges of all kinds that users write, with the label `kind` in front."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectGauges(Collector):
    """All gauges about objects. `listed`: the objects of a kind that are there now, none before there is a cache."""

    registry: Registry
    listed: Callable[[Kind], Iterable[View]]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges as they are now."""
        for gauge in OF_EVERY_KIND:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=("kind", *_OBJECT, *gauge.labels))
            for kind in self.registry.primary:
                self._add(family, gauge, kind, (kind.name,))
            yield family
        for kind, gauges in self.registry.gauges.items():
            for gauge in gauges:
                family = GaugeMetricFamily(gauge.name, gauge.help, labels=(*_OBJECT, *gauge.labels))
                self._add(family, gauge, kind, ())
                yield family

    def _add(self, family: GaugeMetricFamily, gauge: ObjectGauge, kind: Kind, before: tuple[str, ...]) -> None:
        for value in self.listed(kind):
            identity = (text(value, "metadata", "namespace"), text(value, "metadata", "name"))
            for labels, number in gauge.read(value):
                family.add_metric((*before, *identity, *labels), number)
