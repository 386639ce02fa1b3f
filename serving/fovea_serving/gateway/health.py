"""Whether a version sees: the golden image must get the known answer, at the start and every minute."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from fovea_api.errors import FoveaError

from fovea_serving.golden import GoldenImage
from fovea_serving.upstreams import Overloaded, Upstream, UpstreamUnavailable

CHECK_SECONDS = 60.0
"""Age at which a good result is looked at again."""
RETRY_SECONDS = 5.0
"""The same of a bad one, so that a recovered version is back soon."""
ANSWER_SECONDS = 30.0
"""Time for the answer: a model that is being loaded and warmed up may take long at first."""


class Health:
    """The last look at one version.

    Args:
        upstream: What runs it.
        stated: The answer to the golden image that its bundle states, see GoldenImage.
    """

    def __init__(
        self, upstream: Upstream, stated: Sequence[float] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._upstream = upstream
        self._golden = GoldenImage(stated)
        self._clock = clock
        self._error: UpstreamUnavailable | None = None
        self._valid_until = -1.0
        self._looking = asyncio.Lock()

    async def check(self) -> None:
        """Returns when the version answers, rightly. Raises UpstreamUnavailable, with the reason."""
        try:
            with contextlib.suppress(Overloaded):  # what is full is there
                await self._upstream.ready()
        except UpstreamUnavailable:
            raise
        except FoveaError as error:
            raise UpstreamUnavailable(f"is not ready: {error}") from error
        async with self._looking:
            if self._clock() >= self._valid_until:
                self._error = await self._look()
                self._valid_until = self._clock() + (RETRY_SECONDS if self._error else CHECK_SECONDS)
        if self._error is not None:
            raise self._error

    async def _look(self) -> UpstreamUnavailable | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._golden.check(self._upstream)
        except UpstreamUnavailable as error:
            return error
        except Exception as error:  # an answer of another shape can be compared with nothing
            if isinstance(error, Overloaded) and self._valid_until >= 0:
                return self._error  # what was seen of it before it was full
            return UpstreamUnavailable(f"the golden image gets no answer: {error or 'timed out'}")
        return None
