"""Calls that are under way: closing waits for them, and none begins after it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fovea_serving.upstreams.base import UpstreamUnavailable


class UnderWay:
    """The calls of one upstream.

    Args:
        place: Where the upstream is, for errors.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._calls = 0
        self._closed = False
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """While one is under way. Raises UpstreamUnavailable after `close`."""
        if self._closed:
            raise UpstreamUnavailable("is not used any more", self._place)
        self._calls += 1
        self._none.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._none.set()

    async def close(self) -> None:
        """Lets no more begin, and returns when the last has ended."""
        self._closed = True
        await self._none.wait()
