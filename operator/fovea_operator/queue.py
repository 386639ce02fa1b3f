"""The keyed queue: one reconcile per key at a time, bursts merged, failures retried with growing pauses."""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from fovea_operator.metrics import Metrics
from fovea_operator.settings import Settings

logger = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Entry:
    """Where a key stands."""

    due: float | None = None
    """When it is to run next, in seconds of the loop's clock; None: not asked for."""
    since: float = 0.0
    """When it became wanted at `due`."""
    running: bool = False
    failures: int = 0
    token: int = 0
    """Number of the newest heap item of the key; older ones are void."""


@dataclass(slots=True)
class KeyedQueue(Generic[K]):
    """Runs `work(key)` for keys that were added.

    `work` returns the seconds until it wants to be run again, or None. A key added while it runs, runs once more
    afterwards. An earlier wish replaces a later one. After an exception the key is retried after
    `backoff_first * 2**(failures - 1)` seconds, at most `backoff_max`, plus jitter; a new event does not shorten
    that pause below `backoff_first`, so a broken object cannot keep the operator busy.
    """

    work: Callable[[K], Awaitable[float | None]]
    settings: Settings
    metrics: Metrics
    label: Callable[[K], str]
    """The value of the metrics' label `kind`."""
    reason: Callable[[Exception], str] = lambda error: type(error).__name__
    _entries: dict[K, _Entry] = field(default_factory=dict)
    _heap: list[tuple[float, int, K]] = field(default_factory=list)
    _tokens: count[int] = field(default_factory=count)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Asks for a run of the key after `delay` seconds. Cheap; never waits."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.failures:
            delay = max(delay, self.settings.backoff_first_seconds)
        due = asyncio.get_running_loop().time() + delay
        if entry.due is None or due < entry.due:
            self._schedule(key, entry, due)

    def __len__(self) -> int:
        """Keys that run or are due now."""
        now = asyncio.get_running_loop().time()
        return sum(entry.running or (entry.due is not None and entry.due <= now) for entry in self._entries.values())

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.settings.workers):
                group.create_task(self._worker(), name=f"worker-{number}")

    def _schedule(self, key: K, entry: _Entry, due: float) -> None:
        if entry.due is None:
            self.metrics.queue_depth.labels(self.label(key)).inc()
        entry.due, entry.since, entry.token = due, due, next(self._tokens)
        heapq.heappush(self._heap, (due, entry.token, key))
        self._changed.set()

    async def _worker(self) -> None:
        while True:
            key, entry = await self._next()
            await self._run_one(key, entry)
            await asyncio.sleep(0)  # work that waits for nothing must not keep probes and the Lease from their turn

    async def _next(self) -> tuple[K, _Entry]:
        loop = asyncio.get_running_loop()
        while True:
            while self._heap:
                due, token, key = self._heap[0]
                entry = self._entries.get(key)
                if entry is None or entry.token != token or entry.due is None or entry.running:
                    heapq.heappop(self._heap)  # void; a running key is put back when it has finished
                    continue
                if due > loop.time():
                    break
                heapq.heappop(self._heap)
                entry.due, entry.running = None, True
                self.metrics.queue_depth.labels(self.label(key)).dec()
                self.metrics.queue_wait.labels(self.label(key)).observe(loop.time() - entry.since)
                return key, entry
            self._changed.clear()
            timeout = self._heap[0][0] - loop.time() if self._heap else None
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _run_one(self, key: K, entry: _Entry) -> None:
        kind = self.label(key)
        again: float | None = None
        try:
            with self.metrics.reconcile_duration.labels(kind).time():
                again = await self.work(key)
            entry.failures = 0
        except Exception as error:
            entry.failures += 1
            again = self._pause(entry.failures)
            self.metrics.reconcile_errors.labels(kind, self.reason(error)).inc()
            logger.warning("%s: %s; trying again in %.1f s", key, error, again, exc_info=_unexpected(error))
        finally:
            entry.running = False
            now = asyncio.get_running_loop().time()
            wanted = [due for due in (entry.due, None if again is None else now + again) if due is not None]
            if entry.failures and again is not None:
                wanted = [now + again]
            if wanted:
                self._schedule(key, entry, min(wanted))
            elif not entry.failures:
                del self._entries[key]

    def _pause(self, failures: int) -> float:
        pause = self.settings.backoff_first_seconds * 2.0 ** min(failures - 1, 30)
        return min(pause, self.settings.backoff_max_seconds) * (1 + self.settings.backoff_jitter * random.random())


def _unexpected(error: Exception) -> bool:
    """Whether the log should show where the error came from: anything that was not raised on purpose."""
    from fovea_api.errors import FoveaError

    return not isinstance(error, FoveaError)
