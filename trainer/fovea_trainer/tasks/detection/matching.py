"""Which object each detection is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fovea_serving.pipeline import Detection
from numpy.typing import NDArray

from fovea_trainer.evaluation.result import LabelledSample

MATCH_IOU = 0.5
"""Intersection over union from which a detection is taken for an object."""


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The objects of an image: boxes `[N, 4]`, labels `[N]`, and those that need not be detected."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]

    def __len__(self) -> int:
        """The objects that count."""
        return int((~self.difficult).sum())

    def overlap(self, detections: Detection) -> NDArray[np.float64]:
        """Intersection over union `[D, N]` of detections with these objects."""
        return iou_matrix(detections.boxes, self.boxes)

    def image(self) -> dict[str, int]:
        """What COCO's evaluation reads of the image."""
        return {}

    def annotations(self) -> list[dict[str, Any]]:
        """What COCO's evaluation reads of each object."""
        corners = self.boxes.astype(np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        return [
            {"bbox": [*low, *size], "area": size[0] * size[1], "category_id": label, "iscrowd": int(difficult)}
            for low, size, label, difficult in zip(
                corners[:, :2].tolist(), sides.tolist(), self.labels.tolist(), self.difficult, strict=True
            )
        ]

    def results(self, detections: Detection) -> list[dict[str, Any]]:
        """What COCO's evaluation reads of each detection."""
        corners = detections.boxes.astype(np.float64)
        return [
            {"bbox": [*low, *size], "category_id": label, "score": score}
            for low, size, label, score in zip(
                corners[:, :2].tolist(), (corners[:, 2:] - corners[:, :2]).tolist(), detections.labels.tolist(),
                detections.scores.tolist(), strict=True,
            )
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Matches:
    """Which object each detection of an image is: its index or -1, the overlap, and whether it counts."""

    object: NDArray[np.int64]
    iou: NDArray[np.float64]
    counts: NDArray[np.bool_]

    @property
    def n_true_positives(self) -> int:
        return int((self.object >= 0).sum())

    @property
    def n_predictions(self) -> int:
        return int(self.counts.sum())


def ground_truth_of(sample: LabelledSample) -> GroundTruth:
    """The objects of a sample. Without flags none is difficult."""
    labels = np.asarray(sample.labels, np.int64)
    difficult = np.asarray(sample.difficult, bool)
    return GroundTruth(
        np.asarray(sample.boxes, np.float32).reshape(-1, 4),
        labels,
        difficult if len(difficult) == len(labels) else np.zeros(len(labels), bool),
    )


def iou_matrix(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union `[N, M]` of boxes `[N, 4]` and `[M, 4]`, xyxy."""
    one, two = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.maximum(np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]), 0)
    common = sides.prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (two[..., 2:] - two[..., :2]).prod(-1) - common
    overlap: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def match(ground_truth: GroundTruth, detections: Detection, *, same_class: bool) -> Matches:
    """Gives each detection, best score first, the free object that it overlaps most, from IoU 0.5 on.

    A detection that overlaps nothing but a difficult object does not count, neither as right nor as wrong.
    """
    overlap = ground_truth.overlap(detections)
    if same_class:
        overlap = np.where(detections.labels[:, None] == ground_truth.labels[None], overlap, 0.0)
    count = len(detections)
    objects, ious, counts = np.full(count, -1, np.int64), np.zeros(count), np.ones(count, bool)
    free = ~ground_truth.difficult
    for index in range(count):
        candidates = np.where(free, overlap[index], 0.0)
        best = int(candidates.argmax()) if len(candidates) else -1
        if best >= 0 and candidates[best] >= MATCH_IOU:
            free[best] = False
            objects[index], ious[index] = best, candidates[best]
        elif (overlap[index][ground_truth.difficult] >= MATCH_IOU).any():
            counts[index] = False
    return Matches(objects, ious, counts)


def match_all(ground_truths: Sequence[GroundTruth], detections: Sequence[Detection]) -> list[Matches]:
    """The matches of each image, within the classes."""
    return [match(objects, image, same_class=True) for objects, image in zip(ground_truths, detections, strict=True)]
