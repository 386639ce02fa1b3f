"""How much a histogram differs from that of a reference, as an effect size: what drift and its report go by.

Of features with edges it is Cliff's delta, from -1 to 1: how much more often an image of the one lies above an image of
the other than below (limits by Romano et al. 2006). Of shares it is the largest Cohen's h of a class (Cohen 1988).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Effect = Literal["Small", "Medium", "Large"]
Counts = Sequence[float]
"""Images in each bin."""

DELTA = {"Small": 0.147, "Medium": 0.33, "Large": 0.474}
"""Smallest absolute values of Cliff's delta of an effect."""
H = {"Small": 0.2, "Medium": 0.5, "Large": 0.8}
"""The same of Cohen's h."""


@dataclass(frozen=True, slots=True)
class EffectSize:
    """An effect with its error."""

    value: float
    """Cliff's delta, or Cohen's h."""
    error: float
    """Its standard error by the sampling of reference and window."""
    limits: tuple[tuple[Effect, float], ...]
    """Smallest absolute value of each effect, from small to large."""

    @property
    def name(self) -> Effect | None:
        """Which effect it is; None: less than a small one."""
        return next((name for name, least in reversed(self.limits) if abs(self.value) >= least), None)

    @property
    def is_certain(self) -> bool:
        """Whether it is at least a small one with a confidence of 97.5 %."""
        return abs(self.value) - 1.96 * self.error >= self.limits[0][1]


def ranks(reference: Counts) -> list[float]:
    """The rank in the reference of an image in each bin, from 0 to 1; that of its middle, so that their mean is 1/2."""
    total, before, found = sum(reference), 0.0, []
    for count in reference:
        found.append((before + count / 2) / total)
        before += count
    return found


def cliffs_delta(reference: Counts, window: Counts) -> EffectSize:
    """How much higher the values of a window are, on bins in rising order.

    Args:
        reference: Images in each bin, some in all.
        window: The same bins, some images in all.
    """
    values = ranks(reference)
    delta = 2 * _mean(values, window) - 1
    # the ranks' variance in both samples, as of the statistic by Mann and Whitney
    own = _variance([2 * value for value in values], window) / sum(window)
    other = _variance([2 * value for value in ranks(window)], reference) / sum(reference)
    return EffectSize(delta, math.sqrt(own + other), _limits(DELTA))


def cohens_h(reference: Counts, window: Counts) -> EffectSize:
    """The largest difference of a share, as the difference of the angles 2 asin(sqrt(share))."""
    total, known = sum(window), sum(reference)
    angles = [_angle(n / total) - _angle(m / known) for n, m in zip(window, reference, strict=True)]
    return EffectSize(max(angles, key=abs), math.sqrt(1 / total + 1 / known), _limits(H))


def _angle(share: float) -> float:
    return 2 * math.asin(math.sqrt(min(share, 1.0)))


def _limits(named: dict[str, float]) -> tuple[tuple[Effect, float], ...]:
    return (("Small", named["Small"]), ("Medium", named["Medium"]), ("Large", named["Large"]))


def _mean(values: Sequence[float], counts: Counts) -> float:
    return sum(n * value for n, value in zip(counts, values, strict=True)) / sum(counts)


def _variance(values: Sequence[float], counts: Counts) -> float:
    mean = _mean(values, counts)
    return sum(n * (value - mean) ** 2 for n, value in zip(counts, values, strict=True)) / sum(counts)
