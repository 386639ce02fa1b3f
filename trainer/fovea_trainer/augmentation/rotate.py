"""Rotated images."""

from __future__ import annotations

import math

import numpy as np

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register, warp


@register
class Rotate(Transform):
    """By an angle of at most `degrees`, either way, about the middle."""

    field = "rotate"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context):
            return item
        angle = math.radians(context.random.uniform(-self.options.degrees, self.options.degrees))
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        height, width = item.image.shape[-2:]
        middle = np.array([width / 2, height / 2])
        return warp(item, np.column_stack([turn, middle - turn @ middle]))
