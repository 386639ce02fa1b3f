"""When a leader stops. Seconds pass on the clock of an event loop that does not wait; the API server is a stand-in."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import pytest
from fovea_operator.client import Conflict, Unreachable
from fovea_operator.lease import Lease, LeaseLost
from fovea_operator.settings import Settings

SETTINGS = Settings(lease_seconds=15, lease_renew_deadline_seconds=10, lease_retry_seconds=2)


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


class Server:
    """Takes `slow` seconds for each answer, and fails from the renewal of number `good` on in the given way."""

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

    async def create(self, kind: object, lease: dict[str, Any]) -> None:
        began = await self._answer()
        self.lease = lease | {"metadata": {"resourceVersion": "1"}}
        self.sent.append(began)

    async def replace(self, key: object, lease: dict[str, Any]) -> None:
        began = await self._answer()
        self.lease = lease
        self.sent.append(began)


@pytest.mark.parametrize("slow", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("good", [1, 2, 5])
@pytest.mark.parametrize("failure", ["silent", "down", "conflict"])
def test_a_leader_stops_in_time_after_it_sent_its_last_renewal(slow: float, good: int, failure: str) -> None:
    server = Server(slow, good, failure)

    async def lead() -> float:
        lease = Lease(server, "first", SETTINGS)  # type: ignore[arg-type]
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
        lease = Lease(server, "first", SETTINGS)  # type: ignore[arg-type]
        await lease.acquire()
        await asyncio.sleep(20)
        with pytest.raises(LeaseLost):
            await lease.keep()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=Clock) as runner:
        assert runner.run(lead()) == pytest.approx(server.sent[-1] + 20.5)
