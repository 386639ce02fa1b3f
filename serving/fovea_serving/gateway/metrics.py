"""What a gateway measures, for Prometheus: equal for both runtimes, and such that replicas can be summed.

Cardinality is bounded: classes beyond MAX_CLASSES count as one, codes, reasons and formats come from fixed sets, runs
from the configuration, and of the versions that no longer answer the last FORMER_VERSIONS are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from fovea_api.gateway import limit_label
from fovea_api.modeldeployment import ServiceObjectives
from fovea_api.profile import MAX_CLASSES, OTHER_CLASSES
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from fovea_serving.gateway.drift_metrics import LABELS, DriftMetrics
from fovea_serving.gateway.load_test import LoadTestMetrics
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.pipeline.header import ImageHeader
from fovea_serving.upstreams import Answer

FORMER_VERSIONS = 4
"""Versions that no longer answer and whose series are kept: Prometheus still has to read their last requests."""
CODES = ("200", "429", "500", "502", "503", "504")
"""Answers that are counted from zero: a rate would miss the first of a series that appears with it."""

SAME, DIFFERENT = "same", "different"
"""What a comparison of two answers comes to."""
SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KILOBYTES = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000)
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder that several processes count in; prometheus-client looks at it when it is imported."""


class Metrics:
    """The counters of one gateway.

    Args:
        namespace: Of the ModelDeployment; empty for `fovea serve`.
        deployment: Its name.
    """

    def __init__(self, namespace: str = "", deployment: str = "") -> None:
        self.registry = CollectorRegistry()
        self._place = (namespace, deployment)
        self._edge: float | None = None
        """Edge of a latency bucket at the objective, in seconds."""
        registry = self.registry
        self.drift = DriftMetrics(registry)
        self.load_test = LoadTestMetrics(registry, SECONDS)
        self._requests = Counter(
            "fovea_serving_requests", "Requests, by the status of the answer.", (*LABELS, "code"), registry=registry
        )
        self._errors = Counter(
            "fovea_serving_errors", "Requests that failed, by the error.", (*LABELS, "reason"), registry=registry
        )
        self._latency = self._latency_histogram(SECONDS)
        self._batch_size = Histogram(
            "fovea_serving_batch_size",
            "Images that went through the network together, for each image; not given by Triton.",
            LABELS,
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self._classes = Counter(
            "fovea_serving_predictions",
            "Objects by their class, or images by their most probable class.",
            (*LABELS, "class"),
            registry=registry,
        )
        self._kilobytes = Histogram(
            "fovea_serving_image_kilobytes", "Size of each file.", LABELS, buckets=KILOBYTES, registry=registry
        )
        self._formats = Counter(
            "fovea_serving_images", "Images by their file's format.", (*LABELS, "format"), registry=registry
        )
        self._at_work = Gauge(
            "fovea_serving_images_at_work",
            "Images that were taken in and are not answered yet: the queue with what is being computed.",
            LABELS[:2],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._wait = Gauge(
            "fovea_serving_expected_wait_seconds",
            "Time that a request which came now would wait; 429 is answered beyond the limit.",
            LABELS[:2],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._weight = Gauge(
            "fovea_serving_version_weight",
            "Share of the requests, in per cent.",
            LABELS,
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._ready = Gauge(
            "fovea_serving_version_ready",
            "Whether the golden image got the known answer at the last look.",
            LABELS,
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._promised = Gauge(
            "fovea_serving_objective",
            "What the deployment promises, by the field of spec.objectives and in its unit.",
            (*LABELS[:2], "metric"),
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._tested = Counter(
            "fovea_serving_rollout_requests",
            "Requests by which a candidate is tested: its own, and stable's meanwhile; of a shadow the copies, and "
            "stable's that were copied. Without those that were wrong or shed.",
            LABELS,
            registry=registry,
        )
        self._tested_failed = Counter(
            "fovea_serving_rollout_failures", "Those of them that the service failed.", LABELS, registry=registry
        )
        self._tested_slow = Counter(
            "fovea_serving_rollout_slow",
            "Those of them that took longer than a limit of the latency gates.",
            (*LABELS, "milliseconds"),
            registry=registry,
        )
        self._tested_shed = Counter(
            "fovea_serving_rollout_shed",
            "Requests that the candidate turned away while the stable version had room; not among the others.",
            LABELS,
            registry=registry,
        )
        self._compared = Counter(
            "fovea_serving_rollout_compared",
            "Requests that candidate and stable answered both, by whether they agree.",
            (*LABELS, "answers"),
            registry=registry,
        )
        self._copies_shed = Counter(
            "fovea_serving_copies_shed",
            "Copies for a version that were left out because too many were under way.",
            LABELS,
            registry=registry,
        )
        self._revision = Gauge(
            "fovea_serving_configuration",
            "1 for the revision of the configuration that is followed.",
            (*LABELS[:2], "revision"),
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._revision_followed: tuple[str, ...] | None = None
        self._limits: set[tuple[str, ...]] = set()
        self._routed: set[tuple[str, ...]] = set()
        self._former: list[str] = []
        """Runs that no longer answer, the oldest first."""

    def describe(self, namespace: str, deployment: str, objectives: ServiceObjectives | None) -> None:
        """Whose gateway this is, and what it promises; the latency gets a bucket edge."""
        self._place = self.drift.place = (namespace, deployment)
        if MULTIPROCESS not in os.environ:
            self._promised.clear()
        for metric, value in (objectives.to_dict() if objectives is not None else {}).items():
            self._promised.labels(*self._place, metric).set(value)  # type: ignore[arg-type]  # all are numbers
        milliseconds = objectives.latency_p95_milliseconds if objectives is not None else None
        edge = milliseconds / 1000 if milliseconds is not None else None
        if edge != self._edge:
            self._edge = edge
            edges = {*SECONDS, *([edge] if edge is not None else [])}
            self.registry.unregister(self._latency)
            self._latency = self._latency_histogram(tuple(sorted(edges)))

    def request(self, version: Version | None, code: int, reason: str, seconds: float | None) -> None:
        """A request that was answered: with which status, by which error (empty: none), after how long."""
        labels = self._labels(version)
        self._requests.labels(*labels, str(code)).inc()
        if reason:
            self._errors.labels(*labels, reason).inc()
        if seconds is not None:
            self._latency.labels(*labels).observe(seconds)

    def tested(self, version: Version, code: int, seconds: float) -> None:
        """A request by which a candidate is tested, as it was answered. One that it turned away (429) is counted apart:
        whether that is a failure depends on whether it may still scale up."""
        labels = self._labels(version)
        if code == 429:
            self._tested_shed.labels(*labels).inc()
            return
        self._tested.labels(*labels).inc()
        if code >= 500:
            self._tested_failed.labels(*labels).inc()
        for limit in version.limits:
            if 1000 * seconds > limit:
                self._tested_slow.labels(*labels, limit_label(limit)).inc()

    def compared(self, candidate: Version, agreed: bool) -> None:
        """A request that candidate and stable answered both."""
        self._compared.labels(*self._labels(candidate), SAME if agreed else DIFFERENT).inc()

    def copy_shed(self, version: Version) -> None:
        """A copy that was left out."""
        self._copies_shed.labels(*self._labels(version)).inc()

    def images(self, version: Version, images: Sequence[bytes], headers: Sequence[ImageHeader]) -> None:
        """What came in."""
        labels = self._labels(version)
        for image, header in zip(images, headers, strict=True):
            self._kilobytes.labels(*labels).observe(len(image) / 1000)
            self._formats.labels(*labels, header.format).inc()

    def answers(self, version: Version, answers: Sequence[Answer]) -> None:
        """What was predicted."""
        labels, classes = self._labels(version), version.model.manifest.classes
        for answer in answers:
            if answer.batch_size is not None:
                self._batch_size.labels(*labels).observe(answer.batch_size)
            for label, count in answer.prediction.counts().items():
                name = classes[label] if label < MAX_CLASSES else OTHER_CLASSES
                self._classes.labels(*labels, name).inc(count)

    def load(self, at_work: int, expected_wait: float) -> None:
        """How much is at work now."""
        self._at_work.labels(*self._place).set(at_work)
        self._wait.labels(*self._place).set(expected_wait)

    def routing(self, routing: Routing) -> None:
        """The shares of the versions; those that left have none. What counts a new one's requests begins at zero."""
        for labels in self._routed:
            self._weight.labels(*labels).set(0)
            self._ready.labels(*labels).set(0)
        before = {labels[2] for labels in self._routed}
        for version in routing.versions:
            labels = self._labels(version)
            self._weight.labels(*labels).set(version.weight)
            self._latency.labels(*labels)
            for code in CODES:
                self._requests.labels(*labels, code)
            self._count_from_zero(version, labels)
        self._follow(routing.revision)
        self._drop_limits({(*self._labels(v), limit_label(limit)) for v in routing.versions for limit in v.limits})
        self._routed = {self._labels(version) for version in routing.versions}
        runs = {version.name for version in routing.versions}
        self._former = [run for run in self._former if run not in runs] + sorted(before - runs)
        while len(self._former) > FORMER_VERSIONS:
            self._forget(self._former.pop(0))

    def _follow(self, revision: str) -> None:
        if self._revision_followed is not None:
            self._revision.labels(*self._revision_followed).set(0)
        if MULTIPROCESS not in os.environ:
            self._revision.clear()
        self._revision_followed = (*self._place, revision)
        self._revision.labels(*self._revision_followed).set(1)

    def _drop_limits(self, counted: set[tuple[str, ...]]) -> None:
        """Drops the series of limits by which nothing is counted any more."""
        if MULTIPROCESS not in os.environ:
            for labels in self._limits - counted:
                self._tested_slow.remove(*labels)
        self._limits = counted

    def _count_from_zero(self, version: Version, labels: tuple[str, ...]) -> None:
        for counter in (self._tested, self._tested_failed, self._tested_shed, self._copies_shed):
            counter.labels(*labels)
        for limit in version.limits:
            self._tested_slow.labels(*labels, limit_label(limit))
        for answers in (SAME, DIFFERENT):
            self._compared.labels(*labels, answers)

    def ready(self, version: Version, ready: bool) -> None:
        """How the last look at a version came out."""
        self._ready.labels(*self._labels(version)).set(ready)

    def text(self) -> bytes:
        """All of it in Prometheus' text format; of all processes where there are several."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _forget(self, run: str) -> None:
        """Drops the series of a version. Several processes count in files, where nothing can be dropped."""
        if MULTIPROCESS not in os.environ:
            for metric in self._by_version():
                metric.remove_by_labels({"run": run})

    def _by_version(self) -> Iterator[Counter | Gauge | Histogram]:
        yield from (self._requests, self._errors, self._latency, self._batch_size, self._classes)
        yield from (self._kilobytes, self._formats, self._weight, self._ready)
        yield from (self._tested, self._tested_failed, self._tested_shed, self._tested_slow)
        yield from (self._compared, self._copies_shed)
        yield from self.drift.by_version()

    def _labels(self, version: Version | None) -> tuple[str, ...]:
        return (*self._place, version.name, version.role.lower()) if version else (*self._place, "", "")

    def _latency_histogram(self, buckets: Sequence[float]) -> Histogram:
        return Histogram(
            "fovea_serving_request_seconds",
            "Time from the whole request to its answer.",
            LABELS,
            buckets=buckets,
            registry=self.registry,
        )
