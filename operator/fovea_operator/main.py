"""The operator's process: leader election, the engine on the leader, health for the kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count

from fovea_api.errors import FoveaError
from kubernetes.aio.client import Configuration

from fovea_operator.apply import Writer
from fovea_operator.cache import Cache
from fovea_operator.client import Api, connect, load_configuration
from fovea_operator.engine import Engine
from fovea_operator.gauges import ObjectGauges
from fovea_operator.health import serve
from fovea_operator.kinds import builtin
from fovea_operator.lease import Election
from fovea_operator.logs import set_up
from fovea_operator.metrics import Metrics
from fovea_operator.objects import Key
from fovea_operator.observe import Observer
from fovea_operator.polling import Poller
from fovea_operator.queue import KeyedQueue, backoff
from fovea_operator.registry import Registry
from fovea_operator.scraping import Scraper
from fovea_operator.settings import Settings
from fovea_operator.watching import Watcher

logger = logging.getLogger(__name__)


def _identity() -> str:
    return f"{os.environ.get('HOSTNAME') or socket.gethostname()}-{uuid.uuid4().hex[:8]}"


@dataclass(slots=True)
class Operator:
    """Everything that one operator process has; there is no state outside of it."""

    settings: Settings
    configuration: Configuration
    identity: str = field(default_factory=_identity)
    registry: Registry = field(default_factory=builtin)
    """The kinds that are reconciled."""
    metrics: Metrics = field(init=False)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    leading: asyncio.Event = field(default_factory=asyncio.Event)
    watching: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    """The port of /metrics, once it is served."""
    queue: KeyedQueue[Key] | None = None
    watcher: Watcher | None = None
    election: Election | None = None
    """What gave us the right to work; None before that, and without leader election."""
    unread: str = ""
    """Why the cluster could not be listed at the last try."""

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.registry.metrics)

    async def run(self) -> int:
        """Works until `stop` is set. Returns the exit code: 1 when leadership or the watch was lost."""
        async with serve(self.settings.port, self._sick, self._unready, self.metrics) as self.port:
            if not self.settings.leader_election:
                return await self._until_stopped(self._lead(None))
            async with Election(self._connect, self.identity, self.settings) as election:
                return await self._until_stopped(self._lead(election))

    def _connect(self, fence: Callable[[], float] = lambda: math.inf) -> AbstractAsyncContextManager[Api]:
        return connect(self.configuration, self.settings.request_timeout_seconds, self.metrics, fence)

    async def _lead(self, election: Election | None) -> int:
        """Waits for the Lease, then works as long as it is held."""
        async with asyncio.TaskGroup() as group:
            if election is not None:
                await election.acquired()
                group.create_task(election.lost(), name="lease")
                self.election = election
            logger.info("%s leads", self.identity)
            self.leading.set()
            self.metrics.leader.set(1)
            try:
                async with self._connect(election.fence) if election is not None else self._connect() as api:
                    await self._work(api)
            finally:
                self.metrics.leader.set(0)
        return 1

    async def _work(self, api: Api) -> None:
        cache = Cache(self.registry)
        writer = Writer(api, cache, self.metrics, self.identity)
        poller = Poller(api, self.settings, lambda key: queue.add(key))
        scraper = Scraper(lambda key: queue.add(key))
        engine = Engine(Observer(api, cache, poller, self.settings, scraper), writer, self.settings)
        self.queue = queue = KeyedQueue(
            engine.reconcile, self.settings, self.metrics, lambda key: key.kind.name, _reason
        )
        self.watcher = watcher = Watcher(api, cache, queue, self.settings, self.metrics)
        for failures in count(1):
            try:
                await watcher.fill()
                break
            except FoveaError as error:
                if self.unread != str(error):
                    logger.error("not ready: %s; trying again", error)
                self.unread = str(error)
                await asyncio.sleep(backoff(failures, self.settings))
        self.unread = ""
        self.metrics.registry.register(ObjectGauges(self.registry, cache.objects))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(watcher), name="watch")
            group.create_task(watcher.resync_forever(), name="resync")
            group.create_task(poller.run(), name="poller")
            group.create_task(scraper.run(self.settings), name="scraper")
            group.create_task(queue.run(), name="queue")

    async def _watch(self, watcher: Watcher) -> None:
        """kopf takes the process' signals over; when it ends, everything does."""
        await watcher.watch(self.configuration, self.stop, self.watching)
        self.stop.set()

    async def _until_stopped(self, work: object) -> int:
        """Awaits the work or the request to stop, whichever comes first."""
        assert asyncio.iscoroutine(work)
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return 0
            return task.result() or 0
        except* FoveaError as errors:
            for error in _leaves(errors):
                logger.error("%s", error)
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)
        return 1

    def _sick(self) -> str:
        """What only a new start can mend. A probe that is not answered at all says that the event loop is blocked.

        An API server that does not answer is none of it: a new start would not reach it either.
        """
        problems = []
        if self.election is not None and (over := -self.election.left()) > self.settings.lease_seconds:
            problems.append(f"the Lease was lost {over:.0f} s ago and the work has not ended")
        if self.queue is not None and (oldest := self.queue.oldest()) is not None:
            key, seconds = oldest
            if seconds > self.settings.stuck_seconds:
                problems.append(f"{key} has been reconciled for {seconds:.0f} s")
        limit = 2 * self.settings.resync_seconds + self.settings.stuck_seconds
        if self.watcher is not None and (seconds := self.watcher.since_resync()) > limit:
            problems.append(f"the last attempt to list the cluster ended {seconds:.0f} s ago")
        return "; ".join(problems)

    def _unready(self) -> str:
        if self.leading.is_set() and not self.watching.is_set():
            return f"the watch has not started yet; {self.unread}".rstrip("; ")
        return ""


def _leaves(group: BaseExceptionGroup[FoveaError]) -> Iterator[FoveaError]:
    for error in group.exceptions:
        yield from _leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, FoveaError) else type(error).__name__


async def _run(settings: Settings) -> int:
    operator = Operator(settings, await load_configuration())
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, operator.stop.set)
    return await operator.run()


def main(args: Sequence[str] = ()) -> int:
    """Runs the operator. `args` are flags, see `settings.Settings`. Returns the exit code."""
    try:
        settings = Settings.read(args)
    except FoveaError as error:
        print(f"fovea operator: {error}", file=sys.stderr)
        return 2
    set_up(settings.log_level, settings.log_format)
    return asyncio.run(_run(settings))
