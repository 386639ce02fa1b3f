"""COCO's average precision, by torchmetrics with faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fovea_serving.pipeline import Detection
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from fovea_trainer.tasks.detection.matching import MATCH_IOU, GroundTruth

MAX_DETECTIONS = (1, 10, 300)
"""Boxes of an image that count, best first. Dense scenes (blood smears) hold more than COCO's 100."""


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's figures; NaN for a class, and -1 for a size, without objects."""

    mean: float
    at_50: float
    at_75: float
    sizes: Mapping[str, float]
    per_class: NDArray[np.float64]
    per_class_50: NDArray[np.float64]


def average_precision(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection], classes: int
) -> AveragePrecision:
    """Average precision over IoU 0.50 to 0.95, at most 300 boxes an image. No objects: all is 0."""
    nothing = np.full(classes, np.nan)
    if not any(len(image.labels) for image in ground_truths):
        return AveragePrecision(0.0, 0.0, 0.0, {}, nothing, nothing)
    labels = np.concatenate([image.labels for image in ground_truths])
    occurs = np.bincount(labels, minlength=classes) > 0
    if not any(len(image) for image in detections):  # torchmetrics has no figures per class then
        zeros = np.where(occurs, 0.0, np.nan)
        return AveragePrecision(0.0, 0.0, 0.0, {}, zeros, zeros)
    overall = _coco(ground_truths, detections, None, class_metrics=True)
    per_class, per_class_50 = nothing.copy(), nothing.copy()
    for index, value in zip(overall["classes"].reshape(-1).tolist(), overall["map_per_class"].reshape(-1), strict=True):
        if occurs[index]:
            per_class[index] = max(0.0, float(value))
    for index in np.flatnonzero(occurs):
        at_50 = _coco(ground_truths, detections, int(index), class_metrics=False)["map_50"]
        per_class_50[index] = max(0.0, float(at_50))
    return AveragePrecision(
        mean=max(0.0, float(overall["map"])),
        at_50=max(0.0, float(overall["map_50"])),
        at_75=max(0.0, float(overall["map_75"])),
        sizes={name: float(overall[f"map_{name}"]) for name in ("small", "medium", "large")},
        per_class=per_class,
        per_class_50=per_class_50,
    )


def mean_average_precision(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection]
) -> tuple[float, float]:
    """mAP and mAP50 alone, as `average_precision` gives them."""
    if not any(len(image.labels) for image in ground_truths) or not any(len(image) for image in detections):
        return 0.0, 0.0
    figures = _coco(ground_truths, detections, None, class_metrics=False)
    return max(0.0, float(figures["map"])), max(0.0, float(figures["map_50"]))


def _coco(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection], only: int | None, *, class_metrics: bool
) -> dict[str, Tensor]:
    """torchmetrics' figures; of one class (`only`), at IoU 0.5."""
    metric = MeanAveragePrecision(
        backend="faster_coco_eval",
        class_metrics=class_metrics,
        max_detection_thresholds=list(MAX_DETECTIONS),
        iou_thresholds=None if only is None else [MATCH_IOU],
    )
    metric.warn_on_many_detections = False
    for image, predicted in zip(ground_truths, detections, strict=True):
        kept = np.ones(len(predicted), bool) if only is None else predicted.labels == only
        labelled = np.ones(len(image.labels), bool) if only is None else image.labels == only
        metric.update(
            [
                {
                    "boxes": torch.from_numpy(predicted.boxes[kept]),
                    "scores": torch.from_numpy(predicted.scores[kept]),
                    "labels": torch.from_numpy(predicted.labels[kept]),
                }
            ],
            [
                {
                    "boxes": torch.from_numpy(image.boxes[labelled]),
                    "labels": torch.from_numpy(image.labels[labelled]),
                    "iscrowd": torch.from_numpy(image.difficult[labelled].astype(np.int64)),
                }
            ],
        )
    with contextlib.redirect_stdout(io.StringIO()):
        result: dict[str, Tensor] = metric.compute()
    return result
