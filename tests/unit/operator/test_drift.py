"""Drift: detectors on histograms with one budget, and accuracy estimated without labels."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from fovea_api.effects import DELTA
from fovea_api.estimates import (
    Confidences,
    average_thresholded_confidence,
    difference_of_confidences,
)
from fovea_operator.evidence.drift import (
    BETWEEN,
    Detector,
    Feature,
    Monitor,
    between,
    detectors,
    effect_size,
    kept_budget,
    misfit,
    run_length,
    scores,
    tolerance,
)

FLAT = Feature("brightness", (250.0,) * 8)
CLASSES = Feature("class", (1000.0, 600.0, 400.0), categorical=True)


def all_detectors(*features: Feature, allowed: float | None = None) -> tuple[Detector, ...]:
    return tuple(
        detector
        for feature in features
        for score in scores(feature, "Small")
        for detector in detectors(score, score.least if allowed is None else allowed)
    )


def drawn(draw: random.Random, weights: Sequence[float], count: int) -> list[float]:
    counts = [0.0] * len(weights)
    for index in draw.choices(range(len(weights)), weights, k=count):
        counts[index] += 1
    return counts


class TestScores:
    def test_of_the_reference_itself_are_in_the_middle(self) -> None:
        skewed = Feature("noise", (1000.0, 10.0, 400.0, 1.0, 0.0))
        for feature in (FLAT, skewed, CLASSES):
            for score in scores(feature, "Small"):
                assert score.of(feature.reference) == pytest.approx(score.mean)
        assert next(scores(skewed, "Small")).mean == 0.5

    def test_ranks_are_by_hand(self) -> None:
        location, spread = scores(Feature("size", (100.0, 300.0)), "Small")
        assert location.values == (0.125, 0.625)
        assert spread.values == (0.75, 0.25)

    def test_of_classes_is_one_score_each(self) -> None:
        found = list(scores(CLASSES, "Small"))
        assert [score.mean for score in found] == [0.5, 0.3, 0.2]
        for score in found:
            moved = 2 * math.asin(math.sqrt(score.mean + score.least)) - 2 * math.asin(math.sqrt(score.mean))
            assert moved == pytest.approx(0.2), "Cohen's h of the smallest effect"


class TestEffectSize:
    def test_is_cliffs_delta(self) -> None:
        """The share of pairs in which the window is larger, less that in which it is smaller."""
        feature, window = Feature("size", (1.0, 2.0, 1.0)), (0.0, 1.0, 3.0)
        pairs = [(n * m, (i > j) - (i < j)) for i, n in enumerate(window) for j, m in enumerate(feature.reference)]
        assert effect_size(feature, window) == pytest.approx(sum(w * sign for w, sign in pairs) / 16)

    def test_is_cohens_h_of_the_class_that_changed_most(self) -> None:
        expected = 2 * math.asin(math.sqrt(0.1)) - 2 * math.asin(math.sqrt(0.3))
        assert effect_size(CLASSES, (58.0, 10.0, 32.0)) == pytest.approx(expected)


class TestTolerance:
    def windows(self, sd: float, count: int = 200, size: int = 400) -> list[list[float]]:
        draw, found = random.Random(3), []
        for _ in range(count):
            shift = draw.gauss(0, sd)
            found.append(drawn(draw, [max(1 + shift * (i - 3.5), 0.0) for i in range(8)], size))
        return found

    def test_sampling_alone_is_no_spread(self) -> None:
        location = next(scores(FLAT, "Small"))
        assert between(location, self.windows(0.0)) < 0.006
        assert tolerance(location, self.windows(0.0)) == location.least

    def test_spread_between_windows_is_found_with_its_error(self) -> None:
        """A weight of 1 + s (i - 3.5) moves the mean rank by s 5.25 / 8; of 200 windows 8 % are added."""
        location = next(scores(FLAT, "Small"))
        found = between(location, self.windows(0.1))
        assert found == pytest.approx(0.1 * 5.25 / 8 * (1 + 1.645 / 20), rel=0.15)
        assert tolerance(location, self.windows(0.1)) == BETWEEN * found

    def test_what_lasts_is_less_certain(self) -> None:
        """The same windows in the order of their means: their variance is known as from a few of them."""
        location = next(scores(FLAT, "Small"))
        windows = self.windows(0.1)
        ordered = sorted(windows, key=location.of)
        assert between(location, ordered) / between(location, windows) == pytest.approx(1.61 / 1.08, rel=0.1)

    @pytest.mark.parametrize("windows", [[], [[50.0] * 8], [[0.0] * 8, [0.0] * 8]])
    def test_of_too_few_windows_is_the_smallest_effect(self, windows: list[list[float]]) -> None:
        location = next(scores(FLAT, "Small"))
        assert tolerance(location, windows) == location.least == DELTA["Small"] / 2


class TestDetector:
    def test_is_fair_at_its_tolerance(self) -> None:
        """One image, with the largest mean that is still no drift: the expected wealth is 1."""
        location = next(scores(Feature("size", (100.0, 100.0)), "Small"))
        up, down = detectors(location, 0.1)
        high = [0.3, 0.7]  # ranks 1/4 and 3/4: a mean of 0.6
        assert sum(p * math.exp(up.log_e(one)) for p, one in zip(high, ([1, 0], [0, 1]), strict=True)) == pytest.approx(
            1
        )
        assert sum(
            p * math.exp(down.log_e(one)) for p, one in zip(high[::-1], ([1, 0], [0, 1]), strict=True)
        ) == pytest.approx(1)

    def test_below_it_the_wealth_falls(self) -> None:
        location = next(scores(Feature("size", (100.0, 100.0)), "Small"))
        up, _ = detectors(location, 0.1)
        for share in (0.0, 0.3, 0.5, 0.69):
            assert (1 - share) * math.exp(up.log_e([1, 0])) + share * math.exp(up.log_e([0, 1])) < 1

    def test_what_cannot_exceed_its_tolerance_has_none(self) -> None:
        location = next(scores(FLAT, "Small"))
        assert list(detectors(location, 0.5)) == []


class TestMonitor:
    MONITOR = Monitor(all_detectors(FLAT, CLASSES), 8760, {})

    def test_accumulates_by_shiryaev_and_roberts(self) -> None:
        """M_t is the sum over all beginnings of the products of e-values since."""
        monitor, logs = self.MONITOR, []
        windows = [[30.0, 20, 20, 20, 20, 20, 30, 40], [10.0, 10, 20, 30, 40, 40, 30, 20], [25.0] * 8]
        up = monitor.detectors[0]
        for window in windows:
            monitor = monitor.after({"brightness": window}, 30)
            logs.append(up.log_e(window))
        expected = sum(math.exp(sum(logs[start:])) for start in range(3))
        assert math.exp(monitor.log_m[up.name]) == pytest.approx(expected)

    def test_the_score_is_the_mean_of_all(self) -> None:
        monitor = self.MONITOR.after({"brightness": [25.0] * 8}, 30)
        known = [math.exp(value) for value in monitor.log_m.values()]
        assert len(known) == 4
        assert math.exp(monitor.log_score) == pytest.approx(sum(known) / 10)

    @pytest.mark.parametrize(
        "window",
        [
            {},
            {"brightness": [math.nan] * 8},
            {"brightness": [25.0] * 7},
            {"brightness": [-1.0] * 8},
            {"brightness": [3.0] * 8},
        ],
    )
    def test_what_cannot_be_read_or_is_too_little_changes_nothing(self, window: dict[str, list[float]]) -> None:
        before = self.MONITOR.after({"brightness": [25.0] * 8}, 30)
        assert before.after(window, 30) == before

    def test_years_without_change_raise_no_alarm(self) -> None:
        """Ten times 100 windows with a budget of one alarm in 50 windows; without a tolerance it would be used up."""
        draw, alarms = random.Random(5), 0
        for _ in range(10):
            monitor = Monitor(self.MONITOR.detectors, 50, {})
            for _ in range(100):
                window = {"brightness": drawn(draw, [1] * 8, 100), "class": drawn(draw, CLASSES.reference, 100)}
                monitor = monitor.after(window, 30)
                alarms += monitor.alarm
        assert alarms == 0

    @pytest.mark.parametrize(("weights", "windows"), [((1, 1, 1, 1, 3, 3, 3, 3), 8), ((0, 0, 0, 0, 1, 1, 1, 1), 1)])
    def test_a_change_is_found_soon_and_named(self, weights: tuple[float, ...], windows: int) -> None:
        draw, monitor = random.Random(9), self.MONITOR
        for _ in range(20):
            monitor = monitor.after({"brightness": drawn(draw, [1] * 8, 200)}, 30)
        for _ in range(windows):
            monitor = monitor.after({"brightness": drawn(draw, weights, 200)}, 30)
        assert monitor.alarm
        assert monitor.suspects[0] == "brightness/location+"

    def test_a_changed_spread_is_found(self) -> None:
        monitor = self.MONITOR
        for _ in range(3):
            monitor = monitor.after({"brightness": [100.0, 0, 0, 0, 0, 0, 0, 100]}, 30)
        assert monitor.alarm
        assert monitor.suspects == ("brightness/spread+",)

    def test_a_class_that_vanishes_is_found(self) -> None:
        draw, monitor = random.Random(2), self.MONITOR
        for _ in range(4):
            monitor = monitor.after({"class": drawn(draw, (1000, 600, 0), 200)}, 30)
        assert monitor.alarm
        assert "class/2-" in monitor.suspects


def test_run_length() -> None:
    assert run_length(1, 1) == 8760
    assert run_length(4, 2) == 1095


class TestReference:
    def test_misfit_is_bounded_by_chernoff(self) -> None:
        """Against the exact tail of a binomial: the share of one of two classes."""
        score = next(iter(scores(Feature("class", (1.0, 1.0), categorical=True), "Small")))
        items, allowed = 200, 0.1
        exact = sum(math.comb(items, k) for k in range(items + 1) if abs(k / items - 0.5) >= 0.1) / 2**items
        assert exact <= misfit(score, items, allowed) <= 10 * exact

    def test_a_mean_that_there_cannot_be_is_no_misfit(self) -> None:
        """A class that no image of the reference has cannot be rarer; it must not use all of the budget up."""
        (*_, absent) = scores(Feature("class", (1000.0, 1000.0, 0.0), categorical=True), "Small")
        assert absent.mean == 0
        assert misfit(absent, 2000, absent.least) == 0

    def test_a_small_reference_keeps_no_small_budget(self) -> None:
        found = [(score, score.least) for score in scores(FLAT, "Small")] * 5
        small, large = (kept_budget(found, items, 1.0, 1.0) for items in (300, 2000))
        assert small > 100
        assert large == pytest.approx(1, abs=0.01)


class TestAccuracy:
    EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
    REFERENCE = Confidences(EDGES, (0, 100, 300, 600))

    def test_of_the_reference_is_its_own(self) -> None:
        for method in (difference_of_confidences, average_thresholded_confidence):
            found = method(self.REFERENCE, 0.8, self.REFERENCE)
            assert found is not None
            assert found.accuracy == pytest.approx(0.8)

    def test_by_hand(self) -> None:
        """Mean confidences are 0.75 and 0.6875. 80 % of the reference lie above 0.75 - 0.25 * 200 / 300."""
        window = Confidences(self.EDGES, (0, 50, 25, 25))
        assert self.REFERENCE.mean == pytest.approx(0.75)
        doc = difference_of_confidences(self.REFERENCE, 0.8, window)
        atc = average_thresholded_confidence(self.REFERENCE, 0.8, window)
        assert doc is not None
        assert atc is not None
        assert self.REFERENCE.threshold(0.8) == pytest.approx(0.75 - 0.25 * 200 / 300)
        assert doc.accuracy == pytest.approx(0.8 - (0.75 - (50 * 0.375 + 25 * 0.625 + 25 * 0.875) / 100))
        assert atc.accuracy == pytest.approx((25 + 25 * 2 / 3) / 100)

    def test_the_error_falls_with_the_window(self) -> None:
        errors = []
        for count in (10, 100, 10_000):
            found = average_thresholded_confidence(self.REFERENCE, 0.8, Confidences(self.EDGES, (0, 0, count, count)))
            assert found is not None
            errors.append(found.error)
        assert errors == sorted(errors, reverse=True)

    def test_of_a_calibrated_model_both_follow_the_true_accuracy(self) -> None:
        """Right with the probability that it says: harder images come, and the estimates fall as the accuracy does."""
        draw = random.Random(4)
        middles = [0.125, 0.375, 0.625, 0.875]

        def sample(weights: tuple[int, ...], count: int) -> tuple[Confidences, float]:
            counts = drawn(draw, weights, count)
            right = sum(
                sum(draw.random() < middle for _ in range(int(n))) for n, middle in zip(counts, middles, strict=True)
            )
            return Confidences(self.EDGES, tuple(counts)), right / count

        reference, accuracy = sample((1, 2, 3, 10), 4000)
        window, true = sample((3, 4, 4, 5), 4000)
        assert accuracy - true > 0.1
        doc = difference_of_confidences(reference, accuracy, window)
        assert doc is not None
        assert abs(doc.accuracy - true) < 4 * doc.error
        atc = average_thresholded_confidence(reference, accuracy, window)
        assert atc is not None
        assert true - 0.15 < atc.accuracy < accuracy - 0.05

    def test_of_nothing_there_is_none(self) -> None:
        empty = Confidences(self.EDGES, (0, 0, 0, 0))
        assert difference_of_confidences(self.REFERENCE, 0.8, empty) is None
        assert average_thresholded_confidence(empty, 0.8, self.REFERENCE) is None
