"""Windows of images."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from fovea_serving.pipeline import IGNORE

from fovea_trainer.augmentation.base import FILL, Context, Labelled, Transform, register


@register
class RandomCrop(Transform):
    """A window of the given size anywhere in the picture; a smaller picture is surrounded evenly."""

    field = "random_crop"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        width, height = self.options.width, self.options.height
        pixels, mask, boxes = item.pixels, item.mask, item.boxes
        down, across = max(0, height - pixels.shape[0]), max(0, width - pixels.shape[1])
        if down or across:
            around = (down // 2, down - down // 2, across // 2, across - across // 2)
            pixels = np.asarray(cv2.copyMakeBorder(pixels, *around, cv2.BORDER_CONSTANT, value=(FILL,) * 3), np.uint8)
            if mask is not None:
                mask = torch.from_numpy(cv2.copyMakeBorder(mask.numpy(), *around, cv2.BORDER_CONSTANT, value=IGNORE))
            boxes = boxes + boxes.new_tensor([across // 2, down // 2] * 2)
        top = int(context.random.integers(pixels.shape[0] - height + 1))
        left = int(context.random.integers(pixels.shape[1] - width + 1))
        window = np.ascontiguousarray(pixels[top : top + height, left : left + width])
        return replace(
            item.with_pixels(window),
            boxes=boxes - boxes.new_tensor([left, top] * 2),
            mask=None if mask is None else mask[top : top + height, left : left + width].contiguous(),
        )
