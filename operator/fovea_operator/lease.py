"""Leader election by a coordination.k8s.io Lease, by the rules of client-go, in a thread of its own.

A standby waits until the Lease has not changed for its whole duration by the standby's own clock, so clocks need not
agree. A leader stops `lease_renew_deadline_seconds`, which is shorter, after it sent the last renewal that went
through: nobody can have seen that renewal before it was sent, so nobody's wait ends earlier. (The kubernetes package's
own election cannot create its Lease in 37.0.2, and ends at the first broken connection.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from fovea_api.errors import FoveaError

from fovea_operator.client import Api, ApiError, Conflict, NotFound
from fovea_operator.objects import LEASE, JsonObject, Key, mapping, number, text
from fovea_operator.settings import Settings

logger = logging.getLogger(__name__)


class LeaseLost(FoveaError):
    """The Lease could not be renewed in time; another replica may lead."""


class Lease:
    """The right to work, as long as it is kept."""

    def __init__(
        self, api: Api, identity: str, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._key = Key(LEASE, settings.lease_namespace, settings.lease_name)
        self._seen: JsonObject = {}
        """The Lease as it was when it last changed."""
        self._since = 0.0
        """When we saw that."""
        self._renewed = -math.inf
        """When we sent the newest renewal that went through."""

    async def acquire(self) -> None:
        """Waits until we lead."""
        while not await self._try(self._settings.lease_renew_deadline_seconds / 2):
            await asyncio.sleep(self._settings.lease_retry_seconds)

    async def keep(self) -> None:
        """Renews for as long as it works. Raises LeaseLost.

        An attempt gets half of the deadline: a loaded API server has time to answer, and one that swallowed a request
        is asked a second time. After an answer that took longer than the pause the next attempt begins at once.
        """
        began = self._clock()
        while (left := self.left()) > 0:
            await asyncio.sleep(min(max(0.0, began + self._settings.lease_retry_seconds - self._clock()), left))
            began = self._clock()
            if (left := self.left()) > 0:
                await self._try(min(self._settings.lease_renew_deadline_seconds / 2, left))
        raise LeaseLost("the Lease could not be renewed in time", str(self._key))

    def left(self) -> float:
        """Seconds for which the last renewal still gives us the right to work. Safe to call from any thread."""
        return self._renewed + self._settings.lease_renew_deadline_seconds - self._clock()

    async def release(self) -> None:
        """Gives the Lease back, if we hold it, so that another replica need not wait for its end."""
        self._renewed = -math.inf
        try:
            async with asyncio.timeout(self._settings.lease_retry_seconds):
                lease = await self._api.get(self._key)
                if lease is not None and text(lease, "spec", "holderIdentity") == self._identity:
                    await self._api.replace(self._key, lease | {"spec": self._spec(lease, "")})
        except (ApiError, TimeoutError) as error:
            logger.warning("the Lease could not be given back: %s", error)

    async def _try(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._renew() or await self._acquire()
        except (ApiError, TimeoutError) as error:
            logger.debug("the Lease was not acquired or renewed: %s", error)
            return False

    async def _renew(self) -> bool:
        """Renews our Lease as we know it, without reading it first. Returns whether it still was as we knew it."""
        if text(self._seen, "spec", "holderIdentity") != self._identity:
            return False
        try:
            await self._write(self._seen)
        except (Conflict, NotFound):
            return False
        return True

    async def _acquire(self) -> bool:
        """Reads the Lease and takes it where it is free, ours, or has not changed for its duration."""
        lease = await self._api.get(self._key)
        if lease is None:
            metadata: JsonObject = {"name": self._key.name, "namespace": self._key.namespace}
            await self._write({"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata})
            return True
        if text(lease, "metadata", "resourceVersion") != text(self._seen, "metadata", "resourceVersion"):
            self._seen, self._since = lease, self._clock()
        held = number(lease, "spec", "leaseDurationSeconds")
        if text(lease, "spec", "holderIdentity") not in ("", self._identity) and self._clock() - self._since < held:
            return False
        await self._write(lease)
        return True

    async def _write(self, lease: JsonObject) -> None:
        """Makes the Lease ours from now on; one without a resource version is created."""
        sent = self._clock()
        manifest = lease | {"spec": self._spec(lease, self._identity)}
        if text(lease, "metadata", "resourceVersion"):
            self._seen = await self._api.replace(self._key, manifest)
        else:
            self._seen = await self._api.create(LEASE, manifest)
        self._renewed = self._since = sent

    def _spec(self, lease: JsonObject, holder: str) -> JsonObject:
        old = dict(mapping(lease, "spec"))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if text(old, "holderIdentity") != holder:
            old |= {"acquireTime": now, "leaseTransitions": number(old, "leaseTransitions") + 1}
        return old | {
            "holderIdentity": holder,
            "renewTime": now,
            "leaseDurationSeconds": self._settings.lease_seconds if holder else 1,
        }


class Election:
    """Acquires, renews and releases a Lease in a thread with an event loop and connections of its own.

    So a burst of reconciles, or a fault that keeps the operator's own loop busy, delays no renewal.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Api]],
        identity: str,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._acquired: Future[None] = Future()
        self._ended: Future[None] = Future()
        """Fails with LeaseLost, or with what ended the thread."""
        self._lease: Lease | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: the thread has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, self._settings.lease_seconds)

    async def acquired(self) -> None:
        """Waits until we lead. Raises what ended the election before."""
        await asyncio.shield(asyncio.wrap_future(self._acquired))

    async def lost(self) -> None:
        """Waits until we lead no more. Raises LeaseLost."""
        await asyncio.shield(asyncio.wrap_future(self._ended))

    def left(self) -> float:
        """Seconds for which we have the right to work. Zero or less: not, or no longer."""
        return self._lease.left() if self._lease is not None else -math.inf

    def fence(self) -> float:
        """Seconds in which a write must have been sent. Raises LeaseLost when there are none."""
        if (left := self.left()) <= 0:
            raise LeaseLost("nothing is written any more: the Lease was not renewed in time")
        return left

    def _work(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._elect())
        except BaseException as error:
            if not self._acquired.done():
                self._acquired.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _elect(self) -> None:
        async with self._connect() as api:
            self._lease = lease = Lease(api, self._identity, self._settings, self._clock)
            stopped = asyncio.create_task(self._stop.wait())
            leading = asyncio.create_task(self._lead(lease))
            await asyncio.wait((stopped, leading), return_when=asyncio.FIRST_COMPLETED)
            if leading.done():  # lost: what was being written may arrive yet, so the next leader has to wait
                leading.result()
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
            await lease.release()

    async def _lead(self, lease: Lease) -> None:
        await lease.acquire()
        self._acquired.set_result(None)
        await lease.keep()
