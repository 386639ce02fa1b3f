"""How far a metric would move on other images of the same kind: the bootstrap over images.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Images are drawn with replacement; what
belongs to an image (its objects, its pixels) is drawn with it, for it is not independent. All evaluations of a split
draw the same images, so the draws of two models are pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
"""Share of the resamples that an interval holds."""
SEED = 0
"""The same evaluation gives the same intervals."""

Weights = NDArray[np.int64]
"""[N] how often each image was drawn."""
Interval = tuple[float, float]
Draws = NDArray[np.float64]
"""[R] a metric in each resample."""


def draws(
    images: int, metrics: Callable[[Weights], Mapping[str, float]], resamples: int = RESAMPLES
) -> dict[str, Draws]:
    """Each metric in each resample. Empty for fewer than two images.

    Args:
        images: Number of images.
        metrics: The metrics, by name, of a resample.
        resamples: How many are drawn.
    """
    if images < 2:
        return {}
    drawn = [metrics(weights) for weights in _resamples(images, resamples)]
    return {name: np.array([each[name] for each in drawn]) for name in drawn[0]}


def intervals(drawn: Mapping[str, Draws]) -> dict[str, Interval]:
    """Percentile interval of each metric; without those that were not finite in some resample."""
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    found = {name: np.quantile(values, tails) for name, values in drawn.items() if np.isfinite(values).all()}
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def difference_error(one: Draws, other: Draws) -> float | None:
    """Standard error of the difference of a metric between two models on the same images. None: they were drawn
    differently, or some resample has no value."""
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    return float(np.std(one - other, ddof=1))


def _resamples(images: int, count: int) -> Iterator[Weights]:
    random = np.random.default_rng(SEED)
    for _ in range(count):
        yield np.bincount(random.integers(0, images, images), minlength=images)
