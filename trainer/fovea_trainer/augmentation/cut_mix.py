"""Images with a rectangle of another one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fovea_trainer.augmentation.base import Combination, Context, Labelled, centred, mixed, register


@register
class CutMix(Combination):
    """A rectangle of another image, and its class by the rectangle's area: Yun et al., "CutMix" (2019)."""

    field = "cut_mix"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context):
            return item
        left, top, right, bottom = self.rectangle(item.size, context.random)
        other = centred(context.other(), item.size)
        pixels = item.pixels.copy()
        pixels[top:bottom, left:right] = other.pixels[top:bottom, left:right]
        share = 1 - (right - left) * (bottom - top) / (pixels.shape[0] * pixels.shape[1])
        return replace(item.with_pixels(pixels), classes=mixed(item, other, share))

    def rectangle(self, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, right and bottom: of the image's shape, its area by Beta(alpha, alpha), its middle anywhere."""
        side = math.sqrt(1 - random.beta(self.options.alpha, self.options.alpha))
        spans = []
        for length in size:
            middle, reach = int(random.integers(length)), int(length * side) // 2
            spans.append((max(0, middle - reach), min(length, middle + reach)))
        (left, right), (top, bottom) = spans
        return left, top, right, bottom
