"""Windows of images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fovea_trainer.augmentation.base import FILL, Context, Labelled, Transform, register


@register
class RandomCrop(Transform):
    """A window of the given size anywhere in the picture; a smaller picture is surrounded evenly."""

    field = "random_crop"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        width, height = self.options.width, self.options.height
        rows, columns = item.image.shape[-2:]
        down, across = max(0, height - rows), max(0, width - columns)
        top = int(context.random.integers(rows + down - height + 1)) - down // 2
        left = int(context.random.integers(columns + across - width + 1)) - across // 2

        def window(plane: NDArray[Any], outside: int | tuple[int, int, int]) -> NDArray[Any]:
            if down or across:
                around = (down // 2, down - down // 2, across // 2, across - across // 2)
                plane = np.asarray(cv2.copyMakeBorder(plane, *around, cv2.BORDER_CONSTANT, value=outside))
            first, start = top + down // 2, left + across // 2
            return plane[first : first + height, start : start + width]

        pixels = np.ascontiguousarray(window(item.pixels, (FILL,) * 3))
        cut = item.with_pixels(pixels).with_planes(window)
        return replace(cut, boxes=item.boxes - item.boxes.new_tensor([left, top] * 2))
