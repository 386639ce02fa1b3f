"""Accuracy on data without labels, estimated from how sure the model is.

Difference of confidences (DoC): the accuracy falls by as much as the mean confidence (Guillory et al., Predicting
with confidence on unseen distributions, ICCV 2021). Average thresholded confidence (ATC): the threshold above which
the reference has as many predictions as are right; the share above it is the accuracy (Garg et al., Leveraging
unlabeled data to predict out-of-distribution performance, ICLR 2022). Both are estimates, not tests: they presume
that confidence means the same as before, which a new class or an adversary breaks. Their errors here are those of
sampling alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confidences:
    """Histogram of the confidence of predictions."""

    edges: tuple[float, ...]
    """Edges of the bins, one more than bins."""
    counts: tuple[float, ...]
    """Predictions in each bin."""

    @property
    def total(self) -> float:
        """All predictions."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean confidence, with each prediction in the middle of its bin."""
        return sum(n * value for n, value in zip(self.counts, self._middles, strict=True)) / self.total

    @property
    def variance(self) -> float:
        """Variance of the confidence."""
        mean = self.mean
        return sum(n * (value - mean) ** 2 for n, value in zip(self.counts, self._middles, strict=True)) / self.total

    @property
    def _middles(self) -> Sequence[float]:
        return [(low + high) / 2 for low, high in zip(self.edges, self.edges[1:], strict=False)]

    def above(self, threshold: float) -> float:
        """Share of predictions above a threshold; within a bin they are spread evenly."""
        found = 0.0
        for low, high, count in zip(self.edges, self.edges[1:], self.counts, strict=False):
            found += count * min(max((high - threshold) / (high - low), 0.0), 1.0)
        return found / self.total

    def threshold(self, share: float) -> float:
        """The threshold above which a share of the predictions lies."""
        wanted, found = share * self.total, 0.0
        for low, high, count in zip(self.edges[-2::-1], self.edges[:0:-1], self.counts[::-1], strict=True):
            if count and found + count >= wanted:
                return high - (high - low) * (wanted - found) / count
            found += count
        return self.edges[0]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated accuracy."""

    accuracy: float
    """From 0 to 1."""
    error: float
    """Its standard error by sampling, of reference and window."""


def difference_of_confidences(reference: Confidences, accuracy: float, window: Confidences) -> Estimate | None:
    """DoC. None: the window or the reference is empty."""
    if not reference.total or not window.total:
        return None
    value = accuracy - (reference.mean - window.mean)
    # accuracy and confidence of the reference are of the same images; taken as independent, the error is no smaller
    sampling = (accuracy * (1 - accuracy) + reference.variance) / reference.total + window.variance / window.total
    return Estimate(min(max(value, 0.0), 1.0), math.sqrt(sampling))


def average_thresholded_confidence(reference: Confidences, accuracy: float, window: Confidences) -> Estimate | None:
    """ATC. None: the window or the reference is empty."""
    if not reference.total or not window.total:
        return None
    value = window.above(reference.threshold(accuracy))
    sampling = 2 * accuracy * (1 - accuracy) / reference.total + value * (1 - value) / window.total
    return Estimate(value, math.sqrt(sampling))
