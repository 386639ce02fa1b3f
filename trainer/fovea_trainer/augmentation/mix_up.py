"""Blends of images."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from fovea_trainer.augmentation.base import Combination, Context, Labelled, centred, mixed, register


@register
class MixUp(Combination):
    """Two images and their classes in a proportion of Beta(alpha, alpha): Zhang et al., "mixup" (2018)."""

    field = "mix_up"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context):
            return item
        share = float(context.random.beta(self.options.alpha, self.options.alpha))
        other = centred(context.other(), item.size)
        pixels = np.asarray(cv2.addWeighted(item.pixels, share, other.pixels, 1 - share, 0), np.uint8)
        return replace(item.with_pixels(pixels), classes=mixed(item, other, share))
