"""From the network's output to predictions in the pixels of the original image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from fovea_api.bundle import Postprocessing
from fovea_api.common import Task
from numpy.typing import NDArray

from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.preprocess import IGNORE

CANDIDATES_PER_CLASS = 1000
"""Boxes of a class that enter non-maximum suppression, best first: bounds its time on a noisy image."""
OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("logits",),
    Task.DETECTION: ("boxes", "scores"),
    Task.SEMANTIC_SEGMENTATION: ("logits",),
}
"""Names of the network's outputs. Its one input is `image`, float32 `[N, 3, H, W]`, normalized."""


@dataclass(frozen=True, slots=True)
class Classification:
    """One class for the image. `probabilities` is `[C]` and sums to 1."""

    probabilities: NDArray[np.float32]

    @property
    def label(self) -> int:
        """Index of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return float(self.probabilities.max())

    def above(self, score: float) -> Classification:
        """Itself: every image has a class."""
        return self

    def top(self, k: int) -> list[tuple[int, float]]:
        """The k most probable classes as (index, probability), best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(int(index), float(self.probabilities[index])) for index in order]


@dataclass(frozen=True, slots=True)
class Detection:
    """Objects found, best first: `boxes` `[N, 4]` xyxy in original pixels, `labels` and `scores` `[N]`."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    def above(self, score: float) -> Detection:
        """Those of at least this score."""
        kept = self.scores >= score
        return Detection(self.boxes[kept], self.labels[kept], self.scores[kept])

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class SemanticSegmentation:
    """A class for each pixel: `mask` `[height, width]` of the original; IGNORE where a crop cut it off."""

    mask: NDArray[np.uint8]

    def above(self, score: float) -> SemanticSegmentation:
        """Itself: every pixel has a class."""
        return self


Prediction = Classification | Detection | SemanticSegmentation


@dataclass(frozen=True, slots=True)
class Postprocess:
    """How outputs become predictions; stored in the bundle.

    Args:
        task: What is predicted.
        score_threshold: Smallest score of a candidate.
        confidence_threshold: Smallest score of an object that is reported.
        nms_iou: Of two objects of one class that overlap by more than this, the better stays.
        max_detections: Largest number of objects in an image.
    """

    task: Task
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 300
    confidence_threshold: float = 0.5

    @classmethod
    def from_manifest(cls, task: Task, manifest: Postprocessing) -> Self:
        """The postprocessing that a bundle describes."""
        return cls(
            task,
            manifest.score_threshold,
            manifest.nms_iou,
            manifest.max_detections,
            manifest.confidence_threshold,
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs that are read."""
        return OUTPUTS[self.task]

    def __call__(self, outputs: Mapping[str, NDArray[np.float32]], geometries: list[Geometry]) -> list[Prediction]:
        """The predictions of a batch, with all candidates of a detector.

        Args:
            outputs: Classification `logits` `[N, C]`; detection `boxes` `[N, A, 4]` xyxy in input pixels and
                `scores` `[N, A, C]` from 0 to 1; segmentation `logits` `[N, C, H, W]`.
            geometries: That of each of the N images.
        """
        if self.task is Task.CLASSIFICATION:
            return [Classification(row) for row in softmax(outputs["logits"])]
        if self.task is Task.DETECTION:
            pairs = zip(outputs["boxes"], outputs["scores"], geometries, strict=True)
            return [self._detect(boxes, scores, geometry) for boxes, scores, geometry in pairs]
        return [
            SemanticSegmentation(_segment(logits, geometry))
            for logits, geometry in zip(outputs["logits"], geometries, strict=True)
        ]

    def _detect(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], geometry: Geometry) -> Detection:
        boxes = geometry.to_original(boxes)
        real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        anchors, labels = np.nonzero((scores >= self.score_threshold) & real[:, None])
        kept: list[NDArray[np.intp]] = []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            of_class = scores[anchors[members], label]
            members = members[np.argsort(-of_class, kind="stable")[:CANDIDATES_PER_CLASS]]
            chosen = nms(boxes[anchors[members]], scores[anchors[members], label], self.nms_iou)
            kept.append(members[chosen])
        if not kept:
            return Detection(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
        index = np.concatenate(kept)
        found = scores[anchors[index], labels[index]]
        best = np.argsort(-found, kind="stable")[: self.max_detections]
        index = index[best]
        return Detection(boxes[anchors[index]], labels[index].astype(np.int64), found[best].astype(np.float32))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes `[N, 4]` xyxy that stay, best first."""
    order = np.argsort(-scores, kind="stable")
    left, top, right, bottom = boxes[order].T
    area = (right - left) * (bottom - top)
    alive = np.ones(len(order), bool)
    kept = []
    for index in range(len(order)):
        if not alive[index]:
            continue
        kept.append(order[index])
        rest = slice(index + 1, None)
        width = np.minimum(right[index], right[rest]) - np.maximum(left[index], left[rest])
        height = np.minimum(bottom[index], bottom[rest]) - np.maximum(top[index], top[rest])
        common = np.maximum(width, 0) * np.maximum(height, 0)
        alive[rest] &= common <= iou_threshold * (area[index] + area[rest] - common)
    return np.array(kept, np.intp)


def _segment(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.uint8]:
    """Best class of each original pixel; one class at a time, so memory does not grow with the classes."""
    left, top, right, bottom = geometry.content
    seen_left, seen_top, seen_right, seen_bottom = geometry.seen
    size = (seen_right - seen_left, seen_bottom - seen_top)
    best = np.full((size[1], size[0]), -np.inf, np.float32)
    seen = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(logits[:, top:bottom, left:right]):
        enlarged = cv2.resize(np.ascontiguousarray(plane), size, interpolation=cv2.INTER_LINEAR)
        better = enlarged > best
        best[better] = enlarged[better]
        seen[better] = index
    if size == geometry.original:
        return seen
    mask = np.full((geometry.original[1], geometry.original[0]), IGNORE, np.uint8)
    mask[seen_top:seen_bottom, seen_left:seen_right] = seen
    return mask
