"""The keyed queue."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fovea_operator.metrics import Metrics
from fovea_operator.queue import KeyedQueue
from fovea_operator.settings import Settings

FAST = Settings(workers=3, backoff_first_seconds=0.02, backoff_max_seconds=0.1, backoff_jitter=0.0)


@asynccontextmanager
async def running(work: Callable[[str], Awaitable[float | None]]) -> AsyncIterator[KeyedQueue[str]]:
    queue = KeyedQueue(work, FAST, Metrics(), lambda key: "Test")
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_burst_is_one_run_and_a_key_never_runs_twice_at_once() -> None:
    active, most, runs = 0, 0, 0

    async def work(key: str) -> None:
        nonlocal active, most, runs
        active, runs = active + 1, runs + 1
        most = max(most, active)
        await asyncio.sleep(0.03)
        active -= 1

    async with running(work) as queue:
        for _ in range(50):
            queue.add("a")
        await asyncio.sleep(0.01)
        for _ in range(50):
            queue.add("a")
        await asyncio.sleep(0.15)
    assert (runs, most) == (2, 1)


async def test_the_limit_of_workers_holds() -> None:
    active, most = 0, 0

    async def work(key: str) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.01)
        active -= 1

    async with running(work) as queue:
        for number in range(20):
            queue.add(str(number))
        await asyncio.sleep(0.2)
        assert len(queue) == 0
    assert most == FAST.workers


async def test_failures_are_retried_with_growing_pauses_until_one_succeeds() -> None:
    times: list[float] = []

    async def work(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 4:
            raise ValueError("not yet")

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(0.4)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 4
    assert pauses[0] >= 0.02
    assert pauses[2] >= 0.08


async def test_requeue_after_is_honoured_and_an_event_comes_first() -> None:
    times: list[float] = []

    async def work(key: str) -> float | None:
        times.append(asyncio.get_running_loop().time())
        return 0.1 if len(times) == 1 else None

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(0.25)
        assert len(times) == 2
        assert times[1] - times[0] >= 0.1
        queue.add("a", delay=10)
        queue.add("a")
        await asyncio.sleep(0.05)
    assert len(times) == 3


async def test_what_failed_for_good_elsewhere_does_not_stop_the_others() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        if key == "bad":
            raise RuntimeError("always")
        done.append(key)

    async with running(work) as queue:
        queue.add("bad")
        queue.add("good")
        await asyncio.sleep(0.05)
    assert done == ["good"]


async def test_others_run_between_two_runs_that_wait_for_nothing() -> None:
    turns: list[str] = []

    async def work(key: str) -> None:
        turns.append(key)

    async def probe() -> None:
        while True:
            turns.append("probe")
            await asyncio.sleep(0)

    async with running(work) as queue:
        task = asyncio.create_task(probe())
        for number in range(30):
            queue.add(str(number))
        while len(queue):
            await asyncio.sleep(0)
        task.cancel()
    first, last = turns.index("0"), turns.index("29")
    assert turns[first:last].count("probe") >= 30 // FAST.workers - 1
