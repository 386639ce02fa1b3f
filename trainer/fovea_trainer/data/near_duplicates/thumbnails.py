"""Small square pictures that are compared instead of images; the same on every machine."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 48
"""Side of the thumbnail that is kept of every image."""
BYTES = SIDE * SIDE
"""Of that thumbnail, in the build's index on disk."""


def thumbnail(pixels: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """The brightness of an image uint8 [h, w, 3] in RGB, squashed to a square [side, side].

    All sums are of whole numbers, so neither the order of adding nor the processor matters.
    """
    pixels = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.uint8)
    # A large image is averaged over whole blocks of pixels first, which OpenCV does exactly.
    height, width = pixels.shape[:2]
    down, across = _block(height, side), _block(width, side)
    if down > 1 or across > 1:
        top, left = height % down // 2, width % across // 2
        whole = pixels[top : top + height // down * down, left : left + width // across * across]
        size = (width // across, height // down)
        pixels = np.asarray(cv2.resize(np.ascontiguousarray(whole), size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = pixels.shape[:2]
    of_rows, of_columns = _tent(height, side), _tent(width, side)
    rows = np.rint(of_rows @ pixels.astype(np.float64) * (16 / of_rows.sum(1, keepdims=True)))
    return np.asarray(np.rint(rows @ of_columns.T / (16 * of_columns.sum(1))).clip(0, 255), np.uint8)


def orient(pictures: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """One of the eight flips and turns of [..., n, n]: transposed (bit 2), then flipped down (1) and across (0)."""
    if orientation & 4:
        pictures = pictures.swapaxes(-1, -2)
    if orientation & 2:
        pictures = pictures[..., ::-1, :]
    if orientation & 1:
        pictures = pictures[..., ::-1]
    return pictures


def halved(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures [..., n, n] at half their side."""
    side = pictures.shape[-1] // 2
    sums = pictures.reshape(*pictures.shape[:-2], side, 2, side, 2).sum((-3, -1), dtype=np.int64)
    return np.asarray((sums + 2) >> 2, np.uint8)


def _block(size: int, side: int) -> int:
    """Pixels to average first. Of what does not divide, half is left out at either end: a flip must not shift it."""
    return next((block for block in range(size // side, 1, -1) if size % block % 2 == 0), 1)


@lru_cache(256)
def _tent(size: int, side: int) -> NDArray[np.float64]:
    """Whole weights [side, size] of a triangle filter: little aliasing, and bilinear where it enlarges."""
    cells = (2 * np.arange(side) + 1)[:, None] * size
    pixels = (2 * np.arange(size) + 1)[None] * side
    return np.asarray(np.maximum(2 * max(size, side) - np.abs(cells - pixels), 0), np.float64)
