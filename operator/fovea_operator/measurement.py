"""What gateways measure, as the planner sees it: rates over a window, from counters that may be reset or missing.

What is not known is None, never good or bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

REQUESTS, SECONDS = "fovea_serving_requests_total", "fovea_serving_request_seconds_bucket"
WEIGHT = "fovea_serving_version_weight"
"""Series of a gateway: requests by status code, their latency, and the weight that each version has there."""
MIN_REQUESTS = 20
"""Requests in a window below which a share or a quantile says nothing."""

Series = tuple[str, str, str]
"""Name, run, and the label that matters: `code`, `le` or `role`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one gateway pod reported at one time."""

    at: float
    """Seconds of a steady clock."""
    values: Mapping[Series, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What all gateways of a deployment report together."""

    seconds: float = 0.0
    """Length of the window; 0: nothing is known."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Requests in the window, by status code."""
    buckets: Mapping[float, float] = field(default_factory=dict)
    """Requests in the window that took at most so many seconds."""
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Per cent of the traffic that each version has, by the address of the gateway pod that says so."""
    silent: int = 0
    """Gateway pods that did not answer."""

    @property
    def total(self) -> float:
        """Requests in the window."""
        return sum(self.requests.values())

    @property
    def per_second(self) -> float | None:
        """Requests per second."""
        return self.total / self.seconds if self.seconds else None

    @property
    def failed(self) -> float:
        """Requests in the window that the service failed: not those that were wrong, nor those that it shed."""
        return sum(count for code, count in self.requests.items() if code.startswith("5"))

    @property
    def shed(self) -> float:
        """Requests in the window that were turned away because there were too many."""
        return self.requests.get("429", 0.0)

    @property
    def error_rate(self) -> float | None:
        """Share of requests that failed."""
        return self.failed / self.total if self.total >= MIN_REQUESTS else None

    def quantile(self, share: float) -> float | None:
        """Seconds within which this share of requests was answered, as PromQL's histogram_quantile has it."""
        edges = sorted(self.buckets.items())
        total = edges[-1][1] if edges else 0.0
        if total < MIN_REQUESTS:
            return None
        low, before = 0.0, 0.0
        for edge, count in edges:
            if count >= share * total and count > before:
                return low if math.isinf(edge) else low + (edge - low) * (share * total - before) / (count - before)
            low, before = edge, count
        return None

    def within(self, seconds: float) -> float | None:
        """Share of requests that took at most so long; exact where a bucket ends there."""
        edges = sorted(self.buckets.items())
        total = edges[-1][1] if edges else 0.0
        if total < MIN_REQUESTS:
            return None
        return max((count for edge, count in edges if edge <= seconds * (1 + 1e-9)), default=0.0) / total

    def follows(self, name: str, pods: int) -> bool:
        """Whether so many gateway pods give all requests to one version."""
        agreed = [weights for weights in self.weights.values() if weights.get(name) == 100]
        return pods > 0 and not self.silent and len(agreed) == len(self.weights) >= pods


NOTHING = Measured()


def read_sample(text: str, at: float) -> Sample:
    """The series that count, out of a page of metrics. Raises ValueError where it is none."""
    values: dict[Series, float] = {}
    labels = {REQUESTS: "code", SECONDS: "le", WEIGHT: "role"}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in labels:
                key = (sample.name, sample.labels.get("run", ""), sample.labels.get(labels[sample.name], ""))
                values[key] = values.get(key, 0.0) + sample.value
    return Sample(at, values)


def increases(samples: Sequence[Sample]) -> Mapping[Series, float]:
    """How much each counter grew from the first sample to the last. One that shrank began anew at zero."""
    grown: dict[Series, float] = {}
    for before, after in pairwise(samples):
        for series, value in after.values.items():
            known = before.values.get(series, 0.0)
            grown[series] = grown.get(series, 0.0) + (value - known if value >= known else value)
    return grown


def summarize(pods: Mapping[str, Sequence[Sample]], silent: int) -> Measured:
    """What the samples of all pods, by address, come to. `silent`: pods that did not answer the last time."""
    requests: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for samples in pods.values():
        for (name, _, label), count in increases(samples).items():
            if name == REQUESTS:
                requests[label] = requests.get(label, 0.0) + count
            elif name == SECONDS:
                buckets[float(label)] = buckets.get(float(label), 0.0) + count
    return Measured(
        seconds=max((samples[-1].at - samples[0].at for samples in pods.values() if samples), default=0.0),
        requests=requests,
        buckets=buckets,
        weights={pod: _weights(samples[-1:]) for pod, samples in pods.items()},
        silent=silent,
    )


def _weights(samples: Iterable[Sample]) -> Mapping[str, float]:
    return {run: value for each in samples for (name, run, _), value in each.values.items() if name == WEIGHT}
