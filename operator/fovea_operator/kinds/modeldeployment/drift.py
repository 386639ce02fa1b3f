"""Whether what a deployment is asked has changed: windows of the gateways' histograms, against a reference.

The state is in the status: how far the windows have come, the wealth of each detector, and, of the first week, how much
windows differ from each other. The images of the present window are in the operator's memory alone; one that is
replaced loses a part of a window, and nothing else. Missing images make the state unknown, never good or bad.

With a reference of the training, detectors bet from the first window on; in the first week they overlook what is no
large effect, since nobody knows yet how much windows differ. A reference of the first week in production is collected
first, and the week after it is the one in which windows are compared. A window that differs by a large effect teaches
nothing, also where its images are too few for a finding: else what has changed early would be taken for usual.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fovea_api import profile
from fovea_api.common import parse_duration
from fovea_api.modeldeployment import DetectorResult, Drift, DriftStatus
from fovea_api.profile import FEATURES, bin_counts

from fovea_operator.conditions import Finding
from fovea_operator.evidence.drift import (
    BETWEEN,
    FEWEST_WINDOWS,
    REFERENCE_ITEMS,
    Feature,
    Monitor,
    Score,
    Spread,
    detectors,
    effect_size,
    kept_budget,
    run_length,
    scores,
)
from fovea_operator.measurement import SHADOW, Measured, Series

CONDITION = "DriftDetected"
CLASSES = "classes"
"""The feature of predicted classes, which are no numbers."""
WEEK = timedelta(days=7)
PATIENCE = 3
"""Lengths of a window after which one that still has too few images makes the state unknown."""
_DIGITS = 6
_MESSAGE = 1024

Histograms = Mapping[str, tuple[float, ...]]
"""Images in each bin, by feature."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is observed of the version that serves."""

    now: datetime
    version: str
    """Its name."""
    images: float = 0.0
    """Images of the present window."""
    window: Histograms = field(default_factory=dict)
    """What they are like."""
    items: float = 0.0
    """Images of the reference; 0: there is none."""
    reference: Histograms = field(default_factory=dict)
    """What they are like, in the same bins."""


def advance(old: DriftStatus | None, spec: Drift, observed: Observed) -> DriftStatus:
    """The next state."""
    if old is None or old.version != observed.version or old.window_start is None:
        return _fresh(spec, observed)
    length, age = parse_duration(spec.window), observed.now - old.window_start
    if age < length:
        return old
    if observed.images < spec.min_samples:
        if age < PATIENCE * length:
            return old
        words = f"{observed.images:g} of {spec.min_samples} images since {old.window_start:%Y-%m-%dT%H:%M:%SZ}"
        return _as(old, "Unknown", words, observed.now)
    if spec.reference == "FirstWeek" and not old.reference_is_whole:
        return _collected(old, spec, observed)
    first_week = spec.reference == "FirstWeek"
    reference, items = (old.reference, old.reference_images) if first_week else (observed.reference, observed.items)
    features = tuple(_features(spec, reference, observed.window))
    if not features or not items:
        words = "the gateways export no reference profile; train the model with a version of Fovea that makes one"
        return _next_window(_as(old, "Unknown", words, observed.now), observed)
    return _compared(old, spec, observed, features, items)


def assess(status: DriftStatus) -> tuple[str, Finding]:
    """Status and finding of the condition."""
    if status.state == "Unknown":
        return "Unknown", Finding("TooLittleMeasured", status.message)
    if status.state == "Detected":
        return "True", Finding("Drift", status.message)
    return "False", Finding("ReferenceTooSmall" if status.kept_budget is not None else "NoDrift", status.message)


def look_after(status: DriftStatus | None, spec: Drift, now: datetime) -> float | None:
    """Seconds until the present window may end."""
    if status is None or status.window_start is None:
        return None
    left = (status.window_start + parse_duration(spec.window) - now).total_seconds()
    return max(left, 0.0) + 1.0


def observed_of(measured: Measured, version: str, now: datetime) -> Observed:
    """What the gateways say of a version. All of them have the same reference, so any one's is as good."""
    reference: dict[Series, float] = {}
    for samples in measured.samples.values():
        own = samples[-1].values if samples else {}
        reference = {series: value for series, value in own.items() if series.run == version} or reference
    window = [
        (series, count) for series, count in measured.images.items() if series.run == version and not _is_copy(series)
    ]
    names = {f"{feature.metric}_bucket": name for name, feature in FEATURES.items()}
    live = _histograms((names[s.name], s.label, n) for s, n in window if s.name in names)
    edges = [(*s.label.partition(",")[::2], n) for s, n in reference.items() if s.name == profile.REFERENCE]
    known = _histograms(edges)
    shares = {s.label: n for s, n in window if s.name == profile.CLASSES}
    before = {s.label: n for s, n in reference.items() if s.name == profile.REFERENCE_CLASSES}
    if before:  # evidence is kept by index: the bins are those of the reference, and a last one for all other classes
        classes, others = sorted(before), sum(count for name, count in shares.items() if name not in before)
        live[CLASSES] = (*(shares.get(name, 0.0) for name in classes), others)
        known[CLASSES] = (*(before[name] for name in classes), 0.0)
    return Observed(
        now=now,
        version=version,
        images=max((sum(counts) for counts in live.values()), default=0.0),
        window=live,
        items=next((value for series, value in reference.items() if series.name == profile.REFERENCE_ITEMS), 0.0),
        reference=known,
    )


def _is_copy(series: Series) -> bool:
    return series.role == SHADOW


def _histograms(cumulative: Iterable[tuple[str, str, float]]) -> dict[str, tuple[float, ...]]:
    """Images in each bin by feature, out of name, edge and cumulative count; without features that lack an edge."""
    buckets: dict[str, dict[float, float]] = {}
    for name, edge, count in cumulative:
        known = buckets.setdefault(name, {})
        known[float(edge)] = known.get(float(edge), 0.0) + count
    found = {name: bin_counts(FEATURES[name], known) for name, known in buckets.items() if name in FEATURES}
    return {name: counts for name, counts in found.items() if counts is not None}


# --- Steps -----------------------------------------------------------------------------------------------------------


def _fresh(spec: Drift, observed: Observed) -> DriftStatus:
    words = "the first week is being collected as the reference" if spec.reference == "FirstWeek" else "no window yet"
    return DriftStatus(
        state="Unknown",
        since=observed.now,
        message=words,
        version=observed.version,
        started=observed.now,
        window_start=observed.now,
    )


def _as(old: DriftStatus, state: str, message: str, now: datetime) -> DriftStatus:
    since = old.since if old.state == state else now
    return old.model_copy(update={"state": state, "since": since, "message": message[:_MESSAGE]})


def _next_window(status: DriftStatus, observed: Observed) -> DriftStatus:
    return status.model_copy(update={"window_start": observed.now, "windows": status.windows + 1})


def _collected(old: DriftStatus, spec: Drift, observed: Observed) -> DriftStatus:
    """With one window more in the reference; it is whole after a week."""
    known = old.reference
    began = (old.started if known else old.window_start) or observed.now
    summed = {
        name: tuple(a + b for a, b in zip(known.get(name, (0.0,) * len(counts)), counts, strict=True))
        for name, counts in observed.window.items()
        if name not in known or len(known[name]) == len(counts)
    }
    whole = observed.now - began >= WEEK
    images = old.reference_images + round(observed.images)
    words = "the first week is the reference" if whole else f"{images} images of the first week are collected"
    changes: dict[str, object] = {
        "reference": summed,
        "reference_images": images,
        "reference_is_whole": whole,
        "started": observed.now if whole else began,  # then the week in which windows are compared begins
        "wealth": {}, "spreads": {}, "detectors": (),  # what there was is of another reference
    }  # fmt: skip
    return _next_window(_as(old, "Unknown", words, observed.now).model_copy(update=changes), observed)


def _compared(
    old: DriftStatus, spec: Drift, observed: Observed, features: Sequence[Feature], items: float
) -> DriftStatus:
    """After a whole window."""
    learning = old.started is None or observed.now - old.started < WEEK or old.windows < FEWEST_WINDOWS
    known = {name: Spread(*values) for name, values in old.spreads.items()}
    watched = [score for feature in features for score in scores(feature, spec.min_effect)]
    allowed = [(score, _tolerance(score, features, known.get(score.name, Spread()), learning)) for score in watched]
    hours = parse_duration(spec.window).total_seconds() / 3600
    length = run_length(spec.false_alarms_per_year, hours)
    every = tuple(detector for score, bound in allowed for detector in detectors(score, bound))
    most = math.log(length * max(len(every), 1))
    monitor = Monitor(every, length, {each.name: old.wealth[each.name] for each in every if each.name in old.wealth})
    after = monitor.after(observed.window, spec.min_samples)
    # what is enough for an alarm is enough: so that the state returns soon after the change does
    after = Monitor(every, length, {name: min(value, most) for name, value in after.log_m.items()})
    state = "Detected" if after.alarm else "Suspected" if after.suspects else "None"
    if learning and state == "None":
        for score in watched:
            counts, large = observed.window[score.feature], _large(score, features)
            if sum(counts) > 0 and abs(score.of(counts) - score.mean) <= large:
                known[score.name] = known.get(score.name, Spread()).after(score, counts)
    results = tuple(_results(features, observed.window, after))
    budget = kept_budget(allowed, items, spec.false_alarms_per_year, hours) if items < REFERENCE_ITEMS else None
    status = old.model_copy(
        update={
            "score": max((result.score for result in results), default=None),
            "detectors": results,
            "wealth": {name: _rounded(value) for name, value in after.log_m.items() if math.isfinite(value)},
            "spreads": {name: tuple(map(_rounded, _values(spread))) for name, spread in known.items()},
            "kept_budget": _rounded(budget) if budget is not None else None,
        }
    )
    words = _words(features, observed, after, budget, items)
    return _next_window(_as(status, state, words, observed.now), observed)


def _tolerance(score: Score, features: Sequence[Feature], spread: Spread, learning: bool) -> float:
    """Distance from the reference's mean that is no change."""
    least = max(score.least, _large(score, features)) if learning else score.least
    return max(least, BETWEEN * spread.deviation)


def _large(score: Score, features: Sequence[Feature]) -> float:
    """Distance from the reference's mean that is a large effect."""
    feature = next(feature for feature in features if feature.name == score.feature)
    return next(each.least for each in scores(feature, "Large") if each.name == score.name)


def _features(spec: Drift, reference: Histograms, window: Histograms) -> Iterator[Feature]:
    """Those that are asked for, and known of both."""
    for name, counts in reference.items():
        if _detector(name) in spec.detectors and len(window.get(name, ())) == len(counts) and sum(counts) > 0:
            yield Feature(name, tuple(counts), categorical=name == CLASSES)


def _detector(feature: str) -> str:
    return "LabelShift" if feature == CLASSES else FEATURES[feature].detector if feature in FEATURES else ""


def _results(features: Sequence[Feature], window: Histograms, monitor: Monitor) -> Iterator[DetectorResult]:
    """The largest effect of each detector, and whether one of its features has drifted. A detector of which the window
    has no images has no result."""
    strong = {name.split("/")[0] for name in monitor.suspects}
    features = [feature for feature in features if sum(window[feature.name]) > 0]
    for name in dict.fromkeys(_detector(feature.name) for feature in features):
        own = [feature for feature in features if _detector(feature.name) == name]
        effects = {feature.name: abs(effect_size(feature, window[feature.name])) for feature in own}
        yield DetectorResult(
            name=name,
            score=_rounded(max(effects.values())),
            drifted=any(feature.name in strong for feature in own),
            feature=max(effects, key=lambda each: effects[each]),
        )


def _words(
    features: Sequence[Feature], observed: Observed, monitor: Monitor, budget: float | None, items: float
) -> str:
    moved = dict.fromkeys(name.split("/")[0] for name in monitor.suspects)
    by_name = {feature.name: feature for feature in features}
    seen = [name for name in moved if sum(observed.window[name]) > 0]
    parts = [f"{name} {effect_size(by_name[name], observed.window[name]):+.2f}" for name in seen[:8]]
    start = f"of {observed.images:g} images: effects {', '.join(parts)}" if parts else f"{observed.images:g} images"
    if budget is None:
        return start
    return (
        f"{start}; the reference has {items:g} of {REFERENCE_ITEMS} images, with which at most {budget:.3g} false "
        "alarms a year can be kept; enlarge validation and test splits, or use reference FirstWeek"
    )


def _values(spread: Spread) -> tuple[float, ...]:
    return (
        spread.windows, spread.total, spread.squares, spread.products, spread.sampling, spread.first, spread.last,
    )  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


__all__ = ["CLASSES", "CONDITION", "Observed", "advance", "assess", "look_after"]
