"""COCO's average precision, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from fovea_serving.pipeline import Detection
from numpy.typing import NDArray

from fovea_trainer.tasks.detection.matching import GroundTruth

MAX_DETECTIONS = (1, 10, 300)
"""Objects of an image that count, best first. Dense scenes (blood smears) hold more than COCO's 100."""
SIZES = ("small", "medium", "large")
"""By COCO's areas: up to 32 x 32 pixels, up to 96 x 96, and more."""


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's figures; NaN for a class, and -1 for a size, without objects; no sizes where nothing was detected."""

    mean: float
    at_50: float
    at_75: float
    sizes: Mapping[str, float]
    per_class: NDArray[np.float64]
    per_class_50: NDArray[np.float64]


def average_precision(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection], classes: int
) -> AveragePrecision:
    """Average precision over IoU 0.50 to 0.95, at most 300 objects an image. No objects: all is 0."""
    precision, occurring = _precision(ground_truths, detections)
    known = occurring and any(map(len, detections))
    per_class, per_class_50 = np.full(classes, np.nan), np.full(classes, np.nan)
    for place, label in enumerate(occurring):
        per_class[label] = _mean(precision[:, :, place, 0], np.nan)
        per_class_50[label] = _mean(precision[0, :, place, 0], np.nan)
    return AveragePrecision(
        mean=_mean(precision[..., 0], 0.0),
        at_50=_mean(precision[0, ..., 0], 0.0),
        at_75=_mean(precision[5, ..., 0], 0.0),
        sizes={name: _mean(precision[..., place], -1.0) for place, name in enumerate(SIZES, 1)} if known else {},
        per_class=per_class,
        per_class_50=per_class_50,
    )


def mean_average_precision(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection]
) -> tuple[float, float]:
    """mAP and mAP50 alone, as `average_precision` gives them."""
    precision, _ = _precision(ground_truths, detections)
    return _mean(precision[..., 0], 0.0), _mean(precision[0, ..., 0], 0.0)


def _mean(precision: NDArray[np.float64], nothing: float) -> float:
    """The mean of what is defined: COCO marks by -1 where there is no object."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else nothing


def _precision(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection]
) -> tuple[NDArray[np.float64], list[int]]:
    """COCO's precision `[10, 101, K, 4]` by IoU from 0.50 to 0.95, recall from 0 to 1, class, and size (all, small,
    medium, large); and the K classes, those that occur."""
    occurring = np.unique(np.concatenate([np.zeros(0, np.int64), *(image.labels for image in ground_truths)])).tolist()
    labelled = [{**one, "image_id": index} for index, image in enumerate(ground_truths) for one in image.annotations()]
    predicted = [
        {**one, "image_id": index}
        for index, (image, objects) in enumerate(zip(detections, ground_truths, strict=True))
        for one in objects.results(image)
    ]
    if not labelled or not predicted:
        return np.where(bool(labelled), 0.0, -1.0) * np.ones((10, 101, len(occurring), 4)), occurring
    for number, one in enumerate(labelled, 1):
        one["id"] = number
    images = [{"id": index, **image.image()} for index, image in enumerate(ground_truths)]
    categories = [{"id": label} for label in occurring]
    truth = COCO({"images": images, "annotations": labelled, "categories": categories})
    kind = "segm" if "segmentation" in labelled[0] else "bbox"
    run = COCOeval_faster(truth, truth.loadRes(predicted), kind, rle_iou_max_workers=1)
    run.params.maxDets = list(MAX_DETECTIONS)
    run.evaluate()
    run.accumulate()
    shape = (10, 101, len(occurring), 4, len(MAX_DETECTIONS))
    return np.asarray(run.eval["precision"], np.float64).reshape(shape)[..., -1], occurring
