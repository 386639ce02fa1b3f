"""Whether what comes in has changed: detectors on histograms, with one budget of false alarms for all of them.

Of each feature (brightness, confidence, a component of the embedding, the predicted class) a reference histogram is
known, and the histogram of each window. An image counts by its rank in the reference, from 0 to 1, so the mean is 1/2
for the reference itself; by its distance from the middle rank, which shows a changed spread; and of classes, by being
of the class. Of each such score the null hypothesis is that its mean in the window lies within a tolerance of the
reference's. Against that one bets, as betting.py describes, upwards and downwards.

An e-detector accumulates the e-values so that a change may begin at any time: M_t = (M_{t-1} + 1) E_t. Under the null
its mean is at most t, so the mean of any number of e-detectors is one, and an alarm at M >= L comes on average after L
windows at the earliest, whatever the dependence between the detectors: no budget is split (Shin, Ramdas and Rinaldo,
E-detectors: a nonparametric framework for sequential change detection, NEJSDS 2, 2024; Shiryaev-Roberts form).

Windows differ from each other without anything being wrong: day and night, shifts, weather. A null of "exactly as the
reference" raises hundreds of false alarms a year there. So the tolerance is the largest of the effect that a user cares
about and three standard deviations between windows, estimated as in an analysis of variance (a moment estimate of the
random effect: DerSimonian and Laird, Controlled Clinical Trials 7, 1986). A reference of n images has an error itself;
`misfit` bounds the probability that it exceeds the tolerance (Hoeffding, JASA 58, 1963, in the form by Chernoff).

The smallest effects that matter are those of fovea_api.effects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fovea_api.effects import DELTA, Counts, Effect, H, cliffs_delta, cohens_h, ranks

from fovea_operator.evidence.betting import log_mean_exp

REFERENCE_ITEMS = 2000
"""Images of a reference below which its own error is reported."""
STAKES = (0.1, 0.2, 0.4, 0.8)
"""Fractions of the wealth that are staked on each image, for small changes and large ones."""
BETWEEN = 3.0
"""Standard deviations between windows that are no change."""
FEWEST_WINDOWS = 10
"""Windows below which their spread is not known: of two, one of which has changed a bit, it would hide any change."""

_LASTING = 0.97
"""Largest correlation of neighbouring windows that is taken into account."""
_Z = 1.645
"""Quantile of the normal distribution of a one-sided bound of 95 %."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A property of images with the histogram of the reference."""

    name: str
    reference: tuple[float, ...]
    """Images in each bin."""
    categorical: bool = False
    """Whether bins are classes, without an order."""


@dataclass(frozen=True, slots=True)
class Score:
    """What an image in each bin counts, from 0 to 1."""

    name: str
    feature: str
    values: tuple[float, ...]
    mean: float
    """Its mean in the reference."""
    least: float
    """Distance from the mean that is no effect yet."""

    def of(self, counts: Counts) -> float:
        """The mean in a window."""
        return sum(n * value for n, value in zip(counts, self.values, strict=True)) / sum(counts)

    def variance(self, counts: Counts) -> float:
        """The variance in a window."""
        mean = self.of(counts)
        return sum(n * (value - mean) ** 2 for n, value in zip(counts, self.values, strict=True)) / sum(counts)


@dataclass(frozen=True, slots=True)
class Detector:
    """Bets that a score has risen, or has fallen, by more than the tolerance."""

    name: str
    feature: str
    factors: tuple[tuple[float, ...], ...]
    """For each stake, the logarithm of what an image in each bin makes of a wealth of 1."""

    def log_e(self, counts: Counts) -> float:
        """Log e-value of one window."""
        return log_mean_exp([sum(n * f for n, f in zip(counts, row, strict=True)) for row in self.factors])


def scores(feature: Feature, effect: Effect) -> Iterator[Score]:
    """What is watched of a feature."""
    total = sum(feature.reference)
    shares = [n / total for n in feature.reference]
    if feature.categorical:
        for index, share in enumerate(shares):
            values = tuple(float(index == other) for other in range(len(shares)))
            moved = math.sin(min(math.asin(math.sqrt(share)) + H[effect] / 2, math.pi / 2)) ** 2
            yield Score(f"{feature.name}/{index}", feature.name, values, share, moved - share)
        return
    location = ranks(feature.reference)
    spread = [abs(2 * rank - 1) for rank in location]
    mean = sum(share * value for share, value in zip(shares, spread, strict=True))
    yield Score(f"{feature.name}/location", feature.name, tuple(location), 0.5, DELTA[effect] / 2)
    yield Score(f"{feature.name}/spread", feature.name, tuple(spread), mean, DELTA[effect] / 2)


@dataclass(frozen=True, slots=True)
class Spread:
    """How much a score differs between windows, as sums over them, so that it needs no window but the next one.

    All are of the mean of the score in a window, less its mean in the reference.
    """

    windows: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    """Of neighbours."""
    sampling: float = 0.0
    """Variances by sampling."""
    first: float = 0.0
    last: float = 0.0

    def after(self, score: Score, counts: Counts) -> Spread:
        """With one window more; one of less than two images says nothing."""
        images = sum(counts)
        if images <= 1:
            return self
        value = score.of(counts) - score.mean
        return Spread(
            self.windows + 1,
            self.total + value,
            self.squares + value**2,
            self.products + (self.last * value if self.windows else 0.0),
            self.sampling + score.variance(counts) / (images - 1),
            self.first if self.windows else value,
            value,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation between windows of the score's true mean, as an upper bound of about 95 %; of few: 0.

        It is their spread without the sampling error. What lasts from one window to the next makes it less certain: of
        windows with a correlation r between neighbours, a variance is known as from N (1 - r^2) / (1 + r^2) of them
        (Bayley and Hammersley, JRSS Supplement 8, 1946).
        """
        count = self.windows
        if count < FEWEST_WINDOWS:
            return 0.0
        centre = self.total / count
        observed = (self.squares - count * centre**2) / (count - 1)
        variance = observed - self.sampling / count
        if variance <= 0:
            return 0.0
        neighbours = self.products - centre * (2 * self.total - self.first - self.last) + (count - 1) * centre**2
        square = min(max(neighbours / (count - 1) / variance, 0.0), _LASTING) ** 2
        known_from = count * (1 - square) / (1 + square)
        return math.sqrt(variance) * (1 + _Z / math.sqrt(2 * known_from))


def between(score: Score, windows: Sequence[Counts]) -> float:
    """Standard deviation between windows of a score's true mean, see Spread."""
    spread = Spread()
    for counts in windows:
        spread = spread.after(score, counts)
    return spread.deviation


def tolerance(score: Score, windows: Sequence[Counts]) -> float:
    """Distance from the reference's mean that is no change."""
    return max(score.least, BETWEEN * between(score, windows))


def detectors(score: Score, allowed: float) -> Iterator[Detector]:
    """The two detectors of a score; one that cannot exceed its tolerance needs none."""
    for sign, values, mean in (
        ("+", score.values, score.mean),
        ("-", tuple(1 - value for value in score.values), 1 - score.mean),
    ):
        bound = mean + allowed
        if bound < 1:
            factors = tuple(tuple(math.log1p(f * (value / bound - 1)) for value in values) for f in STAKES)
            yield Detector(score.name + sign, score.feature, factors)


@dataclass(frozen=True, slots=True)
class Monitor:
    """All detectors of a deployment, and where they stand. Immutable: each window makes a new one."""

    detectors: tuple[Detector, ...]
    run_length: float
    """Windows between two false alarms, on average and at least."""
    log_m: Mapping[str, float]
    """Logarithm of each e-detector; absent: 0 so far."""

    def after(self, window: Mapping[str, Counts], least: float) -> Monitor:
        """With one window. A feature with fewer than `least` images, or with none that can be read, stays as it was."""
        known = dict(self.log_m)
        for detector in self.detectors:
            counts = window.get(detector.feature, ())
            if _readable(counts, len(detector.factors[0])) and sum(counts) >= least:
                before = known.get(detector.name, -math.inf)
                known[detector.name] = _log_plus_one(before) + detector.log_e(counts)
        return Monitor(self.detectors, self.run_length, known)

    @property
    def log_score(self) -> float:
        """Logarithm of the mean of all e-detectors."""
        return log_mean_exp([self.log_m.get(detector.name, -math.inf) for detector in self.detectors])

    @property
    def alarm(self) -> bool:
        """Whether there is drift."""
        return self.log_score >= math.log(self.run_length)

    @property
    def suspects(self) -> tuple[str, ...]:
        """The detectors that would raise the alarm on their own, the strongest first."""
        strong = [name for name, log_m in self.log_m.items() if log_m >= math.log(self.run_length)]
        return tuple(sorted(strong, key=lambda name: -self.log_m[name]))


def run_length(false_alarms_per_year: float, window_hours: float) -> float:
    """Windows between two false alarms of a budget."""
    return 8760 / window_hours / false_alarms_per_year


def misfit(score: Score, items: float, allowed: float) -> float:
    """Largest probability that a reference of so many images of the same source lies outside of the tolerance."""
    sides = (score.mean + allowed, score.mean - allowed)  # a mean beyond 0 or 1 there is not
    return min(1.0, sum(math.exp(-items * _kl(side, score.mean)) for side in sides if 0 <= side <= 1))


def kept_budget(found: Sequence[tuple[Score, float]], items: float, budget: float, window_hours: float) -> float:
    """False alarms a year, in the mean over references of so many images; where one misfits, each window may raise one.

    Args:
        found: The scores with their tolerances.
        items: Images of the reference.
        budget: False alarms a year with a reference that fits.
        window_hours: Length of a window in hours.
    """
    wrong = min(1.0, sum(misfit(score, items, allowed) for score, allowed in found))
    return budget + wrong * 8760 / window_hours


def effect_size(feature: Feature, counts: Counts) -> float:
    """How much a window differs. Ranks: Cliff's delta, from -1 to 1. Classes: the largest Cohen's h."""
    measure = cohens_h if feature.categorical else cliffs_delta
    return measure(feature.reference, counts).value


def _readable(counts: Counts, bins: int) -> bool:
    return len(counts) == bins and all(math.isfinite(n) and n >= 0 for n in counts)


def _log_plus_one(log_value: float) -> float:
    return max(log_value, 0.0) + math.log1p(math.exp(-abs(log_value)))


def _kl(one: float, other: float) -> float:
    """Kullback-Leibler divergence of two coins."""
    terms = ((one, other), (1 - one, 1 - other))
    return sum(p * math.log(p / q) if q > 0 else math.inf for p, q in terms if p > 0)
