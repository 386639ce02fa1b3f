"""Readiness that means something: the golden image gets the known answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fovea_serving.pipeline.golden import STATED_TOLERANCE, golden_image, golden_numbers
from fovea_serving.upstreams.base import PredictOptions, Upstream, UpstreamUnavailable

TOLERANCE = 0.01
"""By how much a number may differ from the first answer: other batches and other replicas add up in another order."""


class GoldenImage:
    """Asks about the golden image. The known answer is the bundle's, and the first one that agrees with it.

    A network that has gone blind, whose memory was overwritten, or that is not the one it was, still answers with 200;
    this is what notices.

    Args:
        stated: The numbers of the answer that the bundle states. None: it states none.
    """

    def __init__(self, stated: Sequence[float] | None = None) -> None:
        self._stated = None if stated is None else np.asarray(stated, np.float64)
        self._first: NDArray[np.float64] | None = None

    async def check(self, upstream: Upstream) -> None:
        """Raises UpstreamUnavailable with the reason, and whatever `Upstream.predict` raises."""
        (answer,) = await upstream.predict([golden_image()], PredictOptions(confidence=0.0))
        seen = golden_numbers(answer.prediction)
        if not np.isfinite(seen).all():
            raise UpstreamUnavailable("the golden image gets scores that are no numbers")
        for known, tolerance in ((self._stated, STATED_TOLERANCE), (self._first, TOLERANCE)):
            if known is not None and not np.allclose(known, seen, rtol=0, atol=tolerance):
                raise UpstreamUnavailable(f"the golden image gets {seen.round(3)} in place of {known.round(3)}")
        if self._first is None:
            self._first = seen
