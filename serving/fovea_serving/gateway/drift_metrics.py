"""The metrics by which drift and live accuracy are seen; names and bins are those of `fovea_api.profile`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from fovea_api.profile import (
    CLASSES,
    FEATURES,
    LABELLED,
    LABELLED_PAIRS,
    REFERENCE,
    REFERENCE_ACCURACY,
    REFERENCE_CLASSES,
    REFERENCE_ITEMS,
    STORED_CAPTURES,
    Outcome,
    PairOutcome,
    ReferenceProfile,
)
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.utils import floatToGoString

LABELS = ("namespace", "deployment", "run", "role")


class DriftMetrics:
    """Counters of one gateway.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.place = ("", "")
        self._histograms = {
            name: Histogram(feature.metric, feature.description, LABELS, buckets=feature.edges, registry=registry)
            for name, feature in FEATURES.items()
        }
        self._classes = _counter(CLASSES, "Images by predicted class, in shares.", (*LABELS, "class"), registry)
        self._reference = _gauge(REFERENCE, "The reference profile.", (*LABELS, "feature", "le"), registry)
        self._reference_classes = _gauge(REFERENCE_CLASSES, "The same by class.", (*LABELS, "class"), registry)
        self._reference_items = _gauge(REFERENCE_ITEMS, "Images of the reference.", LABELS, registry)
        self._reference_accuracy = _gauge(REFERENCE_ACCURACY, "Share of them answered rightly.", LABELS, registry)
        self._labelled = _counter(LABELLED, "Answers whose label came.", (*LABELS, "outcome"), registry)
        self._pairs = _counter(
            LABELLED_PAIRS, "Labelled requests that two versions answered.", (*LABELS, "stable", "outcome"), registry
        )
        self._stored = _gauge(STORED_CAPTURES, "Captures in the store, by label.", (*LABELS[:2], "label"), registry)
        self._captures = _counter(
            "fovea_serving_captures_total", "Requests that were kept.", (*LABELS[:2], "reason"), registry
        )
        self._lost = _counter(
            "fovea_serving_captures_lost_total",
            "Requests that could not be kept: the limit, the queue or the store did not take them.",
            (*LABELS[:2], "reason"),
            registry,
        )

    def image(self, run: str, role: str, features: Mapping[str, float]) -> None:
        """Features of one image or its answer."""
        for name, value in features.items():
            self._histograms[name].labels(*self.place, run, role).observe(value)

    def classes(self, run: str, role: str, shares: Mapping[str, float]) -> None:
        """The predicted classes of one image, see `class_shares`."""
        for name, share in shares.items():
            self._classes.labels(*self.place, run, role, name).inc(share)

    def reference(self, run: str, role: str, profile: ReferenceProfile) -> None:
        """The reference profile of a version."""
        labels = (*self.place, run, role)
        for name, counts in profile.features.items():
            if name in FEATURES:
                edges = (*FEATURES[name].edges, float("inf"))
                for edge, count in zip(edges, accumulate(counts), strict=True):
                    self._reference.labels(*labels, name, floatToGoString(edge)).set(count)  # type: ignore[no-untyped-call]
        for name, share in profile.classes.items():
            self._reference_classes.labels(*labels, name).set(share)
        self._reference_items.labels(*labels).set(profile.items)
        if profile.accuracy is not None:
            self._reference_accuracy.labels(*labels).set(profile.accuracy)

    def labelled(self, run: str, role: str, outcome: Outcome) -> None:
        """A label that came for an answer."""
        self._labelled.labels(*self.place, run, role, outcome).inc()

    def labelled_pair(self, run: str, role: str, stable: str, outcome: PairOutcome) -> None:
        """A label that came for a request which candidate and stable answered."""
        self._pairs.labels(*self.place, run, role, stable, outcome).inc()

    def captured(self, reason: str) -> None:
        """A request that was kept."""
        self._captures.labels(*self.place, reason).inc()

    def capture_lost(self, reason: str) -> None:
        """One that was not: by the limit, the queue or the store."""
        self._lost.labels(*self.place, reason).inc()

    def stored(self, counts: Mapping[str, int]) -> None:
        """Captures in the store by label."""
        for label, count in counts.items():
            self._stored.labels(*self.place, label).set(count)

    def by_version(self) -> Iterator[Counter | Gauge | Histogram]:
        """The metrics that have the label `run`."""
        yield from self._histograms.values()
        yield from (self._classes, self._labelled, self._pairs, self._reference)
        yield from (self._reference_classes, self._reference_items, self._reference_accuracy)


def _counter(name: str, words: str, labels: tuple[str, ...], registry: CollectorRegistry) -> Counter:
    return Counter(name.removesuffix("_total"), words, labels, registry=registry)


def _gauge(name: str, words: str, labels: tuple[str, ...], registry: CollectorRegistry) -> Gauge:
    return Gauge(name, words, labels, multiprocess_mode="livemax", registry=registry)
