"""The golden image: a picture that every model can be asked about, and what a bundle states of its model's answer."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fovea_serving.pipeline.predictions import Prediction

ANSWERS = "golden.json"
"""File of a bundle: the numbers of its model's answer, for each precision, measured on the exported file."""
COMPARED = 10
"""Numbers that are compared, best first: further down, objects near the limit of candidates come and go."""

STATED_TOLERANCE = 0.1
"""By how much a number may differ from what the bundle states: another runtime rounds in another way."""


@cache
def golden_image() -> bytes:
    """A PNG of 320x240 pixels: dark and light discs on a bright ground that grows darker to the right."""
    ground = np.linspace(230, 150, 320, dtype=np.uint8)
    image = np.repeat(np.repeat(ground[None, :, None], 240, axis=0), 3, axis=2)
    for index in range(12):
        center = (25 + (index % 4) * 85 + index, 40 + (index // 4) * 75)
        color = ((40, 30, 120), (190, 110, 130), (90, 160, 60))[index % 3]
        cv2.circle(image, center, 10 + 2 * index, color, -1, cv2.LINE_AA)
    return cv2.imencode(".png", image)[1].tobytes()


def golden_numbers(prediction: Prediction) -> NDArray[np.float64]:
    """COMPARED numbers from 0 to 1 that stand for a prediction with all candidates; those that it lacks are 0."""
    numbers = prediction.above(0.0).fingerprint()[:COMPARED]
    return np.pad(numbers, (0, COMPARED - len(numbers)))
