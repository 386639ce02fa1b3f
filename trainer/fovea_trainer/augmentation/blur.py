"""Blurred images."""

from __future__ import annotations

import cv2
import numpy as np

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register


@register
class Blur(Transform):
    """By a Gaussian of a standard deviation of at most `sigma`."""

    field = "blur"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context):
            return item
        sigma = context.random.uniform(min(0.1, self.options.sigma), self.options.sigma)
        return item.with_pixels(np.asarray(cv2.GaussianBlur(item.pixels, (0, 0), sigma), np.uint8))
