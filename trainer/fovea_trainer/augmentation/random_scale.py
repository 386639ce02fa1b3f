"""Enlarged and shrunk images."""

from __future__ import annotations

import numpy as np

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register, warp


@register
class RandomScale(Transform):
    """By a factor of `min` to `max`; an enlarged image is looked at off-centre too."""

    field = "random_scale"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context):
            return item
        scale = context.random.uniform(self.options.min, self.options.max)
        size = np.array([item.image.shape[-1], item.image.shape[-2]])
        reach = max(0.0, self.options.max - 1) / 2
        shift = size * context.random.uniform(-reach, reach, 2)
        return warp(item, np.column_stack([scale * np.eye(2), size / 2 * (1 - scale) + shift]))
