"""Objects with axis-aligned boxes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import cv2
import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_serving.pipeline.drawing import color_of, line_width, write_label
from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.predictions.base import DecodingSettings, Prediction, labelled, number, register
from fovea_serving.pipeline.tiles import Tile

Float = TypeVar("Float", np.float32, np.float64)

CANDIDATES_PER_CLASS = 1000
"""Boxes of a class that enter non-maximum suppression, best first: bounds its time on a noisy image."""
ONE_OBJECT_IOU = 0.6
"""Boxes of two classes that overlap by more are of one object: a bicycle and its rider overlap by less."""
SAME_OBJECT_IOU = 0.5
"""Boxes of two models for one image show one object from this overlap on; the usual threshold of average precision."""
EDGE = 2.0
"""Pixels from a tile's edge within which a box counts as cut."""
COVERED = 0.5
"""Share of a cut box that another tile's whole box of its class covers where both are of one object."""


@register(Task.DETECTION)
@dataclass(frozen=True, slots=True)
class Detection(Prediction):
    """Detected objects, best first: `boxes` `[N, 4]` xyxy in original pixels, `labels` and `scores` `[N]`."""

    outputs: ClassVar[tuple[str, ...]] = ("boxes", "scores")
    thresholded = True
    tiled = True
    tensors = {
        "num_detections": ("INT32", (-1,)),
        "boxes": ("FP32", (-1, -1, 4)),
        "scores": ("FP32", (-1, -1)),
        "labels": ("INT32", (-1, -1)),
    }

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def decode(
        cls, outputs: Mapping[str, NDArray[np.float32]], geometries: Sequence[Geometry], settings: DecodingSettings
    ) -> Sequence[Detection]:
        """From `boxes` `[N, A, 4]` xyxy in input pixels and `scores` `[N, A, C]` from 0 to 1."""
        rows = zip(outputs["boxes"], outputs["scores"], geometries, strict=True)
        return [_decode(geometry.to_original(boxes), scores, settings) for boxes, scores, geometry in rows]

    @classmethod
    def merge(cls, parts: Sequence[tuple[Self, Tile]], settings: DecodingSettings) -> Self:
        """What a tile's edge has cut goes where another tile shows it whole; then suppression as in one image."""
        placed = [part.placed(tile) for part, tile in parts]
        every = cls.joined(placed)
        cut = np.concatenate([_touches(part.boxes, tile) for part, (_, tile) in zip(placed, parts, strict=True)])
        kept: list[NDArray[np.intp]] = []
        for label in np.unique(every.labels):
            whole, partial = (np.flatnonzero((every.labels == label) & (cut == state)) for state in (False, True))
            common = _common(every.boxes[partial], every.boxes[whole]).max(axis=1, initial=0)
            members = np.concatenate([whole, partial[common < COVERED * _areas(every.boxes[partial])]])
            kept.append(members[nms(every.boxes[members], every.scores[members], settings.nms_iou)])
        index = np.concatenate(kept) if kept else np.zeros(0, np.intp)
        return every.chosen(index[np.argsort(-every.scores[index], kind="stable")[: settings.max_detections]])

    def placed(self, tile: Tile) -> Self:
        """The same objects in the pixels of the image that the tile is a part of."""
        return replace(self, boxes=self.boxes + np.array([tile.left, tile.top] * 2, np.float32))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The objects of several predictions for one image."""
        every = [np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels", "scores")]
        return replace(parts[0], boxes=every[0], labels=every[1], scores=every[2])

    def chosen(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """Some of the objects, by their indices."""
        return replace(self, boxes=self.boxes[index], labels=self.labels[index], scores=self.scores[index])

    @classmethod
    def from_dict(cls, content: Mapping[str, JsonValue], classes: Sequence[str], size: tuple[int, int]) -> Detection:
        """From `objects`, each with `class`, `box` and perhaps `score`; those without one have 1."""
        found = list(labelled(content.get("objects"), "objects", classes))
        boxes = np.array([corners_of(part.get("box")) for _, part in found], np.float32).reshape(-1, 4)
        scores = np.array([number(part.get("score", 1.0), "score") for _, part in found], np.float32)
        order = np.argsort(-scores, kind="stable")
        return cls(boxes[order], np.array([label for label, _ in found], np.int64)[order], scores[order])

    def above(self, score: float, *, overlapping: bool = False) -> Self:
        """Those of at least this score; of boxes that lie on one object, whatever their classes, only the best.

        A box goes by better ones alone: which of them stay depends on no threshold.
        """
        kept = np.flatnonzero(self.scores >= score)
        if not overlapping:
            kept = kept[np.sort(nms(self.boxes[kept], self.scores[kept], ONE_OBJECT_IOU))]
        return self.chosen(kept)

    @classmethod
    def stack(cls, predictions: Sequence[Detection]) -> dict[str, NDArray[np.generic]]:
        """`boxes` `[N, M, 4]`, `scores` and `labels` `[N, M]`; image n has `num_detections[n]` of M, then zeros."""
        counts = [len(each) for each in predictions]
        boxes = np.zeros((len(counts), max(counts), 4), np.float32)
        scores, labels = np.zeros(boxes.shape[:2], np.float32), np.zeros(boxes.shape[:2], np.int32)
        for index, each in enumerate(predictions):
            for array, values in ((boxes, each.boxes), (scores, each.scores), (labels, each.labels)):
                array[index, : len(each)] = values
        return {"num_detections": np.array(counts, np.int32), "boxes": boxes, "scores": scores, "labels": labels}

    @property
    def confidence(self) -> float | None:
        return float(self.scores.max()) if len(self) else None

    def counts(self) -> dict[int, int]:
        labels, counts = np.unique(self.labels, return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    def of(self, labels: Collection[int]) -> Self:
        return self.chosen(np.isin(self.labels, list(labels)))

    def first(self, count: int) -> Self:
        return self.chosen(slice(count))

    def fingerprint(self) -> NDArray[np.float64]:
        """The scores."""
        return self.scores.astype(np.float64)

    def overlap(self, other: Self) -> NDArray[np.float64]:
        """Intersection over union `[N, M]` of these N objects with M others in the same image."""
        common = _common(self.boxes.astype(np.float64), other.boxes.astype(np.float64))
        union = _areas(self.boxes.astype(np.float64))[:, None] + _areas(other.boxes.astype(np.float64))[None] - common
        return np.divide(common, union, out=np.zeros_like(common), where=union > 0)

    def agreement(self, other: Self, index: NDArray[np.int64]) -> float:
        """F1 score of the one's objects against the other's: of one class, with an IoU of at least SAME_OBJECT_IOU,
        each matched once, the largest overlap first. Of two without objects it is 1."""
        if not len(self) and not len(other):
            return 1.0
        iou = self.overlap(other)
        iou[self.labels[:, None] != index[other.labels][None]] = 0
        matches = 0
        while iou.size and iou.max() >= SAME_OBJECT_IOU:
            one, another = np.unravel_index(iou.argmax(), iou.shape)
            iou[one, :], iou[:, another] = 0, 0
            matches += 1
        return 2 * matches / (len(self) + len(other))

    def to_dict(self, classes: Sequence[str], *, masks: bool = False) -> dict[str, JsonValue]:
        """`objects`: each with `class`, `score` and `box`, [left, top, right, bottom] in original pixels."""
        return {"objects": list(self.objects(classes, masks=masks))}

    def objects(self, classes: Sequence[str], *, masks: bool) -> list[dict[str, JsonValue]]:
        """The JSON form of each object."""
        return [
            {
                "class": classes[label],
                "score": round(float(score), 6),
                "box": [round(float(edge), 2) for edge in box],
            }
            for box, label, score in zip(self.boxes, self.labels, self.scores, strict=True)
        ]

    def describe(self, classes: Sequence[str]) -> str:
        counts = np.bincount(self.labels, minlength=len(classes))
        named = [f"{count} {name}" for name, count in zip(classes, counts, strict=True) if count]
        return ", ".join(named) or "no objects"

    def draw(self, image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
        canvas = image.copy()
        for box, label, score in zip(self.boxes, self.labels, self.scores, strict=True):
            left, top, right, bottom = (round(float(edge)) for edge in box)
            color = color_of(int(label))
            cv2.rectangle(canvas, (left, top), (right, bottom), color, line_width(canvas), cv2.LINE_AA)
            write_label(canvas, f"{classes[label]} {score:.2f}", (left, top), color)
        return canvas

    def __len__(self) -> int:
        return len(self.scores)


def nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes `[N, 4]` xyxy that stay, best first."""
    if not len(boxes):
        return np.zeros(0, np.intp)
    order = np.argsort(-scores, kind="stable")
    rectangles = np.hstack([boxes[order, :2], boxes[order, 2:] - boxes[order, :2]])
    ranks = np.arange(len(order), 0, -1, dtype=np.float32)  # OpenCV drops scores of 0 before it compares boxes
    kept = cv2.dnn.NMSBoxes(rectangles, ranks, 0.0, iou_threshold)  # type: ignore[arg-type]
    return order[np.asarray(kept, np.intp)]


def corners_of(value: JsonValue) -> tuple[float, ...]:
    """The box of a JSON form. Raises InvalidInput."""
    if not isinstance(value, list) or len(value) != 4:
        raise InvalidInput("a box is [left, top, right, bottom] in pixels", "box")
    left, top, right, bottom = (number(edge, "box") for edge in value)
    if right <= left or bottom <= top:
        raise InvalidInput(f"the box {value} has no area", "box", "write [left, top, right, bottom] in pixels")
    return left, top, right, bottom


def _touches(boxes: NDArray[np.float32], tile: Tile) -> NDArray[np.bool_]:
    """Which boxes `[N, 4]` reach an edge of the tile that is inside of the image."""
    left, top, right, bottom = tile.inner
    low = (boxes[:, 0] <= left + EDGE) | (boxes[:, 1] <= top + EDGE)
    return low | (boxes[:, 2] >= right - EDGE) | (boxes[:, 3] >= bottom - EDGE)


def _areas(boxes: NDArray[Float]) -> NDArray[Float]:
    areas: NDArray[Float] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _common(first: NDArray[Float], second: NDArray[Float]) -> NDArray[Float]:
    """Areas `[N, M]` that N boxes share with M others."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    sides = np.maximum(np.minimum(first[:, None, 2:], second[None, :, 2:]) - low, 0)
    areas: NDArray[Float] = sides[..., 0] * sides[..., 1]
    return areas


def candidates(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], settings: DecodingSettings
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The candidates of one image that survive suppression, best first: the row and the class of each.

    Args:
        boxes: xyxy in original pixels, `[A, 4]`.
        scores: From 0 to 1, `[A, C]`.
        settings: The limits.
    """
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    anchors, labels = np.nonzero((scores >= settings.score_threshold) & has_area[:, None])
    kept: list[NDArray[np.intp]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        of_class = scores[anchors[members], label]
        members = members[np.argsort(-of_class, kind="stable")[:CANDIDATES_PER_CLASS]]
        chosen = nms(boxes[anchors[members]], scores[anchors[members], label], settings.nms_iou)
        kept.append(members[chosen])
    index = np.concatenate(kept) if kept else np.zeros(0, np.intp)
    values = scores[anchors[index], labels[index]]
    index = index[np.argsort(-values, kind="stable")[: settings.max_detections]]
    return anchors[index], labels[index].astype(np.int64)


def _decode(boxes: NDArray[np.float32], scores: NDArray[np.float32], settings: DecodingSettings) -> Detection:
    rows, labels = candidates(boxes, scores, settings)
    return Detection(boxes[rows], labels, scores[rows, labels].astype(np.float32))
