"""Where a pixel of the original image lies in the network's input, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Geometry:
    """The map `input = original * scale + offset`, per axis, in continuous pixel coordinates.

    Continuous: the left edge of the first pixel is 0, the right edge of the last one is the width.

    Args:
        original: (width, height) of the original image.
        input: (width, height) of the network's input.
        scale: (x, y) factors.
        offset: (x, y) position of the original's corner in the input; negative where it is cut off.
    """

    original: tuple[int, int]
    input: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `[N, 4]` xyxy from original pixels to input pixels; not clipped."""
        return (boxes * self._scales + self._offsets).astype(np.float32)

    def to_original(self, boxes: NDArray[np.float32], *, clipped: bool = True) -> NDArray[np.float32]:
        """Boxes `[N, 4]` xyxy from input pixels to original pixels; clipped to the image."""
        moved = (boxes - self._offsets) / self._scales
        if not clipped:
            return moved.astype(np.float32)
        width, height = self.original
        return np.clip(moved, 0, np.array([width, height, width, height])).astype(np.float32)

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the input's pixels that show the original: without padding."""
        left, top = (max(0, round(offset)) for offset in self.offset)
        right, bottom = (
            min(size, round(offset + length * scale))
            for size, offset, length, scale in zip(self.input, self.offset, self.original, self.scale, strict=True)
        )
        return left, top, right, bottom

    @property
    def seen(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the original's pixels that the input shows: all but for a crop."""
        left, top, right, bottom = self.to_original(np.array([[0, 0, *self.input]], np.float32)).round().astype(int)[0]
        return int(left), int(top), int(right), int(bottom)

    @property
    def _scales(self) -> NDArray[np.float64]:
        return np.array(self.scale * 2)

    @property
    def _offsets(self) -> NDArray[np.float64]:
        return np.array(self.offset * 2)
