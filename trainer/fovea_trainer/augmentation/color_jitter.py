"""Changed colours."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register


@register
class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue, as torchvision's ColorJitter means them, in that order."""

    field = "color_jitter"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        options, random = self.options, context.random
        if not self.applies(context):
            return item
        brightness, contrast, saturation = (
            random.uniform(max(0.0, 1 - reach), 1 + reach)
            for reach in (options.brightness, options.contrast, options.saturation)
        )
        hue = random.uniform(-options.hue, options.hue)
        pixels = item.pixels
        levels = (np.arange(256) * brightness).clip(0, 255)
        if options.contrast:
            mean = brightness * luma(pixels)
            levels = (mean + contrast * (levels - mean)).clip(0, 255)
        if options.brightness or options.contrast:
            pixels = np.asarray(cv2.LUT(pixels, levels.round().astype(np.uint8)), np.uint8)
        if options.saturation:
            pixels = saturated(pixels, saturation)
        if options.hue:
            circle = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
            circle[..., 0] += np.uint8(round(hue * 256) % 256)  # wraps around, as hue does
            pixels = np.asarray(cv2.cvtColor(circle, cv2.COLOR_HSV2RGB_FULL), np.uint8)
        return item.with_pixels(pixels)


def luma(pixels: NDArray[np.uint8]) -> float:
    """Mean grey value of an image [H, W, 3], 0 to 255, by the weights of ITU-R BT.601."""
    red, green, blue = cv2.mean(pixels)[:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def saturated(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """An image [H, W, 3] between its grey picture, 0, and itself, 1; or beyond."""
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(pixels, factor, grey, 1 - factor, 0), np.uint8)
