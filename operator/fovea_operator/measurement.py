"""What gateways measure, as the planner sees it: rates over a window, from counters that may be reset or missing.

What is not known is None, never good or bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

from fovea_api.profile import (
    CLASSES,
    FEATURES,
    LABELLED,
    LABELLED_PAIRS,
    REFERENCE,
    REFERENCE_CLASSES,
    REFERENCE_ITEMS,
)
from prometheus_client.parser import text_string_to_metric_families

REQUESTS, SECONDS = "fovea_serving_requests_total", "fovea_serving_request_seconds_bucket"
REVISION = "fovea_serving_configuration"
"""Series of a gateway: requests by status code, their latency, and the configuration that it follows."""
TESTED, FAILED = "fovea_serving_rollout_requests_total", "fovea_serving_rollout_failures_total"
SHED = "fovea_serving_rollout_shed_total"
SLOW, COMPARED = "fovea_serving_rollout_slow_total", "fovea_serving_rollout_compared_total"
"""Series by which a candidate is tested: requests, those that failed, those that it turned away, those over a limit,
and compared answers."""
LOAD_REQUESTS, LOAD_SECONDS = "fovea_serving_load_test_requests_total", "fovea_serving_load_test_seconds_bucket"
LOAD_DURATION, LOAD_FINISHED = "fovea_serving_load_test_duration_seconds", "fovea_serving_load_test_finished"
"""Series of a load test: its requests by status code, their latency, the time in which the answers came,
and whether it is over."""
DRIFT: Mapping[str, str] = {CLASSES: "class"} | {f"{feature.metric}_bucket": "le" for feature in FEATURES.values()}
"""Series of a gateway that count what images and answers are like, each with the label that matters."""
LABELS: Mapping[str, str] = {
    **DRIFT,
    REFERENCE: "feature,le",
    REFERENCE_CLASSES: "class",
    REFERENCE_ITEMS: "",
    REQUESTS: "code",
    SECONDS: "le",
    REVISION: "revision",
    TESTED: "",
    FAILED: "",
    SHED: "",
    SLOW: "milliseconds",
    COMPARED: "answers",
    LOAD_REQUESTS: "test,code",
    LOAD_SECONDS: "test,le",
    LOAD_DURATION: "test",
    LOAD_FINISHED: "test",
    LABELLED: "outcome",
    LABELLED_PAIRS: "outcome",
}
"""The series that are read, each with the labels that matter beside run and role, separated by commas."""
ANSWERED = "200"
"""Status code of an answer."""
STABLE, SHADOW = "stable", "shadow"
"""Values of the label `role`."""
MIN_REQUESTS = 20
"""Requests in a window below which a share or a quantile says nothing."""


class Series(NamedTuple):
    """One series of a gateway."""

    name: str
    run: str = ""
    role: str = ""
    label: str = ""
    """Values of the labels that matter, see LABELS, separated by commas."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one gateway pod reported at one time."""

    at: float
    """Unix time, in seconds."""
    values: Mapping[Series, float]

    @property
    def time(self) -> datetime:
        """The same as status records it, to the microsecond."""
        return datetime.fromtimestamp(self.at, UTC)


@dataclass(frozen=True, slots=True)
class Load:
    """What the gateways report of a load test."""

    finished: int = 0
    """Gateways that are done with it."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Requests by status code."""
    buckets: Mapping[float, float] = field(default_factory=dict)
    """Answers that took at most so many seconds."""
    answered_per_second: float = 0.0
    """Requests that were answered in a second, of all gateways together."""

    @property
    def total(self) -> float:
        """Requests that were sent."""
        return sum(self.requests.values())

    @property
    def failed(self) -> float:
        """Those that the service failed, without those that it shed."""
        return sum(count for code, count in self.requests.items() if code.startswith("5"))

    @property
    def answered(self) -> float:
        """Those that were answered."""
        return self.requests.get(ANSWERED, 0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """What all gateways of a deployment report together."""

    seconds: float = 0.0
    """Length of the window; 0: nothing is known."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Requests in the window, by status code."""
    buckets: Mapping[float, float] = field(default_factory=dict)
    """Requests in the window that took at most so many seconds."""
    of_stable: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    """The same of each run, while it was the stable version."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """The revision of the configuration that a gateway pod follows, by the pod's address."""
    silent: int = 0
    """Gateway pods that did not answer."""
    images: Mapping[Series, float] = field(default_factory=dict, compare=False)
    """What was counted of DRIFT since the start of the window that was asked for."""
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict, compare=False)
    """All of the window, by the pod's address, oldest first; always another, so it is no news by itself."""

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
        return quantile(self.buckets, share)

    def stable_quantile(self, run: str, share: float) -> float | None:
        """The same of one run, while it was the stable version."""
        return quantile(self.of_stable.get(run, {}), share)

    def within(self, seconds: float) -> float | None:
        """Share of requests that took at most so long; exact where a bucket ends there."""
        total = max(self.buckets.values(), default=0.0)
        return within(self.buckets, seconds) / total if total >= MIN_REQUESTS else None

    def follows(self, revision: str, pods: int) -> bool:
        """Whether so many gateway pods follow this revision of the configuration, and none another."""
        return (
            pods > 0 and not self.silent and set(self.revisions.values()) == {revision} and len(self.revisions) >= pods
        )

    def elsewhere(self, revision: str) -> datetime | None:
        """The last time at which a gateway pod said that it follows another configuration than this
        revision; None: none does. One that follows none (an empty revision) has the stable version alone."""
        return max(
            (
                self.samples[pod][-1].time
                for pod, followed in self.revisions.items()
                if followed not in ("", revision) and self.samples.get(pod)
            ),
            default=None,
        )

    @property
    def last(self) -> datetime | None:
        """Time of the last sample; None: there is none."""
        return max((samples[-1].time for samples in self.samples.values() if samples), default=None)

    def load(self, test: str) -> Load:
        """What the gateways have reported last of a load test, by its id; they count each test from zero."""
        return _of_load_test((samples[-1] for samples in self.samples.values() if samples), test)

    def increase_since(self, time: datetime) -> Mapping[Series, float]:
        """How much each counter grew after a time, in all pods together. A pod that was first seen later is counted
        from then on; one whose counters began anew is counted from zero."""
        grown: dict[Series, float] = {}
        for samples in self.samples.values():
            before = [index for index, sample in enumerate(samples) if sample.time <= time]
            for series, count in increases(samples[before[-1] if before else 0 :]).items():
                grown[series] = grown.get(series, 0.0) + count
        return grown


NOTHING = Measured()


def quantile(buckets: Mapping[float, float], share: float, least: int = MIN_REQUESTS) -> float | None:
    """Seconds within which this share of requests was answered, as by PromQL's histogram_quantile; None: fewer than
    `least` requests."""
    edges = sorted(buckets.items())
    total = edges[-1][1] if edges else 0.0
    if total < least:
        return None
    low, before = 0.0, 0.0
    for edge, count in edges:
        if count >= share * total and count > before:
            return low if math.isinf(edge) else low + (edge - low) * (share * total - before) / (count - before)
        low, before = edge, count
    return None


def within(buckets: Mapping[float, float], seconds: float) -> float:
    """Requests that took at most so long; exact where a bucket ends there."""
    return max((count for edge, count in buckets.items() if edge <= seconds * (1 + 1e-9)), default=0.0)


def read_sample(text: str, at: float) -> Sample:
    """The series that count, out of a page of metrics. Raises ValueError where it is none."""
    values: dict[Series, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in LABELS:
                run, role = (sample.labels.get(name, "") for name in ("run", "role"))
                label = ",".join(sample.labels.get(name, "") for name in LABELS[sample.name].split(","))
                values[Series(sample.name, run, role, label)] = sample.value
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
    of_stable: dict[str, dict[float, float]] = {}
    for samples in pods.values():
        for (name, run, role, label), count in increases(samples).items():
            if role == SHADOW:
                continue  # its copies are nobody's requests
            if name == REQUESTS:
                requests[label] = requests.get(label, 0.0) + count
            elif name == SECONDS:
                for each in (buckets, of_stable.setdefault(run, {})) if role == STABLE else (buckets,):
                    each[float(label)] = each.get(float(label), 0.0) + count
    return Measured(
        seconds=max((samples[-1].at - samples[0].at for samples in pods.values() if samples), default=0.0),
        requests=requests,
        buckets=buckets,
        of_stable=of_stable,
        revisions={pod: _revision(samples[-1]) for pod, samples in pods.items() if samples},
        silent=silent,
        samples={pod: tuple(samples) for pod, samples in pods.items()},
    )


def _of_load_test(samples: Iterable[Sample], test: str) -> Load:
    """What gateways report of a load test; of one that is not done with it, nothing."""
    finished, answered = 0, 0.0
    requests: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for sample in samples:
        own = [(each, value) for each, value in sample.values.items() if each.label.split(",")[0] == test]
        if not any(each.name == LOAD_FINISHED and value for each, value in own):
            continue
        finished += 1
        seconds = next((value for each, value in own if each.name == LOAD_DURATION), 0.0)
        for each, value in own:
            label = each.label.partition(",")[2]
            if each.name == LOAD_REQUESTS:
                requests[label] = requests.get(label, 0.0) + value
                answered += value / seconds if label == ANSWERED and seconds else 0.0
            elif each.name == LOAD_SECONDS:
                buckets[float(label)] = buckets.get(float(label), 0.0) + value
    return Load(finished, requests, buckets, answered)


def _revision(sample: Sample) -> str:
    return next((series.label for series, value in sample.values.items() if series.name == REVISION and value), "")
