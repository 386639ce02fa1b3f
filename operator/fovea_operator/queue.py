"""The keyed queue: one reconcile per key at a time, bursts merged, failures retried with growing pauses."""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from fovea_api.errors import FoveaError

from fovea_operator.metrics import Metrics
from fovea_operator.settings import Settings

logger = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Entry:
    """Where a key stands."""

    due: float | None = None
    """When it is to run next, in seconds of the loop's clock; None: not asked for."""
    began: float | None = None
    """When the run began that is under way; None: none is."""
    again: bool = False
    """Whether its own work asked for it, so that it runs once more unless it fails."""
    failures: int = 0
    token: int = 0
    """Number of the newest heap item of the key; older ones are void."""


_current: ContextVar[_Entry | None] = ContextVar("current", default=None)
"""The entry whose work this is."""


def backoff(failures: int, settings: Settings) -> float:
    """Seconds to wait after so many failures in a row: the first pause, doubled by each, up to the longest; jitter."""
    pause = settings.backoff_first_seconds * 2.0 ** min(failures - 1, 30)
    return min(pause, settings.backoff_max_seconds) * (1 + settings.backoff_jitter * random.random())


@dataclass(slots=True)
class KeyedQueue(Generic[K]):
    """Runs `work(key)` for keys that were added.

    `work` returns the seconds until it asks to be run again, or None. A key added while it runs, runs once more
    afterwards. An earlier request replaces a later one. After an exception the key is retried after a pause that
    grows (`backoff`). An event ends that pause, also one that came while the key failed, but never below
    `backoff_first`, so a broken object cannot keep the operator busy; what the failing work itself wrote is no event.
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

    def __post_init__(self) -> None:
        self.metrics.queue_depth.function = self.depth

    def add(self, key: K, delay: float = 0.0) -> None:
        """Asks for a run of the key after `delay` seconds. Cheap; never waits."""
        entry = self._entries.setdefault(key, _Entry())
        if entry is _current.get():
            entry.again = True
            return
        if entry.failures:
            delay = max(delay, self.settings.backoff_first_seconds)
        due = asyncio.get_running_loop().time() + delay
        if entry.due is None or due < entry.due:
            self._schedule(key, entry, due)

    def __len__(self) -> int:
        """Keys that run or are due now."""
        running = sum(entry.began is not None for entry in self._entries.values())
        return running + sum(self.depth().values())

    def depth(self) -> Counter[str]:
        """Keys that are due and wait for a worker, by label. One that sleeps until a later time is none of them."""
        now = asyncio.get_running_loop().time()
        return Counter(
            self.label(key)
            for key, entry in self._entries.items()
            if entry.began is None and entry.due is not None and entry.due <= now
        )

    def oldest(self) -> tuple[K, float] | None:
        """The key whose work has been under way for longest, and for how many seconds."""
        running = [(entry.began, key) for key, entry in self._entries.items() if entry.began is not None]
        if not running:
            return None
        began, key = min(running, key=lambda pair: pair[0])
        return key, asyncio.get_running_loop().time() - began

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.settings.workers):
                group.create_task(self._worker(), name=f"worker-{number}")

    def _schedule(self, key: K, entry: _Entry, due: float) -> None:
        entry.due, entry.token = due, next(self._tokens)
        heapq.heappush(self._heap, (due, entry.token, key))
        self._changed.set()

    async def _worker(self) -> None:
        while True:
            key, entry = await self._next()
            await self._run_one(key, entry)
            await asyncio.sleep(0)  # work that waits for nothing must not keep probes from their turn

    async def _next(self) -> tuple[K, _Entry]:
        loop = asyncio.get_running_loop()
        while True:
            while self._heap:
                due, token, key = self._heap[0]
                entry = self._entries.get(key)
                if entry is None or entry.token != token or entry.due is None or entry.began is not None:
                    heapq.heappop(self._heap)  # void; a running key is put back when it has finished
                    continue
                if due > loop.time():
                    break
                heapq.heappop(self._heap)
                entry.due, entry.began = None, loop.time()
                self.metrics.queue_wait.labels(self.label(key)).observe(entry.began - due)
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
        pause: float | None = None
        entry.again = False
        token = _current.set(entry)
        try:
            with self.metrics.reconcile_duration.labels(kind).time():
                pause = await self.work(key)
            entry.failures = 0
        except Exception as error:
            entry.failures += 1
            pause = backoff(entry.failures, self.settings)
            self.metrics.reconcile_errors.labels(kind, self.reason(error)).inc()
            logger.warning("%s: %s; trying again in %.1f s", key, error, pause, exc_info=_unexpected(error))
        finally:
            _current.reset(token)
            entry.began = None
            self._put_back(key, entry, pause)

    def _put_back(self, key: K, entry: _Entry, pause: float | None) -> None:
        """Schedules the next run of a key that has just run, or forgets it."""
        now = asyncio.get_running_loop().time()
        requested = [now + pause] if pause is not None else []
        if entry.due is not None:
            requested.append(max(entry.due, now + self.settings.backoff_first_seconds) if entry.failures else entry.due)
        if entry.again and not entry.failures:
            requested.append(now)
        if requested:
            self._schedule(key, entry, min(requested))
        elif not entry.failures:
            del self._entries[key]


def _unexpected(error: Exception) -> bool:
    """Whether the log should show where the error came from: anything that was not raised on purpose."""
    return not isinstance(error, FoveaError)
