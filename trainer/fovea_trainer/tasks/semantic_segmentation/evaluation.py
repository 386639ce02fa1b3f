"""Evaluation of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import CorruptData
from fovea_serving.pipeline import IGNORE, Prediction, SemanticSegmentation, decode_mask
from numpy.typing import NDArray

from fovea_trainer.evaluation.bootstrap import Draws, draws
from fovea_trainer.evaluation.error_analysis import confused_classes, weak_classes
from fovea_trainer.evaluation.result import (
    Confusion,
    EvaluationResult,
    ImageScore,
    LabelledSample,
    Slice,
    named,
)
from fovea_trainer.tasks.base import EvaluationRequest, Pairs
from fovea_trainer.tasks.epoch_metrics import EpochMetrics

INTERVAL_IMAGES, INTERVAL_CLASSES = 2000, 50
"""Images and classes up to which the intervals are calculated: each image's confusion is held in memory."""
NOT_SEEN = "not seen"
"""Column of the confusion for pixels that the model could not see."""


def evaluate_segmentation(pairs: Pairs, request: EvaluationRequest) -> EvaluationResult:
    """Dice and IoU, per class over all pixels of the split, their means over the classes, pixel confusion.

    Labelled pixels that are IGNORE do not count; pixels that the model could not see count as missed.
    """
    classes = request.classes
    total = np.zeros((len(classes), len(classes) + 1), np.int64)
    parts: dict[tuple[str, str], tuple[int, NDArray[np.int64]]] = {}
    scores, matrices = [], list[NDArray[np.int64]]()
    for index, (sample, prediction) in enumerate(pairs):
        assert isinstance(prediction, SemanticSegmentation)
        counts = pixel_confusion(_ground_truth(sample, prediction.mask), prediction.mask, len(classes))
        total += counts
        if len(matrices) < INTERVAL_IMAGES and len(classes) <= INTERVAL_CLASSES:
            matrices.append(counts)
        scores.append(ImageScore(index, sample.name, _mean(dice(counts))))
        for part in (("source", sample.source), ("group", sample.group)):
            if part[0] in request.slices:
                images, before = parts.get(part, (0, np.zeros_like(total)))
                parts[part] = (images + 1, before + counts)
    per_class = {"dice": dice(total), "iou": iou(total)}
    seen = classes if not total[:, -1].any() else (*classes, NOT_SEEN)
    confusion = Confusion(classes, seen, total[:, : len(seen)])
    return EvaluationResult(
        task=Task.SEMANTIC_SEGMENTATION,
        split=request.split,
        classes=classes,
        images=len(scores),
        primary=request.primary,
        metrics=named(request.split, classes, _summary(total), per_class),
        confusion=confusion,
        curves=(),
        image_scores=tuple(scores),
        slices=tuple(
            Slice(by, name, images, _summary(counts)[request.primary])
            for (by, name), (images, counts) in sorted(parts.items())
        ),
        error_analysis=(
            *weak_classes(classes, "Dice", per_class["dice"]),
            *confused_classes(confusion, "pixels", {NOT_SEEN: "outside of what the model sees"}),
        ),
        errors={},
        draws=_draws(matrices) if len(matrices) == len(scores) else {},
    )


def _draws(images: Sequence[NDArray[np.int64]]) -> dict[str, Draws]:
    """Of the means over the classes, from the confusion of each image."""
    every = np.stack(images)
    return draws(len(images), lambda weights: _summary(np.tensordot(weights, every, 1)))


class ConfusionMetrics(EpochMetrics):
    """Dice and IoU, means over the classes, as `evaluate_segmentation` gives them; holds the pixels' confusion."""

    def __init__(self, classes: int) -> None:
        self._counts = np.zeros((classes, classes + 1), np.int64)

    def update(self, index: int, sample: LabelledSample, prediction: Prediction) -> None:
        assert isinstance(prediction, SemanticSegmentation)
        mask = prediction.mask
        self._counts += pixel_confusion(_ground_truth(sample, mask), mask, len(self._counts))

    def merge(self, other: Self) -> None:
        self._counts += other._counts

    def compute(self) -> dict[str, float]:
        summary = _summary(self._counts)
        return {name: summary[name] for name in ("dice", "iou")}


def _summary(counts: NDArray[np.int64]) -> dict[str, float]:
    accuracy = float(np.trace(counts) / max(1, counts.sum()))
    return {"dice": _mean(dice(counts)), "iou": _mean(iou(counts)), "pixelAccuracy": accuracy}


def pixel_confusion(ground_truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels `[classes, classes + 1]` by labelled and predicted class; the last column: not seen by the model."""
    valid = ground_truth != IGNORE
    rows = ground_truth[valid].astype(np.int64)
    columns = np.minimum(predicted[valid], classes).astype(np.int64)
    index = rows * (classes + 1) + columns
    return np.bincount(index, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """2 |A ∩ B| / (|A| + |B|) per class; NaN for a class that neither occurs nor is predicted."""
    n_true_positives, n_ground_truth, n_predictions = _parts(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * n_true_positives / (n_ground_truth + n_predictions)


def iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """|A ∩ B| / |A ∪ B| per class; NaN for a class that neither occurs nor is predicted."""
    n_true_positives, n_ground_truth, n_predictions = _parts(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return n_true_positives / (n_ground_truth + n_predictions - n_true_positives)


def _parts(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    square = counts[:, : len(counts)].astype(np.float64)
    return np.diag(square), counts.sum(1).astype(np.float64), square.sum(0)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def _ground_truth(sample: LabelledSample, predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if sample.mask_bytes is None:
        raise CorruptData("the image has no mask", sample.name, "build the dataset version anew")
    mask = decode_mask(sample.mask_bytes, sample.name)
    if mask.shape != predicted.shape:
        raise CorruptData(
            f"the mask has (height, width) {mask.shape}, the image {predicted.shape}",
            sample.name,
            "build the dataset version anew",
        )
    return mask
