"""Tests that may be looked at as often as one likes: e-values and confidence sequences by betting.

The null hypothesis is that the mean of a variable, bounded from below, is at most `m`. Bet against it: at each
observation keep the fraction 1 - f of the wealth and stake f at the odds (value - smallest) / (m - smallest). Under the
null no such bet gains on average, so the wealth is a supermartingale that starts at 1, and the probability that it
*ever* reaches 1 / alpha is at most alpha (Ville 1939). The mean may change over time, as load and light do during a
day, as long as the null holds at each moment. The opposite null is the same with the signs changed.

The wealth is averaged over fixed stakes f from almost all to almost nothing, so the size of the difference need not be
known in advance (Robbins 1970; a discrete form of Cover's universal portfolio, 1991). All variables here take few
values, so the wealth is a function of how often each occurred: the counts are the whole state of a test, also after a
restart.

Sources: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024). Ramdas,
Grünwald, Vovk and Shafer, Game-theoretic statistics and safe anytime-valid inference, Statistical Science 38 (2023).
For the ratio: Lindon and Malek, Anytime-valid inference for multinomial count data, NeurIPS 2022: of those that failed,
each came from the candidate with a probability that no time of day changes. For weighting by the share of the traffic:
Horvitz and Thompson (1952), as Waudby-Smith et al., Time-uniform central limit theory, Annals of Statistics 52 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

STAKES = tuple(1 / (1 + 2**k) for k in range(-4, 8))
"""Fractions of the wealth that are staked: from 94 % to 0.8 %, evenly spaced in log odds."""
_CENTRES = (0.5, 0.7, 0.8, 0.9, 0.95)
"""Accuracies around which outcomes are counted; the nearer to the true one, the faster a difference is seen."""
_BISECTIONS = 40

Bet = tuple[float, float]
"""How often an outcome occurred, and what it makes of a stake of 1."""


def log_wealth(bets: Sequence[Bet], stakes: Sequence[float] = STAKES) -> float:
    """Log of the wealth, averaged over the stakes, that a wealth of 1 has become."""
    logs = [sum(n * math.log1p(f * (gain - 1)) for n, gain in bets if n) for f in stakes]
    return log_mean_exp(logs)


def log_mean_exp(logs: Sequence[float]) -> float:
    """Log of the mean of numbers given by their logs."""
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs)) if math.isfinite(top) else top


class Quantity(Protocol):
    """A quantity that counts speak of."""

    @property
    def count(self) -> float:
        """Observations that say something about it."""

    @property
    def estimate(self) -> float | None:
        """Its most likely value; None: it cannot be said."""

    @property
    def span(self) -> tuple[float, float]:
        """Its smallest and largest value that are considered."""

    def above(self, bound: float) -> float:
        """Log e-value against the null that it is at most `bound`. Decreases with the bound."""

    def below(self, bound: float) -> float:
        """Log e-value against the null that it is at least `bound`. Increases with the bound."""

    def scaled(self, factor: float) -> Quantity:
        """As it would be if `factor` times as much had been observed, with the same shares."""


@dataclass(frozen=True, slots=True)
class Share:
    """The share of events among all."""

    events: float
    total: float

    @property
    def count(self) -> float:
        return self.total

    @property
    def estimate(self) -> float | None:
        return self.events / self.total if self.total else None

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, 1.0

    def above(self, bound: float) -> float:
        if bound <= 0:
            return math.inf if self.events else 0.0
        return log_wealth(((self.events, 1 / bound), (self.total - self.events, 0.0)))

    def below(self, bound: float) -> float:
        return Share(self.total - self.events, self.total).above(1 - bound)

    def scaled(self, factor: float) -> Share:
        return Share(self.events * factor, self.total * factor)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of the candidate's share of events to that of stable, over the same time.

    Of the events alone: each is the candidate's with the probability w r / (w r + 1 - w), where r is the ratio and w
    the candidate's share of the traffic.
    """

    candidate: float
    """Events of the candidate."""
    stable: float
    """Events of stable."""
    weight: float
    """The candidate's share of the traffic, between 0 and 1."""

    @property
    def count(self) -> float:
        return self.candidate + self.stable

    @property
    def estimate(self) -> float | None:
        return self.candidate / self.stable * (1 - self.weight) / self.weight if self.stable else None

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, 1e6

    def _probability(self, ratio: float) -> float:
        return self.weight * ratio / (self.weight * ratio + 1 - self.weight)

    def above(self, bound: float) -> float:
        return Share(self.candidate, self.count).above(self._probability(bound))

    def below(self, bound: float) -> float:
        return Share(self.candidate, self.count).below(self._probability(bound))

    def scaled(self, factor: float) -> Ratio:
        return Ratio(self.candidate * factor, self.stable * factor, self.weight)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much more often the candidate is right than stable, on the same images. Only where they differ says how much;
    where they agree says that there is little to differ about."""

    candidate: float
    """Images on which the candidate alone is right."""
    stable: float
    """Images on which stable alone is right."""
    alike: float
    """Images on which both are right or both are wrong."""

    @property
    def count(self) -> float:
        return self.candidate + self.stable + self.alike

    @property
    def estimate(self) -> float | None:
        return (self.candidate - self.stable) / self.count if self.count else None

    @property
    def span(self) -> tuple[float, float]:
        return -1.0, 1.0

    def above(self, bound: float) -> float:
        return _mean_above(((self.candidate, 1.0), (self.alike, 0.0), (self.stable, -1.0)), bound, -1.0)

    def below(self, bound: float) -> float:
        return PairedDifference(self.stable, self.candidate, self.alike).above(-bound)

    def scaled(self, factor: float) -> PairedDifference:
        return PairedDifference(self.candidate * factor, self.stable * factor, self.alike * factor)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more often the candidate is right than stable, each on images of its own over the same time."""

    candidate: Share
    """Right answers among the labelled ones of the candidate."""
    stable: Share
    """The same of stable."""
    weight: float
    """The candidate's share of the traffic, between 0 and 1."""

    @property
    def count(self) -> float:
        return self.candidate.total + self.stable.total

    @property
    def estimate(self) -> float | None:
        one, other = self.candidate.estimate, self.stable.estimate
        return one - other if one is not None and other is not None else None

    @property
    def span(self) -> tuple[float, float]:
        return -1.0, 1.0

    def above(self, bound: float) -> float:
        return self._mixed(bound, 1.0)

    def below(self, bound: float) -> float:
        return self._mixed(-bound, -1.0)

    def scaled(self, factor: float) -> Difference:
        return Difference(self.candidate.scaled(factor), self.stable.scaled(factor), self.weight)

    def _mixed(self, bound: float, sign: float) -> float:
        """(right - centre) / w of the candidate's, -(right - centre) / (1 - w) of stable's: the mean is the difference,
        whatever the centre."""
        arms = ((self.candidate, sign / self.weight), (self.stable, -sign / (1 - self.weight)))
        logs = []
        for centre in _CENTRES:
            values = [
                (n, (right - centre) * scale)
                for arm, scale in arms
                for n, right in ((arm.events, 1.0), (arm.total - arm.events, 0.0))
            ]
            logs.append(_mean_above(values, bound, min(value for _, value in values)))
        return log_mean_exp(logs)


def _mean_above(values: Sequence[tuple[float, float]], bound: float, smallest: float) -> float:
    if bound <= smallest:
        return math.inf if any(n and value > smallest for n, value in values) else 0.0
    return log_wealth([(n, (value - smallest) / (bound - smallest)) for n, value in values])


def interval(quantity: Quantity, below: float, above: float) -> tuple[float, float]:
    """A confidence sequence: at all times together the quantity is under it with a probability of at most `below`, and
    over it of at most `above`. It is what no test has rejected yet, so it agrees with every decision."""
    low, high = quantity.span
    return (
        _last(lambda bound: quantity.above(bound) >= -math.log(below), low, high),
        _last(lambda bound: quantity.below(bound) >= -math.log(above), high, low),
    )


def _last(rejected: Callable[[float], bool], start: float, end: float) -> float:
    """Where what is rejected from `start` on ends, on the way to `end`."""
    if not rejected(start):
        return start
    for _ in range(_BISECTIONS):
        middle = (start + end) / 2
        start, end = (middle, end) if rejected(middle) else (start, middle)
    return start


def growth_until(quantity: Quantity, reached: Callable[[Quantity], bool], most: float = 1e4) -> float | None:
    """How many times as much must be observed until `reached`, if it goes on so. None: more than `most` times."""
    low, high = 1.0, 2.0
    while not reached(quantity.scaled(high)):
        if high >= most:
            return None
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(quantity.scaled(middle)) else (middle, high)
    return high
