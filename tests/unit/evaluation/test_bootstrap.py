"""Intervals of the bootstrap hold what theory says they should, and weights of one give the metric itself."""

from __future__ import annotations

import numpy as np
import pytest
from fovea_serving.pipeline import Detection
from fovea_trainer.evaluation.bootstrap import difference_error, draws, intervals
from fovea_trainer.tasks.detection.average_precision import mean_average_precision
from fovea_trainer.tasks.detection.evaluation import threshold_curves, worst_mistakes
from fovea_trainer.tasks.detection.intervals import _Table, at_50_draws, mean_at_50
from fovea_trainer.tasks.detection.matching import GroundTruth, match_all


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    """80 of 100 right: the normal approximation is 0.8 +- 1.96 * sqrt(0.8 * 0.2 / 100)."""
    right = np.arange(100) < 80
    drawn = draws(100, lambda weights: {"accuracy": float(weights @ right / weights.sum())})
    bounds = intervals(drawn)
    assert bounds["accuracy"] == pytest.approx((0.7216, 0.8784), abs=0.011)
    assert bounds == intervals(draws(100, lambda weights: {"accuracy": float(weights @ right / weights.sum())}))


def test_the_error_of_a_difference_on_the_same_images_is_that_of_paired_shares() -> None:
    """10 images that one model alone has right, 4 that the other has: sqrt((14 - 6^2 / 200) / 200^2) by theory."""
    one, other = np.arange(200) < 150, (np.arange(200) >= 10) & (np.arange(200) < 154)
    drawn = [
        draws(200, lambda weights, right=right: {"accuracy": float(weights @ right / weights.sum())})["accuracy"]
        for right in (one, other)
    ]
    error = difference_error(*drawn)
    assert error == pytest.approx(((14 - 36 / 200) / 200**2) ** 0.5, rel=0.06)
    assert difference_error(drawn[0], drawn[1][:-1]) is None
    assert difference_error(drawn[0], np.full_like(drawn[1], np.nan)) is None


def test_nothing_is_said_of_what_was_not_always_measured() -> None:
    assert draws(1, lambda weights: {"f1": 1.0}) == {}
    assert intervals(draws(4, lambda weights: {"f1": float("nan") if weights[0] else 1.0})) == {}


def scene(images: int) -> tuple[list[GroundTruth], list[Detection]]:
    """Objects of two classes, detections near and beside them, one class with difficult objects."""
    random = np.random.default_rng(3)
    truths, found = [], []
    for _ in range(images):
        corner = random.uniform(0, 60, (5, 2)).astype(np.float32)
        boxes = np.concatenate([corner, corner + 30], 1)
        labels = random.integers(0, 2, 5)
        truths.append(GroundTruth(boxes, labels, random.random(5) < 0.1))
        moved = boxes + random.normal(0, 3, boxes.shape).astype(np.float32)
        noise = random.uniform(0, 60, (3, 2)).astype(np.float32)
        every = np.concatenate([moved, np.concatenate([noise, noise + 25], 1)])
        scores = np.concatenate([random.uniform(0.4, 1, 5), random.uniform(0, 0.8, 3)]).astype(np.float32)
        order = np.argsort(-scores)
        said = np.concatenate([labels, random.integers(0, 2, 3)])
        found.append(Detection(every[order], said[order], scores[order]))
    return truths, found


def test_map50_of_the_bootstrap_is_cocos() -> None:
    truths, found = scene(20)
    matches = match_all(truths, found)
    tables = [_Table(truths, found, matches, label) for label in range(2)]
    _, at_50 = mean_average_precision(truths, found)
    assert mean_at_50(tables, np.ones(20, np.int64)) == pytest.approx(at_50, abs=2e-3)
    low, high = intervals(at_50_draws(truths, found, matches, 2))["mAP50"]
    assert low < at_50 < high


def test_precision_and_recall_over_the_threshold() -> None:
    truth = GroundTruth(np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.array([0, 0]), np.zeros(2, bool))
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], np.float32)
    found = Detection(boxes, np.zeros(3, np.int64), np.array([0.9, 0.6, 0.3], np.float32))
    precision, recall, f1 = threshold_curves([truth], [found])
    assert precision.x.tolist() == pytest.approx([0.3, 0.6, 0.9])
    assert precision.y.tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert recall.y.tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert f1.y.tolist() == pytest.approx([4 / 5, 1 / 2, 2 / 3])


def test_the_worst_mistakes_come_first() -> None:
    truths, found = scene(10)
    names = [f"{index}.png" for index in range(10)]
    mistakes = worst_mistakes(names, truths, found, match_all(truths, found), ("cell", "cat"))
    wrong = [each.score for each in mistakes if each.kind == "FalsePositive"]
    missed = [each for each in mistakes if each.kind == "Miss"]
    assert wrong == sorted(wrong, reverse=True)
    assert len(wrong) == 12
    assert all(each.score is None for each in missed)
    areas = [(each.box[2] - each.box[0]) * (each.box[3] - each.box[1]) for each in missed]
    assert areas == sorted(areas, reverse=True)
