"""Judging semantic segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import CorruptData
from fovea_serving.pipeline import IGNORE, Prediction, SemanticSegmentation, decode_mask
from numpy.typing import NDArray

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import Confusion, EvaluationResult, ImageScore, LabelledSample, Slice, named
from fovea_trainer.evaluation.shortcomings import describe


def judge_segmentation(
    pairs: Iterator[tuple[Sample, Prediction]], classes: tuple[str, ...], split: str, slices: Sequence[str]
) -> EvaluationResult:
    """Dice and IoU, per class over all pixels of the split, their means over the classes, pixel confusion.

    Pixels of the truth that are IGNORE do not count; pixels that the model could not see count as missed.
    """
    total = np.zeros((len(classes), len(classes) + 1), np.int64)
    by_slice: dict[tuple[str, str], tuple[int, NDArray[np.int64]]] = {}
    scores = []
    for index, (sample, prediction) in enumerate(pairs):
        assert isinstance(prediction, SemanticSegmentation)
        counts = pixel_confusion(_truth(sample, prediction.mask), prediction.mask, len(classes))
        total += counts
        scores.append(ImageScore(index, sample.name, _mean(dice(counts))))
        for key in (("source", sample.source), ("group", sample.group)):
            if key[0] in slices:
                images, before = by_slice.get(key, (0, np.zeros_like(total)))
                by_slice[key] = (images + 1, before + counts)
    per_class = {"dice": dice(total), "iou": iou(total)}
    accuracy = float(np.trace(total) / max(1, total.sum()))
    summary = {"dice": _mean(per_class["dice"]), "iou": _mean(per_class["iou"]), "pixelAccuracy": accuracy}
    columns = (*classes, "not seen") if total[:, -1].any() else classes
    confusion = Confusion(classes, columns, total[:, : len(columns)])
    parts = tuple(
        Slice(by, name, images, _mean(dice(counts))) for (by, name), (images, counts) in sorted(by_slice.items())
    )
    return EvaluationResult(
        task=Task.SEMANTIC_SEGMENTATION,
        split=split,
        classes=classes,
        images=len(scores),
        primary="dice",
        metrics=named(split, classes, summary, per_class),
        confusion=confusion,
        curves=(),
        image_scores=tuple(scores),
        slices=parts,
        shortcomings=describe(classes, "Dice", per_class["dice"], summary["dice"], confusion, unit="pixels"),
        errors={},
    )


def segmentation_summary(
    samples: Iterable[LabelledSample], predictions: Iterable[Prediction], classes: int
) -> dict[str, float]:
    """Dice and IoU, means over the classes, as `judge_segmentation` gives them."""
    total = np.zeros((classes, classes + 1), np.int64)
    for sample, prediction in zip(samples, predictions, strict=True):
        assert isinstance(prediction, SemanticSegmentation)
        total += pixel_confusion(_truth(sample, prediction.mask), prediction.mask, classes)
    return {"dice": _mean(dice(total)), "iou": _mean(iou(total))}


def pixel_confusion(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels `[classes, classes + 1]` by true and predicted class; the last column: not seen by the model."""
    valid = truth != IGNORE
    wanted = truth[valid].astype(np.int64)
    given = np.minimum(found[valid], classes).astype(np.int64)
    return np.bincount(wanted * (classes + 1) + given, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """2 |A ∩ B| / (|A| + |B|) per class; NaN for a class that neither occurs nor is predicted."""
    hit, wanted, given = _parts(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * hit / (wanted + given)


def iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """|A ∩ B| / |A ∪ B| per class; NaN for a class that neither occurs nor is predicted."""
    hit, wanted, given = _parts(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / (wanted + given - hit)


def _parts(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    square = counts[:, : len(counts)].astype(np.float64)
    return np.diag(square), counts.sum(1).astype(np.float64), square.sum(0)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def _truth(sample: LabelledSample, found: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if sample.mask_bytes is None:
        raise CorruptData("the image has no mask", sample.name, "build the dataset version anew")
    truth = decode_mask(sample.mask_bytes, sample.name)
    if truth.shape != found.shape:
        raise CorruptData(
            f"the mask has (height, width) {truth.shape}, the image {found.shape}",
            sample.name,
            "build the dataset version anew",
        )
    return truth
