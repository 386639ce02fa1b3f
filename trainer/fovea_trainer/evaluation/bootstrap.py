"""How far a metric would move on other images of the same kind: percentile intervals of the bootstrap over images.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Images are drawn with replacement; what
belongs to an image (its objects, its pixels) is drawn with it, for it is not independent.
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


def intervals(
    images: int, metrics: Callable[[Weights], Mapping[str, float]], resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Bounds of each metric; without those that were not finite in some resample. Empty for fewer than two images.

    Args:
        images: Number of images.
        metrics: The metrics, by name, of a resample.
        resamples: How many are drawn.
    """
    if images < 2:
        return {}
    drawn = [metrics(weights) for weights in _resamples(images, resamples)]
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    found = {}
    for name in drawn[0]:
        values = np.array([each[name] for each in drawn])
        if np.isfinite(values).all():
            low, high = np.quantile(values, tails)
            found[name] = (float(low), float(high))
    return found


def _resamples(images: int, count: int) -> Iterator[Weights]:
    random = np.random.default_rng(SEED)
    for _ in range(count):
        yield np.bincount(random.integers(0, images, images), minlength=images)
