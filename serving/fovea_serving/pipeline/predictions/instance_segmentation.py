"""Objects with the pixels of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import cv2
import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_serving.pipeline.drawing import color_of, line_width, tint
from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.predictions.base import DecodingSettings, labelled, number, register
from fovea_serving.pipeline.predictions.detection import Detection, candidates, corners_of
from fovea_serving.pipeline.run_lengths import (
    Encoded,
    areas,
    bounds,
    decode,
    encode,
    encoded,
    mask_of,
    overlap,
    pack,
    unpack,
)
from fovea_serving.pipeline.tiles import Tile

INSIDE = 0.5
"""Probability from which a pixel is of the object (He et al., "Mask R-CNN", 2017)."""


@register(Task.INSTANCE_SEGMENTATION)
@dataclass(frozen=True, slots=True)
class InstanceSegmentation(Detection):
    """Detected objects, best first, with their pixels.

    Whatever is asked of detections is asked of these: how much two objects overlap is decided by their pixels.

    Args:
        masks: COCO's compressed run lengths of each object in the original image, `[N, L]` as `pack` lays them out.
        width: Of the original image, in pixels.
        height: Of the original image, in pixels.
    """

    outputs = ("boxes", "scores", "masks")
    tensors = {
        **Detection.tensors,
        "masks": ("BYTES", (-1, -1)),
        "image_size": ("INT32", (-1, 2)),
    }

    masks: NDArray[np.uint8]
    width: int
    height: int

    @classmethod
    def decode(
        cls, outputs: Mapping[str, NDArray[np.float32]], geometries: Sequence[Geometry], settings: DecodingSettings
    ) -> list[InstanceSegmentation]:
        """From `boxes` `[N, A, 4]` xyxy in input pixels, `scores` `[N, A, C]` and `masks` `[N, A, M, M]`, the
        probability of a pixel to be of the object on a grid over its box, all from 0 to 1."""
        rows = zip(*(outputs[name] for name in cls.outputs), geometries, strict=True)
        return [_decode(boxes, scores, masks, geometry, settings) for boxes, scores, masks, geometry in rows]

    @classmethod
    def from_dict(
        cls, content: Mapping[str, JsonValue], classes: Sequence[str], size: tuple[int, int]
    ) -> InstanceSegmentation:
        """From `objects`, each with `class`, `box`, `mask` and perhaps `score`; those without one have 1."""
        found = list(labelled(content.get("objects"), "objects", classes))
        masks = []
        for _, part in found:
            mask = mask_of(part.get("mask"), size)
            if not mask.any():
                raise InvalidInput("the mask of an object has no pixel", "mask", "leave the object out")
            corners_of(part.get("box"))  # who reads labels of objects reads it
            masks.append(encode(mask, 0, 0, *size))
        scores = np.array([number(part.get("score", 1.0), "score") for _, part in found], np.float32)
        order = np.argsort(-scores, kind="stable")
        labels = np.array([label for label, _ in found], np.int64)
        return cls.of_masks([masks[place] for place in order], labels[order], scores[order], size)

    @classmethod
    def of_masks(
        cls, masks: Sequence[bytes], labels: NDArray[np.int64], scores: NDArray[np.float32], size: tuple[int, int]
    ) -> Self:
        """Objects with the boxes around their pixels, from compressed run lengths in an image of this width and
        height."""
        boxes = bounds([encoded(counts, *size) for counts in masks])
        return cls(boxes, labels, scores, pack(masks), *size)

    @property
    def encoded(self) -> list[Encoded]:
        """The masks as pycocotools takes them."""
        return [encoded(counts, self.width, self.height) for counts in unpack(self.masks)]

    def chosen(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        return replace(Detection.chosen(self, index), masks=self.masks[index])

    def placed(self, tile: Tile) -> Self:
        masks = []
        for counts in unpack(self.masks):
            part = decode(counts, self.width, self.height)
            masks.append(encode(part, tile.left, tile.top, tile.width, tile.height))
        moved = Detection.placed(self, tile)
        return replace(moved, masks=pack(masks), width=tile.width, height=tile.height)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        every = Detection.joined(parts)
        assert isinstance(every, cls)
        return replace(every, masks=pack([counts for part in parts for counts in unpack(part.masks)]))

    def overlap(self, other: Detection) -> NDArray[np.float64]:
        """Of the pixels."""
        assert isinstance(other, InstanceSegmentation)
        return overlap(self.encoded, other.encoded)

    @classmethod
    def stack(cls, predictions: Sequence[Detection]) -> dict[str, NDArray[Any]]:
        """As those of a detection; `masks` `[N, M]`: COCO's compressed run lengths, empty beyond `num_detections`;
        `image_size` `[N, 2]`: the height and width that they are of."""
        arrays: dict[str, NDArray[Any]] = dict(Detection.stack(predictions))
        masks, sizes = np.full(arrays["scores"].shape, b"", np.object_), np.zeros((len(predictions), 2), np.int32)
        for index, each in enumerate(predictions):
            assert isinstance(each, InstanceSegmentation)
            masks[index, : len(each)] = unpack(each.masks)
            sizes[index] = each.height, each.width
        return {**arrays, "masks": masks, "image_size": sizes}

    def objects(self, classes: Sequence[str], *, masks: bool) -> list[dict[str, JsonValue]]:
        """As those of a detection, each with its `pixels` and on request its `mask`."""
        every = self.encoded
        shapes: list[dict[str, JsonValue]] = [{"pixels": pixels} for pixels in areas(every).tolist()]
        if masks:
            for shape, mask in zip(shapes, every, strict=True):
                shape["mask"] = {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
        parts = Detection.objects(self, classes, masks=masks)
        return [{**part, **shape} for part, shape in zip(parts, shapes, strict=True)]

    def draw(self, image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
        canvas = image.copy()
        for counts, label in reversed(list(zip(unpack(self.masks), self.labels.tolist(), strict=True))):
            mask = decode(counts, self.width, self.height)
            tint(canvas, mask, label)
            outline(canvas, mask, label)
        return Detection.draw(self, canvas, classes)


def outline(canvas: NDArray[np.uint8], mask: NDArray[np.bool_], label: int) -> None:
    """Draws the edge of a region, so that two objects of a class that touch are seen as two."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color_of(label), line_width(canvas))


def _decode(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    masks: NDArray[np.float32],
    geometry: Geometry,
    settings: DecodingSettings,
) -> InstanceSegmentation:
    original = geometry.to_original(boxes)
    rows, labels = candidates(original, scores, settings)
    width, height = geometry.original
    # Where a box ends outside of the image its grid does so too: it is laid over the whole box.
    whole = geometry.to_original(boxes[rows], clipped=False)
    values = scores[rows, labels].astype(np.float32)
    return InstanceSegmentation(
        original[rows], labels, values, pasted(masks[rows], whole, width, height), width, height
    )


def pasted(masks: NDArray[np.float32], boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """The masks of an `InstanceSegmentation` from grids `[N, M, M]` over boxes `[N, 4]`; see `paste`."""
    parts = (paste(mask, box, width, height) for mask, box in zip(masks, boxes, strict=True))
    return pack([encode(*part, width, height) for part in parts])


def paste(
    mask: NDArray[np.float32], box: NDArray[np.float32], width: int, height: int
) -> tuple[NDArray[np.bool_], int, int]:
    """The pixels of an object, as the part of the image that holds them, with its first column and row.

    Probabilities between the points of the grid are interpolated linearly, and fall to 0 outside of it, in continuous
    coordinates as detectron2 has them.

    Args:
        mask: Probabilities on a grid over the box, `[M, M]`.
        box: xyxy in pixels of the image; it may leave it.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
    """
    left, top = max(int(np.floor(box[0])), 0), max(int(np.floor(box[1])), 0)
    right, bottom = min(int(np.ceil(box[2])), width), min(int(np.ceil(box[3])), height)
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.bool_), 0, 0
    x = (np.arange(left, right) + 0.5 - box[0]) * mask.shape[1] / (box[2] - box[0]) - 0.5
    y = (np.arange(top, bottom) + 0.5 - box[1]) * mask.shape[0] / (box[3] - box[1]) - 0.5
    columns, rows = (np.ascontiguousarray(each, np.float32) for each in np.meshgrid(x, y))
    values = cv2.remap(mask, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(values) >= INSIDE, left, top
