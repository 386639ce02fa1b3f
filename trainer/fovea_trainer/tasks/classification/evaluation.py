"""Evaluation of a classifier, with torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Classification, Prediction
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from fovea_trainer.evaluation.bootstrap import draws
from fovea_trainer.evaluation.error_analysis import calibration_error, confused_classes, weak_classes
from fovea_trainer.evaluation.result import (
    Confusion,
    Curve,
    EvaluationResult,
    ImageScore,
    LabelledSample,
    named,
    slices_of,
)
from fovea_trainer.tasks.base import EvaluationRequest, Pairs

BINS = 15
"""Bins of equal width for calibration, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"."""

METRICS = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}


def evaluate_classification(pairs: Pairs, request: EvaluationRequest) -> EvaluationResult:
    """Accuracy, macro precision, recall and F1, the same per class, expected calibration error, confusion."""
    samples, labels, rows = [], [], []
    for sample, prediction in pairs:
        assert isinstance(prediction, Classification)
        samples.append((sample.name, {"source": sample.source, "group": sample.group}))
        labels.append(sample.label)
        rows.append(prediction.probabilities)
    probabilities, target = np.stack(rows), np.array(labels, np.int64)
    classes, count = request.classes, len(request.classes)
    predicted, expected = torch.from_numpy(probabilities), torch.from_numpy(target)
    summary = _summary(predicted, expected, count)
    occurs = np.bincount(target, minlength=count) > 0
    per_class = {
        name: np.where(occurs, metric(predicted, expected, num_classes=count, average="none").numpy(), np.nan)
        for name, metric in METRICS.items()
    }
    counts = multiclass_confusion_matrix(predicted, expected, num_classes=count).numpy()
    confusion = Confusion(classes, classes, counts)
    best = probabilities.argmax(1)
    correct = best == target
    gap = float(probabilities.max(1).mean() - correct.mean())

    def primary(inside: Sequence[int]) -> float:
        index = torch.tensor(inside)
        return _summary(predicted[index], expected[index], count)[request.primary]

    return EvaluationResult(
        task=Task.CLASSIFICATION,
        split=request.split,
        classes=classes,
        images=len(samples),
        primary=request.primary,
        metrics=named(request.split, classes, summary, per_class),
        confusion=confusion,
        curves=(reliability(probabilities.max(1), correct),),
        image_scores=tuple(
            ImageScore(index, name, float(probabilities[index, label]), _note(classes, int(label), int(best[index])))
            for index, ((name, _), label) in enumerate(zip(samples, target, strict=True))
        ),
        slices=slices_of([columns for _, columns in samples], request.slices, primary),
        error_analysis=(
            *weak_classes(classes, "F1", per_class["f1"]),
            *confused_classes(confusion, "images"),
            *calibration_error(gap),
        ),
        errors={},
        draws=draws(len(samples), partial(_weighted, target, best, count)),
    )


def _weighted(
    target: NDArray[np.int64], best: NDArray[np.int64], count: int, weights: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy and macro F1 where each image counts so often; as torchmetrics has them, of classes that occur."""
    correct = (target == best) * weights
    hits = np.bincount(target, correct, count)
    either = np.bincount(target, weights, count) + np.bincount(best, weights, count)
    occurs = either > 0
    return {"accuracy": float(correct.sum() / weights.sum()), "f1": float((2 * hits[occurs] / either[occurs]).mean())}


def label_of(sample: LabelledSample) -> int:
    """The class index of a sample."""
    return sample.label


def classification_summary(labels: Sequence[int], predictions: Sequence[Prediction], classes: int) -> dict[str, float]:
    """Accuracy and macro F1 as `evaluate_classification` gives them."""
    rows = [item.probabilities for item in predictions if isinstance(item, Classification)]
    summary = _summary(torch.from_numpy(np.stack(rows)), torch.tensor(labels), classes)
    return {name: summary[name] for name in ("accuracy", "f1")}


def _summary(predicted: Tensor, expected: Tensor, classes: int) -> dict[str, float]:
    """Metrics of probabilities [N, C] against class indices [N]."""
    return {
        "accuracy": float(multiclass_accuracy(predicted, expected, num_classes=classes, average="micro")),
        "ece": float(multiclass_calibration_error(predicted, expected, num_classes=classes, n_bins=BINS, norm="l1")),
        **{
            name: float(metric(predicted, expected, num_classes=classes, average="macro"))
            for name, metric in METRICS.items()
        },
    }


def reliability(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> Curve:
    """Share of right answers over confidence, by bins; empty bins are left out."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    mean = np.bincount(bins, confidence, BINS)[filled] / counts[filled]
    accuracy = np.bincount(bins, correct, BINS)[filled] / counts[filled]
    return Curve("reliability", "accuracy", mean, accuracy, counts[filled].astype(np.float64))


def _note(classes: tuple[str, ...], label: int, predicted: int) -> str:
    return classes[label] if label == predicted else f"{classes[label]}, predicted {classes[predicted]}"
