"""A class for each pixel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from fovea_api.common import Task
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_serving.pipeline.drawing import tint
from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.predictions.base import DecodingSettings, Prediction, labelled, register
from fovea_serving.pipeline.preprocess import IGNORE
from fovea_serving.pipeline.run_lengths import mask_of, run_lengths
from fovea_serving.pipeline.tiles import Tile


@register(Task.SEMANTIC_SEGMENTATION)
@dataclass(frozen=True, slots=True)
class SemanticSegmentation(Prediction):
    """A class for each pixel: `mask` `[height, width]` of the original; IGNORE where a crop cut it off."""

    outputs = ("logits",)
    tiled = True
    tensors = {"mask": ("UINT8", (-1, -1, -1))}

    mask: NDArray[np.uint8]

    @classmethod
    def decode(
        cls, outputs: Mapping[str, NDArray[np.float32]], geometries: Sequence[Geometry], settings: DecodingSettings
    ) -> list[SemanticSegmentation]:
        """From `logits` `[N, C, H, W]`."""
        pairs = zip(outputs["logits"], geometries, strict=True)
        return [cls(_decode(logits, geometry)) for logits, geometry in pairs]

    @classmethod
    def from_dict(
        cls, content: Mapping[str, JsonValue], classes: Sequence[str], size: tuple[int, int]
    ) -> SemanticSegmentation:
        """From `classes`, each with `class` and `mask`; pixels of none are IGNORE."""
        width, height = size
        mask = np.full((height, width), IGNORE, np.uint8)
        for label, part in labelled(content.get("classes"), "classes", classes):
            mask[mask_of(part.get("mask"), size)] = label
        return cls(mask)

    @classmethod
    def stack(cls, predictions: Sequence[SemanticSegmentation]) -> dict[str, NDArray[np.generic]]:
        """`mask` `[N, H, W]` of images of one size."""
        sizes = {each.mask.shape for each in predictions}
        return {"mask": np.stack([each.mask for each in predictions])} if len(sizes) == 1 else {}

    @property
    def confidence(self) -> None:
        """A class for each pixel says nothing of how sure it is."""

    def counts(self) -> dict[int, int]:
        return {label: 1 for label, _ in self._occurring()}

    def of(self, labels: Collection[int]) -> SemanticSegmentation:
        """Pixels of others have no class (IGNORE)."""
        return SemanticSegmentation(np.where(np.isin(self.mask, list(labels)), self.mask, np.uint8(IGNORE)))

    def fingerprint(self) -> NDArray[np.float64]:
        """The share of the pixels of each class, in the order of the classes."""
        return np.bincount(self.mask.ravel(), minlength=IGNORE + 1) / self.mask.size

    @classmethod
    def merge(
        cls, parts: Sequence[tuple[SemanticSegmentation, Tile]], settings: DecodingSettings
    ) -> SemanticSegmentation:
        """Each pixel by the tile in which it is furthest from an inner edge: there the network saw most around it."""
        tile = parts[0][1]
        mask = np.full((tile.height, tile.width), IGNORE, np.uint8)
        depth = np.full(mask.shape, -1, np.int32)
        for part, tile in parts:
            area = (slice(tile.top, tile.bottom), slice(tile.left, tile.right))
            left, top, right, bottom = tile.inner
            x, y = np.arange(tile.left, tile.right), np.arange(tile.top, tile.bottom)
            across, down = np.minimum(x - left, right - 1 - x), np.minimum(y - top, bottom - 1 - y)
            own = np.minimum(across[None, :], down[:, None]).astype(np.int32)
            deeper = own > depth[area]
            mask[area][deeper] = part.mask[deeper]
            depth[area][deeper] = own[deeper]
        return cls(mask)

    def agreement(self, other: SemanticSegmentation, index: NDArray[np.int64]) -> float:
        """Mean over the classes that occur in either of the intersection over union (Jaccard index)."""
        unknown = len(index) + IGNORE
        table = np.full(IGNORE + 1, unknown, np.int64)
        table[: len(index)] = np.where(index < 0, unknown, index)
        mine, others = self.mask.astype(np.int64), table[other.mask]
        cut = (self.mask == IGNORE) | (other.mask == IGNORE)
        mine, others = mine[~cut], others[~cut]
        classes = np.union1d(mine, others)
        masks = [(mine == each, others == each) for each in classes]
        shares = [(one & another).sum() / (one | another).sum() for one, another in masks]
        return float(np.mean(shares)) if len(classes) else 1.0

    def to_dict(self, classes: Sequence[str], *, masks: bool = False) -> dict[str, JsonValue]:
        """`width`, `height` and `classes`: those that occur, with their `pixels` and on request their `mask`."""
        height, width = self.mask.shape
        return {
            "width": width,
            "height": height,
            "classes": [
                {
                    "class": classes[label],
                    "pixels": pixels,
                    **({"mask": run_lengths(self.mask == label)} if masks else {}),
                }
                for label, pixels in self._occurring()
            ],
        }

    def describe(self, classes: Sequence[str]) -> str:
        return ", ".join(f"{classes[label]} {pixels / self.mask.size:.0%}" for label, pixels in self._occurring())

    def draw(self, image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
        """The first class, by custom the background, is left clear."""
        canvas = image.copy()
        for label, _ in self._occurring():
            if label > 0:
                tint(canvas, self.mask == label, label)
        return canvas

    def _occurring(self) -> list[tuple[int, int]]:
        """Index and number of pixels of each class that occurs."""
        counts = np.bincount(self.mask.ravel(), minlength=IGNORE + 1)
        return [(int(label), int(counts[label])) for label in np.flatnonzero(counts[:IGNORE])]


def _decode(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.uint8]:
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
