"""Evaluation of classifiers on numbers that are worked out beside it."""

from __future__ import annotations

import numpy as np
import pytest
from fovea_api.common import Task
from fovea_api.metrics import BY_CLASS, evaluated
from fovea_serving.pipeline import Classification
from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.tasks.base import EvaluationRequest
from fovea_trainer.tasks.classification.evaluation import evaluate_classification

CLASSES = ("ant", "bee", "crab")


def sample(label: int, name: str, source: str = "lab") -> Sample:
    nothing = np.zeros((0, 4), np.float32)
    return Sample(name, name, source, b"", 8, 8, label, nothing, np.zeros(0, np.int32), None)


def evaluate(
    expected: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...] = CLASSES,
    slices: tuple[str, ...] = ("class",),
    primary: str = "accuracy",
) -> EvaluationResult:
    pairs = (
        (sample(int(label), f"image {index}", "odd" if index % 2 else "even"), Classification(row))
        for index, (label, row) in enumerate(zip(expected, probabilities, strict=True))
    )
    return evaluate_classification(pairs, EvaluationRequest(classes, "test", slices, primary, 0.5))


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    expected = random.integers(0, 3, 500)
    logits = random.normal(0, 1, (500, 3)) + 1.5 * np.eye(3)[expected]
    powers = np.exp(logits)
    return expected, (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def test_the_figures_are_those_of_their_definitions(case: tuple[np.ndarray, np.ndarray]) -> None:
    expected, probabilities = case
    result = evaluate(expected, probabilities)
    label = probabilities.argmax(1)
    confusion = np.array([[np.sum((expected == row) & (label == column)) for column in range(3)] for row in range(3)])
    recall, precision = np.diag(confusion) / confusion.sum(1), np.diag(confusion) / confusion.sum(0)
    f1 = 2 * precision * recall / (precision + recall)
    assert (result.confusion.counts == confusion).all()
    assert result.metric("accuracy") == pytest.approx(np.mean(expected == label))
    assert result.metric("precision") == pytest.approx(precision.mean())
    assert result.metric("recall") == pytest.approx(recall.mean())
    assert result.metric("f1") == pytest.approx(f1.mean())
    assert [result.metric("f1", name) for name in CLASSES] == pytest.approx(f1.tolist())


def test_the_calibration_error_is_that_of_its_bins(case: tuple[np.ndarray, np.ndarray]) -> None:
    expected, probabilities = case
    result = evaluate(expected, probabilities)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == expected
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert result.metric("ece") == pytest.approx(expected, abs=1e-5)
    curve = result.curves[0]
    assert curve.weights is not None
    assert curve.weights.sum() == 500
    assert np.sum(curve.weights * np.abs(curve.x - curve.y)) / 500 == pytest.approx(expected, abs=1e-5)


def test_the_worst_image_is_the_surest_mistake() -> None:
    probabilities = np.array([[0.9, 0.1, 0], [0.99, 0.01, 0], [0.2, 0.8, 0]], np.float32)
    result = evaluate(np.array([0, 1, 1]), probabilities)
    assert result.worst[0].name == "image 1"
    assert result.worst[0].note == "bee, predicted ant"
    assert result.metric("f1", "crab") is None


def test_a_confusion_and_too_much_confidence_are_told_in_words() -> None:
    expected = np.array([0] * 50 + [1] * 50)
    probabilities = np.tile(np.array([0.97, 0.02, 0.01], np.float32), (100, 1))
    probabilities[60:] = [0.02, 0.97, 0.01]
    words = " ".join(evaluate(expected, probabilities).error_analysis)
    assert "20% of the bee images are taken for ant (10)." in words
    assert "overconfident" in words


def test_slices_are_accuracies_of_parts(case: tuple[np.ndarray, np.ndarray]) -> None:
    expected, probabilities = case
    result = evaluate(expected, probabilities, slices=("source",))
    right = probabilities.argmax(1) == expected
    assert [(part.name, part.value) for part in result.slices] == [
        ("even", pytest.approx(right[::2].mean())),
        ("odd", pytest.approx(right[1::2].mean())),
    ]


def test_thousands_of_classes_do_not_overflow_a_status() -> None:
    classes = tuple(f"class {index}" for index in range(3000))
    probabilities = np.eye(3000, dtype=np.float32)[np.arange(40)]
    result = evaluate(np.arange(40), probabilities, classes)
    assert result.metric("accuracy") == 1
    assert len(result.metrics) <= 1000


def test_all_metrics_are_known_to_the_api(case: tuple[np.ndarray, np.ndarray]) -> None:
    made = evaluate(*case).metrics
    assert {name for name in made if name.count("/") == 1} <= set(
        evaluated(Task.CLASSIFICATION, ("test",), ("objectSize",))
    )
    assert {name.split("/")[1] for name in made if name.count("/") == 2} == set(BY_CLASS[Task.CLASSIFICATION])
