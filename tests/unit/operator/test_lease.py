"""When a leader stops. Seconds pass on the clock of an event loop that does not wait; the API server is a stand-in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from fovea_operator.client import Conflict, NotFound, Unreachable
from fovea_operator.lease import Election, Lease, LeaseLost
from fovea_operator.settings import Settings

from tests.unit.operator.clock import Clock

SETTINGS = Settings(lease_seconds=15, lease_renew_deadline_seconds=10, lease_retry_seconds=2)


class Server:
    """Takes `slow` seconds for each answer, and fails from the renewal of number `good` on in the given way.

    Like a real one it refuses what was changed since it was read.
    """

    def __init__(self, slow: float, good: int, failure: str) -> None:
        self.slow, self.good, self.failure = slow, good, failure
        self.lease: dict[str, Any] | None = None
        self.sent: list[float] = []
        """When the renewals were sent that went through."""
        self.last = 0.0
        """When the last request began or was given up."""

    async def _answer(self) -> float:
        clock = asyncio.get_running_loop().time
        began = self.last = clock()
        try:
            if len(self.sent) < self.good:
                await asyncio.sleep(self.slow)
            elif self.failure == "silent":
                await asyncio.sleep(3600)
            else:
                await asyncio.sleep(self.slow)
                raise Unreachable("down") if self.failure == "down" else Conflict("somebody else writes")
        finally:
            self.last = clock()
        return began

    async def get(self, key: object) -> dict[str, Any] | None:
        await self._answer()
        return self.lease

    async def create(self, kind: object, lease: dict[str, Any]) -> dict[str, Any]:
        return self._write(lease, await self._answer())

    async def replace(self, key: object, lease: dict[str, Any]) -> dict[str, Any]:
        began = await self._answer()
        if self.lease is None:
            raise NotFound("no such Lease")
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("changed since it was read")
        return self._write(lease, began)

    def _write(self, lease: dict[str, Any], began: float) -> dict[str, Any]:
        self.sent.append(began)
        self.lease = lease | {"metadata": {"resourceVersion": str(len(self.sent))}}
        return self.lease


def lease_of(server: Server, identity: str = "first") -> Lease:
    return Lease(server, identity, SETTINGS, asyncio.get_running_loop().time)  # type: ignore[arg-type]


@pytest.mark.parametrize("slow", [0.0, 0.4, 0.99, 2.4])
@pytest.mark.parametrize("good", [1, 2, 5])
@pytest.mark.parametrize("failure", ["silent", "down", "conflict"])
def test_a_leader_stops_in_time_after_it_sent_its_last_renewal(slow: float, good: int, failure: str) -> None:
    server = Server(slow, good, failure)

    async def lead() -> float:
        lease = lease_of(server)
        await lease.acquire()
        with pytest.raises(LeaseLost):
            await lease.keep()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=Clock) as runner:
        stopped = runner.run(lead())
    assert len(server.sent) == good
    assert stopped - server.sent[-1] == pytest.approx(SETTINGS.lease_renew_deadline_seconds)
    assert server.last <= stopped


def test_time_between_getting_the_lease_and_keeping_it_counts() -> None:
    server = Server(0.5, 1, "silent")

    async def lead() -> float:
        lease = lease_of(server)
        await lease.acquire()
        await asyncio.sleep(20)
        with pytest.raises(LeaseLost):
            await lease.keep()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=Clock) as runner:
        assert runner.run(lead()) == pytest.approx(server.sent[-1] + 20.5)


def test_a_renewal_is_one_request_and_an_attempt_may_take_half_of_the_deadline() -> None:
    server = Server(0.0, 10**6, "")

    async def lead() -> None:
        lease = lease_of(server)
        await lease.acquire()
        server.slow = 4.9
        keeping = asyncio.create_task(lease.keep())
        await asyncio.sleep(60)
        assert not keeping.done()
        keeping.cancel()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(lead())
    assert [later - earlier for earlier, later in pairwise(server.sent[1:])] == pytest.approx([4.9] * 10)


def test_a_lease_that_somebody_deleted_is_made_again() -> None:
    server = Server(0.0, 10**6, "")

    async def lead() -> float:
        lease = lease_of(server)
        await lease.acquire()
        server.lease = None
        keeping = asyncio.create_task(lease.keep())
        await asyncio.sleep(60)
        keeping.cancel()
        return lease.left()

    with asyncio.Runner(loop_factory=Clock) as runner:
        assert runner.run(lead()) >= SETTINGS.lease_renew_deadline_seconds - SETTINGS.lease_retry_seconds
    assert server.lease is not None


def test_who_was_superseded_leads_no_more_and_writes_nothing() -> None:
    server = Server(0.0, 10**6, "")

    async def lead() -> float:
        clock = asyncio.get_running_loop().time
        first, second = lease_of(server), lease_of(server, "second")
        await first.acquire()
        began = clock()
        await second.acquire()
        assert clock() - began >= SETTINGS.lease_seconds
        with pytest.raises(LeaseLost):
            await first.keep()
        return second.left()

    with asyncio.Runner(loop_factory=Clock) as runner:
        assert runner.run(lead()) > 0
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "second"


# --- The thread ---------------------------------------------------------------------------------------------------


def election(server: Server, clock: Callable[[], float] = time.monotonic) -> Election:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        yield server

    settings = replace(SETTINGS, lease_seconds=900, lease_renew_deadline_seconds=600, lease_retry_seconds=0.1)
    return Election(connect, "first", settings, clock)


async def test_the_lease_is_kept_while_the_operators_own_loop_is_blocked() -> None:
    server = Server(0.0, 10**6, "")
    async with election(server) as elected:
        await elected.acquired()
        while len(server.sent) < 5:
            time.sleep(0.01)  # not asyncio's: nothing else happens in this loop
        assert elected.fence() > 0
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""


async def test_after_the_loss_nothing_is_written_and_the_lease_is_not_given_back() -> None:
    server, skipped = Server(0.0, 10**6, "down"), [0.0]
    elected = election(server, lambda: time.monotonic() + skipped[0])
    with pytest.raises(LeaseLost):
        elected.fence()  # not yet
    async with elected:
        await elected.acquired()
        assert 0 < elected.fence() <= 600
        server.good = 0
        skipped[0] = 600.0
        with pytest.raises(LeaseLost):
            await elected.lost()
        with pytest.raises(LeaseLost):
            elected.fence()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "first"


async def test_a_standby_can_be_stopped() -> None:
    server = Server(0.0, 0, "silent")
    async with election(server):
        while not server.last:  # it waits for the answer
            await asyncio.sleep(0.01)
    assert server.sent == []


async def test_what_ends_the_election_before_it_is_won_is_raised() -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        raise OSError("no such certificate")
        yield

    async with Election(connect, "first", SETTINGS) as elected:
        with pytest.raises(OSError, match="no such certificate"):
            await elected.acquired()
