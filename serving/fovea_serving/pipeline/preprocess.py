"""From an image of any size to the network's input tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

import cv2
import numpy as np
from fovea_api.bundle import Preprocessing
from fovea_api.trainingjob import Resize, Size
from numpy.typing import NDArray

from fovea_serving.pipeline.geometry import Geometry

Pixel = TypeVar("Pixel", np.uint8, np.int16)

IGNORE = 255
"""Class index of mask pixels that belong to no class: unlabelled, padding, outside of a crop."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The deterministic part of preparing an image; stored in the bundle.

    Args:
        width: Width of the input in pixels.
        height: Height of the input in pixels.
        resize: How the image is brought to that size.
        mean: Mean of each channel of RGB, of values from 0 to 1.
        std: Standard deviation of each channel.
        pad_value: Grey value, 0 to 255, of the border that Letterbox adds.
    """

    width: int
    height: int
    resize: Resize = Resize.LETTERBOX
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pad_value: int = 114

    @classmethod
    def from_manifest(cls, manifest: Preprocessing) -> Self:
        """The preprocessing that a bundle describes."""
        size = manifest.size
        return cls(size.width, size.height, manifest.resize, manifest.mean, manifest.std, manifest.pad_value)

    def to_manifest(self) -> Preprocessing:
        """The description of it that a bundle holds."""
        size = Size(width=self.width, height=self.height)
        return Preprocessing(size=size, resize=self.resize, mean=self.mean, std=self.std, pad_value=self.pad_value)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Geometry]:
        """Input `[3, height, width]` of an RGB image `[h, w, 3]`, and the geometry that leads back."""
        fitted, geometry = self.fit(image)
        return self.normalize(fitted), geometry

    def batch(self, images: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], list[Geometry]]:
        """Input `[N, 3, height, width]` of N images, and the geometry of each."""
        geometries = []
        batch = np.empty((len(images), 3, self.height, self.width), np.float32)
        for index, image in enumerate(images):
            batch[index], geometry = self(image)
            geometries.append(geometry)
        return batch, geometries

    def geometry(self, width: int, height: int) -> Geometry:
        """The geometry of an image of this size."""
        across, down = self.width / width, self.height / height
        if self.resize is Resize.LETTERBOX:
            across = down = min(across, down)
        elif self.resize is Resize.CENTER_CROP:
            across = down = max(across, down)
        # The resized image has whole pixels: the factors that boxes follow are those of the real sizes.
        fitted = (max(1, round(width * across)), max(1, round(height * down)))
        return Geometry(
            original=(width, height),
            input=(self.width, self.height),
            scale=(fitted[0] / width, fitted[1] / height),
            offset=(float((self.width - fitted[0]) // 2), float((self.height - fitted[1]) // 2)),
        )

    def fit(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Geometry]:
        """The image `[h, w, 3]` at the input size, still bytes. Shrinks by area, enlarges bilinearly."""
        geometry = self.geometry(image.shape[1], image.shape[0])
        shrinks = min(geometry.scale) < 1
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return self._place(image, geometry, interpolation, self.pad_value), geometry

    def fit_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask of class indices `[h, w]` at the input size; padding becomes IGNORE."""
        geometry = self.geometry(mask.shape[1], mask.shape[0])
        return self._place(mask, geometry, cv2.INTER_NEAREST_EXACT, IGNORE)

    def fit_instances(self, layer: NDArray[np.int16]) -> NDArray[np.int16]:
        """Numbers of objects `[h, w]` at the input size; padding becomes 0, which is none."""
        return self._place(layer, self.geometry(layer.shape[1], layer.shape[0]), cv2.INTER_NEAREST_EXACT, 0)

    def normalize(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[3, h, w]` of `(rgb / 255 - mean) / std`."""
        factor = 1 / (255 * np.array(self.std, np.float32))
        shift = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        return np.ascontiguousarray((image * factor - shift).transpose(2, 0, 1))

    def _place(self, image: NDArray[Pixel], geometry: Geometry, interpolation: int, padding: int) -> NDArray[Pixel]:
        width, height = (round(length * scale) for length, scale in zip(geometry.original, geometry.scale, strict=True))
        fitted = image
        if (width, height) != geometry.original:
            fitted = cv2.resize(image, (width, height), interpolation=interpolation).astype(image.dtype, copy=False)
        if (width, height) == geometry.input:
            return fitted
        left, top = (int(offset) for offset in geometry.offset)
        fitted = fitted[max(0, -top) :, max(0, -left) :][: self.height, : self.width]
        placed = np.full((self.height, self.width, *image.shape[2:]), padding, image.dtype)
        top, left = max(0, top), max(0, left)
        placed[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
        return placed
