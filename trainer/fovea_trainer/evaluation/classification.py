"""Judging classification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Classification, Prediction
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import Confusion, Curve, EvaluationResult, ImageScore, LabelledSample, Slice, named
from fovea_trainer.evaluation.shortcomings import describe

BINS = 15
"""Bins of equal width for calibration, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"."""

JUDGES = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}


def judge_classification(
    pairs: Iterator[tuple[Sample, Prediction]], classes: tuple[str, ...], split: str, slices: Sequence[str]
) -> EvaluationResult:
    """Accuracy, macro precision, recall and F1, the same per class, expected calibration error, confusion."""
    names, sources, groups, truths, rows = [], [], [], [], []
    for sample, prediction in pairs:
        assert isinstance(prediction, Classification)
        names.append(sample.name)
        sources.append(sample.source)
        groups.append(sample.group)
        truths.append(sample.label)
        rows.append(prediction.probabilities)
    probabilities, truth = np.stack(rows), np.array(truths, np.int64)
    count = len(classes)
    guess, target = torch.from_numpy(probabilities), torch.from_numpy(truth)
    summary = {
        "accuracy": float(multiclass_accuracy(guess, target, num_classes=count, average="micro")),
        "ece": float(multiclass_calibration_error(guess, target, num_classes=count, n_bins=BINS, norm="l1")),
    }
    occurs = np.bincount(truth, minlength=count) > 0
    per_class = {}
    for name, judge in JUDGES.items():
        summary[name] = float(judge(guess, target, num_classes=count, average="macro"))
        single = judge(guess, target, num_classes=count, average="none").numpy()
        per_class[name] = np.where(occurs, single, np.nan)
    confusion = Confusion(classes, classes, multiclass_confusion_matrix(guess, target, num_classes=count).numpy())
    label = probabilities.argmax(1)
    right = label == truth
    parts = [
        Slice(by, name, int(inside.sum()), float(right[inside].mean()))
        for by, column in (("source", np.array(sources)), ("group", np.array(groups)))
        if by in slices
        for name in np.unique(column)
        for inside in [column == name]
    ]
    scores = tuple(
        ImageScore(index, name, float(probabilities[index, truth[index]]), _note(classes, truth[index], label[index]))
        for index, name in enumerate(names)
    )
    metrics = named(split, classes, summary, per_class)
    return EvaluationResult(
        task=Task.CLASSIFICATION,
        split=split,
        classes=classes,
        images=len(names),
        primary="accuracy",
        metrics=metrics,
        confusion=confusion,
        curves=(reliability(probabilities.max(1), right),),
        image_scores=scores,
        slices=tuple(parts),
        shortcomings=describe(
            classes,
            "F1",
            per_class["f1"],
            summary["f1"],
            confusion,
            calibration=_calibration(probabilities, right),
        ),
        errors={},
    )


def classification_summary(
    samples: Iterable[LabelledSample], predictions: Iterable[Prediction], classes: int
) -> dict[str, float]:
    """Accuracy and macro F1 as `judge_classification` gives them."""
    rows = [item.probabilities for item in predictions if isinstance(item, Classification)]
    guess, target = torch.from_numpy(np.stack(rows)), torch.tensor([sample.label for sample in samples])
    return {
        "accuracy": float(multiclass_accuracy(guess, target, num_classes=classes, average="micro")),
        "f1": float(multiclass_f1_score(guess, target, num_classes=classes, average="macro")),
    }


def reliability(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> Curve:
    """Share of right answers over confidence, by bins; empty bins are left out."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    mean = np.bincount(bins, confidence, BINS)[filled] / counts[filled]
    accuracy = np.bincount(bins, right, BINS)[filled] / counts[filled]
    return Curve("reliability", "accuracy", mean, accuracy, counts[filled].astype(np.float64))


def _calibration(probabilities: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Mean confidence less accuracy: above 0 the model is surer than it should be."""
    return float(probabilities.max(1).mean() - right.mean())


def _note(classes: tuple[str, ...], truth: int, label: int) -> str:
    return classes[truth] if truth == label else f"{classes[truth]}, predicted {classes[label]}"
