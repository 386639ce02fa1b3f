"""RandAugment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register, warp
from fovea_trainer.augmentation.color_jitter import luma, saturated

Pixels = NDArray[np.uint8]
STRONGEST = 30
"""The largest magnitude."""
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
"""What an image is sharpened against, as in Pillow."""


@register
class RandAugment(Transform):
    """Random operations of one magnitude: Cubuk et al., "RandAugment" (2020), with the operations and the ranges of
    torchvision's. Boxes and masks follow."""

    field = "rand_augment"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        random, strength = context.random, self.options.magnitude / STRONGEST
        for name in random.choice(OPERATIONS, self.options.operations):
            item = apply(item, str(name), strength, bool(random.integers(2)))
        return item


def apply(item: Labelled, name: str, strength: float, negative: bool) -> Labelled:
    """The image changed by one of OPERATIONS.

    Args:
        item: The image.
        name: The operation.
        strength: 0 to 1.
        negative: The other way, where there are two.
    """
    sign = -1 if negative else 1
    if name in GEOMETRIC:
        return warp(item, GEOMETRIC[name](sign * strength, *item.size))
    if name in BLENDS:
        return item.with_pixels(BLENDS[name](item.pixels, 1 + 0.9 * sign * strength))
    if name in LEVELS:
        return item.with_pixels(np.asarray(cv2.LUT(item.pixels, LEVELS[name](item.pixels, strength)), np.uint8))
    return item


def _shear_x(share: float, width: int, height: int) -> NDArray[np.float64]:
    return np.array([[1, -0.3 * share, 0], [0, 1, 0]])


def _shear_y(share: float, width: int, height: int) -> NDArray[np.float64]:
    return np.array([[1, 0, 0], [-0.3 * share, 1, 0]])


def _translate_x(share: float, width: int, height: int) -> NDArray[np.float64]:
    return np.array([[1, 0, int(150 / 331 * share * width)], [0, 1, 0]], np.float64)


def _translate_y(share: float, width: int, height: int) -> NDArray[np.float64]:
    return np.array([[1, 0, 0], [0, 1, int(150 / 331 * share * height)]], np.float64)


def _rotate(share: float, width: int, height: int) -> NDArray[np.float64]:
    angle, middle = math.radians(30 * share), np.array([width / 2, height / 2])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.column_stack([turn, middle - turn @ middle])


def _brightness(pixels: Pixels, factor: float) -> Pixels:
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=factor), np.uint8)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    levels = luma(pixels) * (1 - factor) + factor * np.arange(256)
    return np.asarray(cv2.LUT(pixels, levels.round().clip(0, 255).astype(np.uint8)), np.uint8)


def _sharpness(pixels: Pixels, factor: float) -> Pixels:
    smooth = cv2.filter2D(pixels, -1, SMOOTH)
    sharp = np.asarray(cv2.addWeighted(pixels, factor, smooth, 1 - factor, 0), np.uint8)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):  # they have no neighbours to be held against
        sharp[edge] = pixels[edge]
    return sharp


def _posterize(pixels: Pixels, strength: float) -> Pixels:
    lost = round(4 * strength)
    return (np.arange(256) >> lost << lost).astype(np.uint8)


def _solarize(pixels: Pixels, strength: float) -> Pixels:
    levels = np.arange(256)
    return np.where(levels >= 255 * (1 - strength), 255 - levels, levels).astype(np.uint8)


def _auto_contrast(pixels: Pixels, strength: float) -> Pixels:
    tables = []
    for counts in histograms(pixels):
        low, high = np.flatnonzero(counts)[[0, -1]]
        spread = np.arange(256) if low == high else (np.arange(256) - low) * (255 / (high - low))
        tables.append(spread.round().clip(0, 255).astype(np.uint8))
    return np.stack(tables, -1)[:, None]


def _equalize(pixels: Pixels, strength: float) -> Pixels:
    tables = []
    for counts in histograms(pixels):
        step = int(counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        before = np.cumsum(counts) - counts
        levels = (before + step // 2) // step if step else np.arange(256)
        tables.append(levels.clip(0, 255).astype(np.uint8))
    return np.stack(tables, -1)[:, None]


def histograms(pixels: Pixels) -> list[NDArray[np.int64]]:
    """Number of pixels of each level, [256], of each channel of an image [H, W, 3]."""
    return [cv2.calcHist([pixels], [channel], None, [256], [0, 256])[:, 0].astype(np.int64) for channel in range(3)]


GEOMETRIC: Mapping[str, Callable[[float, int, int], NDArray[np.float64]]] = {
    "ShearX": _shear_x, "ShearY": _shear_y, "TranslateX": _translate_x, "TranslateY": _translate_y, "Rotate": _rotate,
}  # fmt: skip
"""Matrices [2, 3] by magnitude, -1 to 1, and the image's width and height."""
BLENDS: Mapping[str, Callable[[Pixels, float], Pixels]] = {
    "Brightness": _brightness, "Color": saturated, "Contrast": _contrast, "Sharpness": _sharpness,
}  # fmt: skip
"""Images [H, W, 3] changed by a factor, 1 for no change."""
LEVELS: Mapping[str, Callable[[Pixels, float], Pixels]] = {
    "Posterize": _posterize, "Solarize": _solarize, "AutoContrast": _auto_contrast, "Equalize": _equalize,
}  # fmt: skip
"""Tables of levels for an image [H, W, 3], by magnitude, 0 to 1: [256], or [256, 1, 3] of each channel."""
OPERATIONS = ("Identity", *GEOMETRIC, *BLENDS, *LEVELS)
