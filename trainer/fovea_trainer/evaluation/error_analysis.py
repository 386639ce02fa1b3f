"""What a model does worst, in sentences that any task may use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.evaluation.result import Confusion

WEAK = 0.85
"""A class or size below this share of the mean is called weak."""
CONFUSED = 0.05
"""Share of a class that is taken for another one from which it is mentioned."""
MISCALIBRATED = 0.05
"""Distance of mean confidence and accuracy from which it is mentioned."""
SENTENCES = 3
"""Sentences of a kind at most, the worst first."""


def weak_classes(classes: tuple[str, ...], metric: str, values: NDArray[np.float64]) -> list[str]:
    """The classes well below the mean of the classes that occur. `values` is [C], NaN for a class that does not."""
    mean = float(np.nanmean(values)) if np.isfinite(values).any() else 0.0
    order = [int(index) for index in np.argsort(values) if values[index] < WEAK * mean]
    return [
        f"{classes[index]} is weak: {metric} {values[index]:.3f}, the mean over the classes is {mean:.3f}."
        for index in order[:SENTENCES]
    ]


def weak_sizes(metric: str, values: Mapping[str, float]) -> list[str]:
    """The sizes of objects well below the mean of the sizes that occur: never all of them."""
    mean = float(np.mean(list(values.values()))) if values else 0.0
    return [
        f"{size.capitalize()} objects are detected worse than others: "
        f"{metric} {value:.3f}, the mean over the sizes is {mean:.3f}."
        for size, value in values.items()
        if value < WEAK * mean
    ]


def commonest_error(errors: Mapping[str, int], words: Mapping[str, str]) -> list[str]:
    """The kind of error that is counted most."""
    total = sum(errors.values())
    if not total:
        return []
    kind, count = max(errors.items(), key=lambda item: item[1])
    return [f"The commonest error is {words[kind]}: {count} of {total} errors."]


def confused_classes(confusion: Confusion, unit: str, verbs: Mapping[str, str] | None = None) -> list[str]:
    """The commonest confusions. `verbs` says in words what a special column means, such as background: missed."""
    counts = confusion.counts.astype(np.float64)
    confused = []
    for row, label in enumerate(confusion.rows):
        total = counts[row].sum()
        for column, predicted in enumerate(confusion.columns):
            fraction = counts[row, column] / total if total else 0.0
            if predicted != label and fraction >= CONFUSED:
                confused.append((fraction, label, predicted, int(counts[row, column])))
    confused.sort(reverse=True)
    sentences = []
    for fraction, label, predicted, count in confused[:SENTENCES]:
        if label in (verbs or {}):
            sentences.append(f"{fraction:.0%} of the false alarms on {label} are called {predicted} ({count:,}).")
        else:
            verb = (verbs or {}).get(predicted, f"taken for {predicted}")
            sentences.append(f"{fraction:.0%} of the {label} {unit} are {verb} ({count:,}).")
    return sentences


def calibration_error(gap: float) -> list[str]:
    """Over- or underconfidence. `gap` is mean confidence less accuracy."""
    if abs(gap) < MISCALIBRATED:
        return []
    direction = "overconfident" if gap > 0 else "underconfident"
    return [f"The model is {direction}: mean confidence and accuracy are {abs(gap):.0%} apart."]
