"""False alarms a year and power of the drift detectors, beside PSI > 0.2 and hourly tests by Kolmogorov and Smirnov.

    pip install imagecorruptions-imaug numpy   # in an environment of its own: it brings another OpenCV
    PYTHONPATH=operator python benchmarks/drift.py --json drift.json

Images: `apt-get install dataset-fashion-mnist` (MIT). Corruptions: the standard set of 15 at five severities
(Hendrycks and Dietterich, ICLR 2019). Bags (class 8) are kept out of everything, for they are the new class.

A softmax regression is trained on 8,000 images; 2,000 others are the reference, 6,000 others what production shows.
A window is an hour of 200 images. What is common to all windows of an hour is a gain of the exposure: none, day and
night, or noise that lasts (AR 0.9). The first week sets the tolerances; false alarms are counted after it.

Random are the images of a window alone. Scores, tolerances and bets are those of fovea_operator.evidence.drift, whose
sums are done here for a year at once; that both agree is checked at the start.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fovea_api.estimates import (
    Confidences,
    average_thresholded_confidence,
    difference_of_confidences,
)
from fovea_operator.evidence.drift import (
    Detector,
    Feature,
    Monitor,
    detectors,
    effect_size,
    kept_budget,
    scores,
    tolerance,
)
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FOLDER = Path("/usr/share/datasets/fashion-mnist")
NEW_CLASS = 8
NAMES = ("brightness", "contrast", "sharpness", "noise", "confidence", "embedding 1", "embedding 2", "embedding rest")
BINS, SIZE, YEAR, WEEK = 16, 200, 8760, 168
GAINS = np.linspace(0.7, 1.3, 13)


# Images and what is measured of them


def load(part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with gzip.open(FOLDER / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(FOLDER / f"{part}-labels-idx1-ubyte.gz") as file:
        return images, np.frombuffer(file.read(), np.uint8, offset=8)


@dataclass(frozen=True)
class Model:
    """A softmax regression and the first components of the images."""

    weights: Floats
    mean: Floats
    components: Floats

    @classmethod
    def trained(cls, images: NDArray[np.uint8], labels: NDArray[np.uint8], epochs: int = 60) -> Model:
        flat = _with_one(images)
        target = np.eye(10)[labels]
        weights, speed = np.zeros((785, 10)), np.zeros((785, 10))
        for _ in range(epochs):
            gradient = flat.T @ (_softmax(flat @ weights) - target) / len(flat) + 1e-4 * weights
            speed = 0.9 * speed - 0.1 * gradient
            weights += speed
        mean = flat[:, :-1].mean(0)
        centred = flat[:4000, :-1] - mean
        components = np.linalg.eigh(centred.T @ centred)[1][:, -2:]
        return cls(weights, mean, components)

    def features(self, images: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.int64]]:
        """Values [n, names] and predicted classes [n]."""
        x = images.astype(np.float64) / 255
        inner = x[:, 1:-1, 1:-1]
        around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
        laplacian = around - 4 * inner
        flat = _with_one(images)
        predicted = _softmax(flat @ self.weights)
        centred = flat[:, :-1] - self.mean
        embedded = centred @ self.components
        rest = np.linalg.norm(centred, axis=1) ** 2 - (embedded**2).sum(1)
        columns = (
            x.mean((1, 2)),
            x.std((1, 2)),
            laplacian.var((1, 2)),
            np.median(np.abs(laplacian).reshape(len(x), -1), axis=1),
            predicted.max(1),
            embedded[:, 0],
            embedded[:, 1],
            np.sqrt(np.maximum(rest, 0)),
        )
        return np.stack(columns, 1), predicted.argmax(1)


def _with_one(images: NDArray[np.uint8]) -> Floats:
    flat = images.reshape(len(images), -1).astype(np.float64) / 255
    return np.concatenate((flat, np.ones((len(flat), 1))), 1)


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@dataclass(frozen=True)
class Histograms:
    """How values become bins."""

    edges: Floats
    """Inner edges [names, BINS - 1]: quantiles of the reference."""

    def bins(self, values: Floats, classes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bins [n, names and the class]."""
        columns = [np.searchsorted(edges, column, "right") for edges, column in zip(self.edges, values.T, strict=True)]
        return np.stack((*columns, classes), 1).astype(np.uint8)


def counted(bins: NDArray[np.uint8]) -> Floats:
    """Histograms [windows, features, BINS] of windows of images [windows, images, features]."""
    windows, _, features = bins.shape
    found = np.empty((windows, features, BINS))
    for index in range(features):
        flat = bins[:, :, index].astype(np.int64) + BINS * np.arange(windows)[:, None]
        found[:, index] = np.bincount(flat.reshape(-1), minlength=windows * BINS).reshape(windows, BINS)
    return found


# Detectors


def log_e(found: tuple[Detector, ...], names: list[str], counts: Floats) -> Floats:
    """Log e-values [windows, detectors], as Detector.log_e has them."""
    columns = []
    for detector in found:
        factors = np.asarray(detector.factors)
        logs = counts[:, names.index(detector.feature), : factors.shape[1]] @ factors.T
        top = logs.max(1, keepdims=True)
        columns.append(top[:, 0] + np.log(np.exp(logs - top).mean(1)))
    return np.stack(columns, 1)


def alarms(logs: Floats, run_length: float) -> list[int]:
    """Windows at which an alarm is raised; after each the detectors begin anew."""
    log_m, found = np.full(logs.shape[1], -np.inf), []
    for window, gained in enumerate(logs):
        log_m = np.logaddexp(log_m, 0.0) + gained
        if np.logaddexp.reduce(log_m) - math.log(len(log_m)) >= math.log(run_length):
            found.append(window)
            log_m[:] = -np.inf
    return found


def psi(counts: Floats, reference: Floats) -> NDArray[np.bool_]:
    """Whether the population stability index of any feature exceeds 0.2, by window."""
    p = (counts + 0.5) / (counts + 0.5).sum(2, keepdims=True)
    q = (reference + 0.5) / (reference + 0.5).sum(1, keepdims=True)
    return np.asarray((((p - q) * np.log(p / q)).sum(2) > 0.2).any(1))


def kolmogorov_smirnov(counts: Floats, reference: Floats) -> NDArray[np.bool_]:
    """Whether the two-sample test of any ordered feature rejects at 0.05, by window (on bins, so rather too seldom)."""
    n, m = counts[0, 0].sum(), reference[0].sum()
    p = counts[:, :-1].cumsum(2) / n
    q = reference[:-1].cumsum(1) / m
    return np.asarray((np.abs(p - q).max(2) > 1.3581 * math.sqrt((n + m) / (n * m))).any(1))


# Protocol


@dataclass(frozen=True)
class Setting:
    """All that the windows are drawn from."""

    names: list[str]
    features: tuple[Feature, ...]
    reference: Floats
    pool: NDArray[np.uint8]
    """Bins [gains, images, features] of production."""
    model: Model
    histograms: Histograms
    accuracy: float
    confidences: Confidences


def setting() -> Setting:
    images, labels = load("train")
    known = labels != NEW_CLASS
    images, labels = images[known], labels[known]
    model = Model.trained(images[:8_000], labels[:8_000])
    values, classes = model.features(images[20_000:22_000])
    histograms = Histograms(np.quantile(values, np.arange(1, BINS) / BINS, axis=0).T)
    bins = histograms.bins(values, classes)
    reference = counted(bins[None])[0]
    names = [*NAMES, "class"]
    features = tuple(Feature(name, tuple(row)) for name, row in zip(NAMES, reference, strict=False))
    features += (Feature("class", tuple(reference[-1, :10]), categorical=True),)
    shown = images[22_000:28_000]
    pool = np.stack([histograms.bins(*model.features(exposed(shown, gain))) for gain in GAINS])
    return Setting(
        names,
        features,
        reference,
        pool,
        model,
        histograms,
        float((classes == labels[20_000:22_000]).mean()),
        confidences(values),
    )


def confidences(values: Floats) -> Confidences:
    edges = np.linspace(0, 1, 41)
    counts = np.histogram(values[:, NAMES.index("confidence")], edges)[0]
    return Confidences(tuple(edges), tuple(map(float, counts)))


def exposed(images: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    return np.rint(np.clip(images * gain, 0, 255)).astype(np.uint8)


def gains(kind: str, windows: int, random: np.random.Generator) -> Floats:
    """What is common to the images of each hour."""
    if kind == "day and night":
        return np.asarray(1 + 0.08 * np.sin(2 * np.pi * np.arange(windows) / 24))
    sd = {"independent": 0.0, "AR 0.9, 2 %": 0.02, "AR 0.9, 5 %": 0.05}[kind]
    shocks, noise, level = random.normal(0, sd * math.sqrt(1 - 0.9**2), windows), np.empty(windows), 0.0
    for index, shock in enumerate(shocks):
        level = 0.9 * level + shock
        noise[index] = level
    return 1 + noise


def windows(found: Setting, gain: Floats, random: np.random.Generator) -> Floats:
    """Histograms of one window for each gain; each image has one of the two nearest gains that were prepared."""
    place = np.clip((gain - GAINS[0]) / (GAINS[1] - GAINS[0]), 0, len(GAINS) - 1.001)
    low = np.floor(place)
    level = (low[:, None] + (random.random((len(gain), SIZE)) < (place - low)[:, None])).astype(np.int64)
    return counted(found.pool[level, random.integers(0, found.pool.shape[1], level.shape)])


def ready(found: Setting, week: Floats) -> tuple[tuple[Detector, ...], list[tuple[Any, float]]]:
    """The detectors with the tolerances of the first week."""
    made, allowed = [], []
    for index, feature in enumerate(found.features):
        bins = len(feature.reference)
        for score in scores(feature, "Small"):
            distance = tolerance(score, [tuple(row[:bins]) for row in week[:, index]])
            allowed.append((score, distance))
            made += detectors(score, distance)
    return tuple(made), allowed


def false_alarms(found: Setting, kind: str, years: int, seed: int) -> dict[str, Any]:
    """Alarms a year where nothing has changed, with exact one-sided and two-sided bounds of a Poisson number."""
    random = np.random.default_rng(seed)
    totals = {"Fovea": 0, "Fovea, no tolerance for windows": 0, "PSI > 0.2": 0, "KS at 0.05": 0}
    for _ in range(years):
        gain = gains(kind, WEEK + YEAR, random)
        counts = windows(found, gain, random)
        made, _ = ready(found, counts[:WEEK])
        plain = tuple(
            each for feature in found.features for score in scores(feature, "Small") for each in detectors(score, 1e-9)
        )
        rest = counts[WEEK:]
        totals["Fovea"] += len(alarms(log_e(made, found.names, rest), YEAR))
        totals["Fovea, no tolerance for windows"] += len(alarms(log_e(plain, found.names, rest), YEAR))
        totals["PSI > 0.2"] += int(psi(rest, found.reference).sum())
        totals["KS at 0.05"] += int(kolmogorov_smirnov(rest, found.reference).sum())
    return {
        "windows": kind,
        "years": years,
        "alarms a year": {
            name: {"rate": total / years, "upper 95 %": poisson_upper(total, 0.05) / years}
            for name, total in totals.items()
        },
    }


def poisson_upper(count: int, error: float) -> float:
    """The largest mean that shows no more than `count` with a probability of `error` (Garwood 1936)."""
    low, high = float(count), count + 10 * math.sqrt(count + 1) + 10
    for _ in range(60):
        middle = (low + high) / 2
        k = np.arange(count + 1)
        logs = k * math.log(middle) - middle - np.concatenate(([0.0], np.log(np.arange(1, count + 1)).cumsum()))
        low, high = (middle, high) if np.exp(logs).sum() > error else (low, middle)
    return high


def detected(found: Setting, made: tuple[Detector, ...], changed: NDArray[np.uint8], seed: int) -> dict[str, Any]:
    """How soon a change after a day without one is found: images drawn from those that changed, 20 times."""
    random, delays, most = np.random.default_rng(seed), [], 48
    for _ in range(20):
        before = windows(found, np.ones(24), random)
        after = counted(changed[random.integers(0, len(changed), (most, SIZE))])
        when = alarms(log_e(made, found.names, np.concatenate((before, after))), YEAR)
        delays.append(next((each - 23 for each in when if each >= 24), most + 1))
    within = [float(np.mean(np.asarray(delays) <= limit)) for limit in (1, 24)]
    return {"within 1": within[0], "within 24": within[1], "median windows": float(np.median(delays))}


def corruption(name: str, severity: int, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Corrupted at 56 pixels, for several of them need more than 28; the mean of colours is what the model sees."""
    from imagecorruptions import corrupt

    done = []
    for image in images:
        large = np.repeat(image.repeat(2, 0).repeat(2, 1)[..., None], 3, -1)
        gray = corrupt(large, corruption_name=name, severity=severity).astype(np.float64).mean(-1)
        done.append(gray.reshape(28, 2, 28, 2).mean((1, 3)))
    return np.rint(np.stack(done)).astype(np.uint8)


def power(found: Setting, images: int) -> list[dict[str, Any]]:
    """Each corruption, a new class and another mix of classes: when it is found, and what it does to the accuracy."""
    from imagecorruptions import get_corruption_names

    shown, labels = load("t10k")
    new = shown[labels == NEW_CLASS]
    shown, labels = shown[labels != NEW_CLASS][:images], labels[labels != NEW_CLASS][:images]
    made, _ = ready(
        found, windows(found, gains("AR 0.9, 2 %", WEEK, np.random.default_rng(0)), np.random.default_rng(1))
    )
    rows = []

    def row(name: str, severity: float, changed: NDArray[np.uint8], right: NDArray[np.uint8] | None) -> None:
        values, classes = found.model.features(changed)
        bins = found.histograms.bins(values, classes)
        entry: dict[str, Any] = {"change": name, "severity": severity} | detected(found, made, bins, len(rows))
        total = counted(bins[None])[0]
        entry["effect"] = max(
            (
                effect_size(feature, tuple(total[i, : len(feature.reference)]))
                for i, feature in enumerate(found.features)
            ),
            key=abs,
        )
        if right is not None:
            doc = difference_of_confidences(found.confidences, found.accuracy, confidences(values))
            atc = average_thresholded_confidence(found.confidences, found.accuracy, confidences(values))
            assert doc is not None
            assert atc is not None
            entry |= {"accuracy": float((classes == right).mean()), "DoC": doc.accuracy, "ATC": atc.accuracy}
        rows.append(entry)
        print(json.dumps(entry), flush=True)

    row("none", 0, shown, labels)
    for name in get_corruption_names():
        for severity in range(1, 6):
            row(name, severity, corruption(name, severity, shown), labels)
    for share in (0.05, 0.1, 0.2, 0.5):
        count = round(images * share)
        row("new class", share, np.concatenate((new[:count], shown[: images - count])), None)
    for share in (0.2, 0.4):
        of_one = shown[labels == 0]
        row("class mix", share, np.concatenate((np.tile(of_one, (9, 1, 1))[: round(images * share)], shown)), None)
    return rows


def check(found: Setting) -> None:
    """The sums done here are those of the operator."""
    random = np.random.default_rng(0)
    counts = windows(found, gains("AR 0.9, 2 %", 30, random), random)
    made, _ = ready(found, counts[:20])
    logs, monitor = log_e(made, found.names, counts), Monitor(made, YEAR, {})
    log_m = np.full(len(made), -np.inf)
    for window, gained in zip(counts, logs, strict=True):
        features = {f.name: tuple(window[i, : len(f.reference)]) for i, f in enumerate(found.features)}
        monitor, log_m = monitor.after(features, 1), np.logaddexp(log_m, 0.0) + gained
    assert np.allclose([monitor.log_m[each.name] for each in made], log_m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=int, default=30)
    parser.add_argument("--images", type=int, default=200, help="images that are corrupted, for each corruption")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = setting()
    check(found)
    print(f"accuracy on the reference {found.accuracy:.3f}; {time.perf_counter() - began:.0f} s")
    figures: dict[str, Any] = {}

    def keep(name: str, value: object) -> None:
        figures[name] = value
        if arguments.json is not None:  # after each part, for a whole run takes an hour
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    _, allowed = ready(found, windows(found, np.ones(WEEK), np.random.default_rng(0)))
    kept = {items: kept_budget(allowed, items, 1.0, 1.0) for items in (300, 600, 1000, 2000, 5000)}
    keep("kept budget", kept)
    print("budget that can be kept, by the size of the reference:", kept)
    changes = power(found, arguments.images)
    strong = [row["within 1"] for row in changes if row["severity"] >= 3]
    keep("changes", changes)
    print(f"severity >= 3 within one window: {np.mean(strong):.1%}")
    quiet: list[dict[str, Any]] = []
    for seed, kind in enumerate(("independent", "AR 0.9, 2 %", "AR 0.9, 5 %", "day and night")):
        quiet.append(false_alarms(found, kind, arguments.years, seed))
        keep("false alarms", quiet)
        print(json.dumps(quiet[-1]), flush=True)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
