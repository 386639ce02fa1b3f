"""An event loop on which seconds pass without anybody waiting for them."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any


class Clock(asyncio.SelectorEventLoop):
    """Where everybody sleeps, it is at once the time at which the first wakes up."""

    def __init__(self) -> None:
        super().__init__(_Never(self))
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class _Never(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        self.clock.now += timeout or 0.0
        return []


def played(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test of which nobody waits for the sleeps, and whose times are no other on a slow machine."""

    @wraps(test)
    def play() -> None:
        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(test())

    return play
