"""The keyed queue."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from fovea_operator.metrics import Metrics
from fovea_operator.queue import KeyedQueue, backoff
from fovea_operator.settings import Settings

from tests.unit.operator.clock import Clock, played

FAST = Settings(workers=3, backoff_first_seconds=0.02, backoff_max_seconds=0.1, backoff_jitter=0.0)


@asynccontextmanager
async def running(work: Callable[[str], Awaitable[float | None]]) -> AsyncIterator[KeyedQueue[str]]:
    queue = KeyedQueue(work, FAST, Metrics(), lambda key: "Test")
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@played
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


@played
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


@played
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
    assert pauses == pytest.approx([0.02, 0.04, 0.08])


def runs(work: Callable[[KeyedQueue[str], int], Awaitable[None]], *added: float, seconds: float) -> list[float]:
    """When a key ran that was added at these times, where `work` gets the number of the run. Nobody waits for it."""
    times: list[float] = []

    async def play() -> None:
        clock = asyncio.get_running_loop().time

        async def each(key: str) -> None:
            times.append(clock() - began)
            await work(queue, len(times))

        settings = Settings(backoff_first_seconds=1.0, backoff_max_seconds=10.0, backoff_jitter=0.0)
        queue = KeyedQueue(each, settings, Metrics(), lambda key: "Test")
        began = clock()
        task = asyncio.create_task(queue.run())
        for at in added:
            await asyncio.sleep(began + at - clock())
            queue.add("a")
        await asyncio.sleep(began + seconds - clock())
        task.cancel()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(play())
    return times


def test_the_pause_grows_to_the_longest_and_starts_anew_after_a_success() -> None:
    async def work(queue: KeyedQueue[str], number: int) -> None:
        if number != 7:
            raise ValueError("not yet")

    assert runs(work, 0, 60, seconds=62) == pytest.approx([0, 1, 3, 7, 15, 25, 35, 60, 61])


def test_an_event_during_a_failing_run_does_not_wait_for_the_pause() -> None:
    async def work(queue: KeyedQueue[str], number: int) -> None:
        await asyncio.sleep(0.5)
        raise ValueError("not yet")

    # without the event, which comes while the fourth fails, the fifth would be at 17
    assert runs(work, 0, 8.75, seconds=16) == pytest.approx([0, 1.5, 4, 8.5, 10])


def test_what_failing_work_itself_wrote_does_not_shorten_its_pause() -> None:
    async def work(queue: KeyedQueue[str], number: int) -> None:
        queue.add("a")
        raise ValueError("said in the status")

    assert runs(work, 0, seconds=8) == pytest.approx([0, 1, 3, 7])


def test_an_event_after_a_failure_ends_the_pause_but_for_its_first_part() -> None:
    async def work(queue: KeyedQueue[str], number: int) -> None:
        raise ValueError("not yet")

    assert runs(work, 0, 8, seconds=11) == pytest.approx([0, 1, 3, 7, 9])


def test_an_earlier_request_replaces_a_later_one() -> None:
    async def play() -> list[float]:
        clock = asyncio.get_running_loop().time
        times: list[float] = []

        async def work(key: str) -> None:
            times.append(clock() - began)

        queue = KeyedQueue(work, Settings(), Metrics(), lambda key: "Test")
        began = clock()
        for delay in (10.0, 3.0, 20.0):
            queue.add("a", delay)
        task = asyncio.create_task(queue.run())
        await asyncio.sleep(5)
        queue.add("a", 4.0)
        await asyncio.sleep(60)
        task.cancel()
        return times

    with asyncio.Runner(loop_factory=Clock) as runner:
        assert runner.run(play()) == pytest.approx([3, 9])


def test_what_is_under_way_for_longest_and_how_many_are() -> None:
    async def play() -> None:
        async def work(key: str) -> None:
            await asyncio.sleep(100)

        queue = KeyedQueue(work, Settings(workers=3), Metrics(), str.upper)
        task = asyncio.create_task(queue.run())
        for key in "zab":
            queue.add(key)
            await asyncio.sleep(2)
        for key in "cde":
            queue.add(key)
        queue.add("c", delay=30)
        queue.add("f", delay=30)
        assert queue.oldest() == ("z", 6.0)
        assert (len(queue), queue.depth()) == (6, {"C": 1, "D": 1, "E": 1})
        await asyncio.sleep(95)
        assert (queue.oldest() or ("", 0))[0] == "a"
        task.cancel()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(play())


def test_how_long_a_key_waited_and_ran_is_measured() -> None:
    metrics = Metrics()

    async def play() -> None:
        async def work(key: str) -> None:
            await asyncio.sleep(4)
            if key == "bad":
                raise ValueError("no")

        queue = KeyedQueue(work, Settings(workers=1, backoff_jitter=0.0), metrics, lambda key: f"kind of {key}")
        task = asyncio.create_task(queue.run())
        queue.add("bad")
        queue.add("good")
        await asyncio.sleep(8.1)
        task.cancel()

        def sample(name: str, **labels: str) -> float | None:
            return metrics.registry.get_sample_value(name, labels)

        assert sample("fovea_queue_wait_seconds_sum", kind="kind of good") == pytest.approx(4.0)
        assert sample("fovea_queue_wait_seconds_sum", kind="kind of bad") == pytest.approx(0.0 + 3.5)
        assert sample("fovea_reconcile_errors_total", kind="kind of bad", reason="ValueError") == 1
        assert sample("fovea_reconcile_seconds_count", kind="kind of good") == 1
        assert sample("fovea_reconcile_errors_total", kind="kind of good", reason="ValueError") is None

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(play())


@pytest.mark.parametrize(("failures", "pause"), [(1, 0.5), (2, 1.0), (5, 8.0), (8, 64.0), (9, 120.0), (5000, 120.0)])
def test_a_pause_doubles_up_to_the_longest_and_jitter_only_adds(failures: int, pause: float) -> None:
    exact = Settings(backoff_jitter=0.0)
    assert backoff(failures, exact) == pause
    found = {backoff(failures, replace(exact, backoff_jitter=0.2)) for _ in range(50)}
    assert len(found) > 1
    assert pause <= min(found) < max(found) <= 1.2 * pause


@played
async def test_work_that_asks_for_itself_runs_once_more_after_a_success() -> None:
    runs = 0

    async def work(key: str) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            queue.add(key)

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(0.05)
    assert runs == 2


@played
async def test_the_depth_counts_what_waits_for_a_worker_not_what_sleeps_or_runs() -> None:
    release = asyncio.Event()

    async def work(key: str) -> None:
        await release.wait()

    async with running(work) as queue:
        for number in range(5):
            queue.add(str(number))
        queue.add("sleeper", delay=60)
        await asyncio.sleep(0.01)
        families = {each.name: each for each in queue.metrics.registry.collect()}
        depth = [(each.labels, each.value) for each in families["fovea_queue_depth"].samples]
        assert depth == [({"kind": "Test"}, 5 - FAST.workers)]
        key, seconds = queue.oldest() or ("", -1.0)
        assert key in "012"
        assert seconds > 0
        release.set()
        await asyncio.sleep(0.01)
        assert queue.oldest() is None
        assert not queue.depth()


@played
async def test_requeue_after_is_honoured_and_an_event_comes_first() -> None:
    times: list[float] = []

    async def work(key: str) -> float | None:
        times.append(asyncio.get_running_loop().time())
        return 0.1 if len(times) == 1 else None

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(0.25)
        assert len(times) == 2
        assert times[1] - times[0] == pytest.approx(0.1)
        queue.add("a", delay=10)
        queue.add("a")
        await asyncio.sleep(0.05)
    assert len(times) == 3


@played
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


@played
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
