"""What the operator measures about itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class QueueDepth(Collector):
    """Objects waiting to be reconciled, counted when somebody asks."""

    def __init__(self) -> None:
        self.function: Callable[[], Mapping[str, int]] = dict
        """Returns the number for each kind."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauge as it is now."""
        gauge = GaugeMetricFamily(
            "fovea_queue_depth", "Objects due to be reconciled that wait for a worker.", labels=("kind",)
        )
        for kind, depth in self.function().items():
            gauge.add_metric((kind,), depth)
        yield gauge


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """A counter that plans increase."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


ATTEMPTS_ENDED = MetricDefinition("fovea_run_attempts_ended_total", "Attempts that ended.", ("type", "outcome"))
CPU_SECONDS = MetricDefinition(
    "fovea_run_reserved_cpu_seconds_total", "CPU core seconds that pods of runs have reserved.", ("type",)
)
GPU_SECONDS = MetricDefinition(
    "fovea_run_reserved_gpu_seconds_total", "GPU seconds that pods of runs have reserved.", ("type",)
)


class Metrics:
    """All metrics of one operator, in a registry of their own. `definitions`: those of the kinds that it reconciles."""

    def __init__(self, definitions: Iterable[MetricDefinition] = ()) -> None:
        self.registry = registry = CollectorRegistry()
        self.queue_depth = QueueDepth()
        registry.register(self.queue_depth)
        self.queue_wait = Histogram(
            "fovea_queue_wait_seconds", "Time an object waited.", ("kind",), buckets=_SECONDS, registry=registry
        )
        self.reconcile_duration = Histogram(
            "fovea_reconcile_seconds", "Time of one reconcile.", ("kind",), buckets=_SECONDS, registry=registry
        )
        self.reconcile_errors = Counter(
            "fovea_reconcile_errors_total", "Reconciles that failed.", ("kind", "reason"), registry=registry
        )
        self.watch_events = Counter(
            "fovea_watch_events_total", "Events of the watch.", ("kind", "type"), registry=registry
        )
        self.requests = Counter(
            "fovea_api_requests_total", "Requests to the API server.", ("verb", "kind", "code"), registry=registry
        )
        self.cached = Gauge("fovea_cached_objects", "Objects in the cache.", ("kind",), registry=registry)
        self.leader = Gauge("fovea_leader", "1 on the replica that works.", registry=registry)
        self._planned = {
            metric.name: Counter(metric.name, metric.help, metric.labels, registry=registry)
            for metric in (ATTEMPTS_ENDED, CPU_SECONDS, GPU_SECONDS, *definitions)
        }

    def count(self, name: str, labels: tuple[str, ...], amount: float = 1) -> None:
        """Counts something that a plan has carried out."""
        counter = self._planned[name]
        (counter.labels(*labels) if labels else counter).inc(amount)
