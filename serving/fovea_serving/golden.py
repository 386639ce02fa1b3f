"""Readiness that means something: a packaged image is asked about, and gets the answer that it got before."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fovea_serving.upstreams.base import PredictOptions, Upstream, UpstreamUnavailable

TOLERANCE = 0.01
"""By how much a score may differ: other batches and other replicas add up in another order."""
COMPARED = 10
"""Numbers that are compared, best first: further down, objects near the limit of candidates come and go."""


class GoldenImage:
    """Asks about the golden image. The first answer is the known one, from then on a different one is an error.

    A network that has gone blind, whose memory was overwritten, or that is not the one it was, still answers with 200;
    this is what notices.
    """

    def __init__(self) -> None:
        self._known: NDArray[np.float64] | None = None

    async def check(self, upstream: Upstream) -> None:
        """Raises UpstreamUnavailable with the reason, and whatever `Upstream.predict` raises."""
        (answer,) = await upstream.predict([golden_image()], PredictOptions(confidence=0.0))
        seen = answer.prediction.fingerprint()[:COMPARED]
        if not np.isfinite(seen).all():
            raise UpstreamUnavailable("the golden image gets scores that are no numbers")
        if self._known is None:
            self._known = seen
        elif not _agree(self._known, seen):
            raise UpstreamUnavailable(f"the golden image gets {seen.round(3)} in place of {self._known.round(3)}")


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


def _agree(known: NDArray[np.float64], seen: NDArray[np.float64]) -> bool:
    return known.shape == seen.shape and bool(np.allclose(known, seen, atol=TOLERANCE))
