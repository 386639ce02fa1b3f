"""Mirrored images."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register


@register
class HorizontalFlip(Transform):
    """Left and right exchanged."""

    field = "horizontal_flip"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context):
            return item
        boxes = item.boxes.clone()
        boxes[:, [0, 2]] = item.image.shape[-1] - item.boxes[:, [2, 0]]
        flipped = item.with_pixels(np.asarray(cv2.flip(item.pixels, 1), np.uint8))
        return replace(flipped.with_planes(lambda plane, _: np.flip(plane, 1)), boxes=boxes)


@register
class VerticalFlip(Transform):
    """Top and bottom exchanged."""

    field = "vertical_flip"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context):
            return item
        boxes = item.boxes.clone()
        boxes[:, [1, 3]] = item.image.shape[-2] - item.boxes[:, [3, 1]]
        flipped = item.with_pixels(np.asarray(cv2.flip(item.pixels, 0), np.uint8))
        return replace(flipped.with_planes(lambda plane, _: np.flip(plane, 0)), boxes=boxes)
