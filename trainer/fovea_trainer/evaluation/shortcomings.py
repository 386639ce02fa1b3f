"""What a model does badly, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.evaluation.result import Confusion

WEAK = 0.85
"""A class below this share of the mean is called weak."""
CONFUSED = 0.05
"""Share of a class that is taken for another one from which it is mentioned."""
MISCALIBRATED = 0.05
SENTENCES = 3
"""Sentences of a kind at most, the worst first."""


def describe(
    classes: tuple[str, ...],
    metric: str,
    per_class: NDArray[np.float64],
    mean: float,
    confusion: Confusion,
    *,
    unit: str = "images",
    calibration: float | None = None,
    sizes: Mapping[str, float] | None = None,
    errors: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """Weak classes, sizes that are found badly, the commonest kind of error, confusions, overconfidence."""
    return (
        *_weak(classes, metric, per_class, mean),
        *_sizes(sizes or {}, mean),
        *_errors(errors or {}),
        *_confused(confusion, unit),
        *_calibrated(calibration),
    )


def _weak(classes: tuple[str, ...], metric: str, values: NDArray[np.float64], mean: float) -> list[str]:
    order = [index for index in np.argsort(values) if values[index] < WEAK * mean]
    return [
        f"{classes[index]} is weak: {metric} {values[index]:.3f}, the mean over the classes is {mean:.3f}."
        for index in order[:SENTENCES]
    ]


def _sizes(sizes: Mapping[str, float], mean: float) -> list[str]:
    return [
        f"{size.capitalize()} objects are found badly: mAP {value:.3f}, over all sizes {mean:.3f}."
        for size, value in sizes.items()
        if value < WEAK * mean
    ]


def _errors(errors: Mapping[str, int]) -> list[str]:
    total = sum(errors.values())
    if not total:
        return []
    kind, count = max(errors.items(), key=lambda item: item[1])
    return [f"The commonest error is {ERROR_WORDS[kind]}: {count} of {total} errors."]


ERROR_WORDS = {
    "localisation": "a box that fits badly",
    "classification": "the wrong class in the right place",
    "both": "the wrong class in a box that fits badly",
    "duplicate": "a second box for the same object",
    "background": "a box where nothing is labelled",
    "missed": "an object that is not found",
}


def _confused(confusion: Confusion, unit: str) -> list[str]:
    counts = confusion.counts.astype(np.float64)
    found = []
    for row, truth in enumerate(confusion.rows):
        total = counts[row].sum()
        for column, given in enumerate(confusion.columns):
            share = counts[row, column] / total if total else 0.0
            if given != truth and share >= CONFUSED:
                found.append((share, truth, given, int(counts[row, column])))
    found.sort(reverse=True)
    return [_sentence(*item, unit) for item in found[:SENTENCES]]


def _sentence(share: float, truth: str, given: str, count: int, unit: str) -> str:
    verb = {"background": "missed", "not seen": "outside of what the model sees"}.get(given, f"taken for {given}")
    if truth == "background" and unit == "objects":
        return f"{share:.0%} of the false alarms on background are called {given} ({count})."
    return f"{share:.0%} of the {truth} {unit} are {verb} ({count:,})."


def _calibrated(gap: float | None) -> list[str]:
    if gap is None or abs(gap) < MISCALIBRATED:
        return []
    direction = "surer" if gap > 0 else "less sure"
    return [f"The model is {direction} than it should be: confidence and accuracy are {abs(gap):.0%} apart."]
