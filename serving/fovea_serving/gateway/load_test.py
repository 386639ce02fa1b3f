"""The load test of a version that gets no requests yet, as the configuration asks for it.

It goes to the runtime by the way of requests, with an admission of its own, and is counted apart from them: no share,
rate, gate or alert ever sees it. Each test is run once by a process; one that is no longer asked for is broken off.
A gateway of several processes runs none: they count in files, from which a former test cannot be dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from fovea_api.errors import FoveaError
from fovea_api.gateway import VersionLoad
from fovea_api.modeldeployment import Inference
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fovea_serving.gateway.admission import Admission
from fovea_serving.gateway.problems import DeadlineExceeded, status_of
from fovea_serving.gateway.routing import Served
from fovea_serving.pipeline.golden import golden_image
from fovea_serving.upstreams import PredictOptions, Upstream, UpstreamUnavailable

log = logging.getLogger(__name__)

WARM_UP_SECONDS = 2.0
"""Time of the requests before the load, one after the other, that are not counted."""
OPEN_SECONDS, ANSWER_SECONDS = 15.0, 15.0
"""Time in which the version has to be opened, and then to answer rightly."""
RETRY_SECONDS = 0.5
SHORTEST_SECONDS = 0.01
"""Pause between the starts of two requests, where no rate is given."""
STRAGGLERS = 0.05
"""Part of the answers, the last ones, whose time says nothing of the throughput."""

_LABELS = ("namespace", "deployment", "run", "test")
_OK, _TIMEOUT = 200, 504


class LoadTestMetrics:
    """What is counted of the last load test.

    Args:
        registry: Where it is registered.
        edges: Of the latency's buckets, in seconds.
    """

    def __init__(self, registry: CollectorRegistry, edges: tuple[float, ...]) -> None:
        self._registry, self._edges = registry, edges
        self._requests = Counter(
            "fovea_serving_load_test_requests",
            "Requests of a load test, by the status of the answer; they are nobody's.",
            (*_LABELS, "code"),
            registry=registry,
        )
        self._duration = Gauge(
            "fovea_serving_load_test_duration_seconds",
            "Time in which the answers came, see `answering_time`.",
            _LABELS,
            registry=registry,
        )
        self._finished = Gauge(
            "fovea_serving_load_test_finished",
            "Whether the load test is over.",
            _LABELS,
            registry=registry,
        )
        self._latency = self._histogram(edges)

    def begin(self, labels: tuple[str, ...], objective: float | None) -> None:
        """Forgets the test before; `objective`: seconds, at which a bucket ends."""
        for metric in (self._requests, self._duration, self._finished):
            metric.clear()
        self._registry.unregister(self._latency)
        edges = {*self._edges, *([objective] if objective is not None else [])}
        self._latency = self._histogram(tuple(sorted(edges)))
        self._latency.labels(*labels)
        self._finished.labels(*labels).set(0)

    def request(self, labels: tuple[str, ...], code: int, seconds: float) -> None:
        """A request that was answered so, after so long; one that was given up took at least as long."""
        self._requests.labels(*labels, str(code)).inc()
        if code in (_OK, _TIMEOUT):
            self._latency.labels(*labels).observe(seconds)

    def end(self, labels: tuple[str, ...], seconds: float) -> None:
        """The test took so long."""
        self._duration.labels(*labels).set(seconds)
        self._finished.labels(*labels).set(1)

    def _histogram(self, edges: tuple[float, ...]) -> Histogram:
        return Histogram(
            "fovea_serving_load_test_seconds",
            "Time until an answer in a load test.",
            _LABELS,
            buckets=edges,
            registry=self._registry,
        )


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A load test, as one gateway runs it.

    Args:
        test: What is asked for.
        place: Namespace and name of the deployment.
        inference: How requests are answered.
        objective: The promised latency in seconds; None: none is promised.
    """

    test: VersionLoad
    place: tuple[str, str]
    inference: Inference
    objective: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of its series."""
        return (*self.place, self.test.version.name, self.test.id)

    @property
    def interval(self) -> float | None:
        """Seconds between two requests of this gateway; None: it asks again as soon as it has its answer."""
        rate = self.test.rate_per_second
        return len(self.test.gateways) / rate if rate is not None else None


class LoadTester:
    """Runs the load test that the configuration asks for.

    Args:
        host: Name of this gateway.
        metrics: What counts.
        admission: Makes the admission of a test.
    """

    def __init__(self, host: str, metrics: LoadTestMetrics, admission: Callable[[], Admission]) -> None:
        self._host = host
        self._metrics = metrics
        self._admission = admission
        self._id = ""
        self._running: asyncio.Task[None] | None = None

    async def follow(self, plan: LoadPlan | None, opened: Callable[[], Awaitable[Served]]) -> None:
        """Begins what is new, and breaks off what is no longer asked for.

        Args:
            plan: What is asked for. None: no test.
            opened: Opens the version; raises FoveaError.
        """
        id = plan.test.id if plan is not None and self._host in plan.test.gateways else ""
        if id == self._id:
            return
        await self.close()
        self._id = id
        if plan is not None and id:
            self._running = asyncio.create_task(self._run(plan, opened))

    async def close(self) -> None:
        """Breaks off what is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            self._running = None

    async def _run(self, plan: LoadPlan, opened: Callable[[], Awaitable[Served]]) -> None:
        """A version that does not answer by then is put to the load all the same: its failures are the result."""
        self._metrics.begin(plan.labels, plan.objective)
        log.info("load test %s of %s begins", plan.test.id, plan.test.version.name)
        try:
            model = await _open(opened)
            try:
                await _answers(model)
                seconds = await self._load(plan, model.upstream)
            finally:
                await model.upstream.close()
        except Exception as error:
            log.error("load test %s cannot be run: %s: %s", plan.test.id, type(error).__name__, error)
        else:
            self._metrics.end(plan.labels, seconds)
            log.info("load test %s is over", plan.test.id)

    async def _load(self, plan: LoadPlan, upstream: Upstream) -> float:
        """Seconds in which the answers came."""
        admission, interval = self._admission(), plan.interval
        await _one_after_the_other(lambda: _asked(plan, upstream, admission), WARM_UP_SECONDS)

        answered: list[float] = []

        async def ask() -> None:
            begun = time.perf_counter()
            code = await _asked(plan, upstream, admission)
            ended = time.perf_counter()
            self._metrics.request(plan.labels, code, ended - begun)
            if code == _OK:
                answered.append(ended)

        if interval is None:
            await _one_after_the_other(ask, plan.test.seconds)
        else:
            await _at_intervals(ask, interval, plan.test.seconds)
        return answering_time(answered, plan.test.seconds)


def answering_time(answered: Sequence[float], seconds: float) -> float:
    """Seconds that the answers took together, at least those of the load.

    From the first answer on, for what one takes is latency and no throughput; and by all but the last of them
    (STRAGGLERS), extrapolated, so that a single late one does not count for all.

    Args:
        answered: When requests were answered, in any order.
        seconds: Duration of the load.
    """
    if not answered:
        return seconds
    times = sorted(answered)
    kept = math.ceil((1 - STRAGGLERS) * len(times))
    return max(seconds, (times[kept - 1] - times[0]) * len(times) / kept)


async def _open(opened: Callable[[], Awaitable[Served]]) -> Served:
    """The version, as soon as it can be opened. Raises TimeoutError where that takes too long."""
    async with asyncio.timeout(OPEN_SECONDS):
        while True:
            try:
                return await opened()
            except FoveaError as error:
                log.warning("the version to be tested cannot be opened yet: %s", error)
                await asyncio.sleep(RETRY_SECONDS)


async def _answers(model: Served) -> None:
    """Waits for a while until the version answers rightly."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                try:
                    return await model.health.check()
                except UpstreamUnavailable:
                    await asyncio.sleep(RETRY_SECONDS)


async def _asked(plan: LoadPlan, upstream: Upstream, admission: Admission) -> int:
    """The status of the answer to one request."""
    inference = plan.inference
    options = PredictOptions(inference.confidence_threshold, max_detections=inference.max_detections)
    try:
        with admission.admit(1):
            async with asyncio.timeout(inference.timeout_seconds):
                await upstream.predict([golden_image()], options)
    except TimeoutError:
        return status_of(DeadlineExceeded("no answer in time")).value
    except FoveaError as error:
        log.debug("a request of load test %s failed: %s", plan.test.id, error)
        return status_of(error).value
    return _OK


async def _one_after_the_other(ask: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Asks again as soon as there is an answer, for so long; at most a hundred times a second, for one that fails at
    once would be asked without end."""
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        await ask()
        await asyncio.sleep(max(0.0, begun + SHORTEST_SECONDS - time.perf_counter()))


async def _at_intervals(ask: Callable[[], Coroutine[Any, Any, None]], interval: float, seconds: float) -> None:
    """Asks at fixed times, whatever the answers take. Where this process cannot keep up, fewer are sent."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(max(1, round(seconds / interval))):
            due = begun + number * interval
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if time.perf_counter() > begun + seconds:
                break
            group.create_task(ask())
        await asyncio.sleep(max(0.0, begun + seconds - time.perf_counter()))
