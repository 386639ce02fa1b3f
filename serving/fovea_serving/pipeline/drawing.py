"""Predictions drawn on images: colours by class, labels, tinted regions."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
COLORS: tuple[Color, ...] = (
    (47, 109, 179),
    (209, 96, 61),
    (63, 143, 91),
    (142, 94, 162),
    (201, 162, 39),
    (58, 156, 166),
)
OPACITY = 0.45
"""Of a tinted region."""


def color_of(label: int) -> Color:
    """The colour of a class, RGB."""
    return COLORS[label % len(COLORS)]


def line_width(canvas: NDArray[np.uint8]) -> int:
    """Width in pixels of a line that is visible on an image of this size."""
    return max(1, int(max(canvas.shape[:2])) // 400)


def tint(canvas: NDArray[np.uint8], region: NDArray[np.bool_], label: int) -> None:
    """Lays the class's colour over a region."""
    canvas[region] = ((1 - OPACITY) * canvas[region] + OPACITY * np.array(color_of(label))).astype(np.uint8)


def write_label(canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], background: Color) -> None:
    """White text on a coloured background above the corner, or below it where there is no room."""
    text = text.encode("ascii", "replace").decode()  # OpenCV's built-in fonts hold ASCII only
    scale = max(0.35, max(canvas.shape[:2]) / 1600)
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left, bottom = min(max(corner[0], 0), max(0, canvas.shape[1] - width)), max(corner[1], height + baseline)
    cv2.rectangle(canvas, (left, bottom - height - baseline), (left + width, bottom), background, cv2.FILLED)
    origin = (left, bottom - baseline // 2 - 1)
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
