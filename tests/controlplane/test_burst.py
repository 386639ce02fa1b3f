"""Many objects at once while the machine is busy: the Lease is kept, and afterwards the operator is at rest."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fovea_operator.objects import RAY_JOB, TRAINING_JOB

from tests.controlplane.test_operator import World, built, kuberay_crds, world
from tests.controlplane.test_takeover import apply_jobs, leads, lease, replica

__all__ = ["kuberay_crds", "world"]  # fixtures

JOBS = int(os.environ.get("FOVEA_BURST", "30"))
REST = 10
"""Seconds of rest that are looked at."""
CALM_SECONDS = 180
"""In which rest has come, also on a machine that is slow."""


def _burn() -> None:
    while True:
        sum(range(10**6))


@contextmanager
def busy() -> Iterator[None]:
    """All cores have something else to do, twice over."""
    burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


@pytest.mark.timeout(900)
async def test_a_burst_on_a_busy_machine_costs_neither_the_lease_nor_rest(world: World) -> None:
    async with replica(world, "only", reference_poll_seconds=5) as only:
        await world.until(lambda: leads(world, only))
        await built(world)
        renewed = lease(world).renew_time
        began = time.monotonic()
        with busy():
            for index in range(0, JOBS, 100):
                await apply_jobs(world, range(index, min(index + 100, JOBS)))
            applied = time.monotonic()
            await world.until(lambda: len(world.all(RAY_JOB)) == JOBS, timeout=500)
        done = time.monotonic()
        await world.until(lambda: world.all(TRAINING_JOB)[-1].get("status", {}).get("phase") == "Pending")
        held = lease(world)
        assert leads(world, only)
        assert (held.lease_transitions, only.process.returncode) == (1, None)
        assert held.renew_time > renewed
        asked, used = math.inf, math.inf
        while asked >= REST + JOBS / 10:  # the statuses follow, and the resync after the start
            assert time.monotonic() - done < CALM_SECONDS, f"{asked} requests in {REST} s"
            before, cpu = await only.requests(), only.cpu_seconds()
            await asyncio.sleep(REST)
            asked, used = await only.requests() - before, (only.cpu_seconds() - cpu) / REST
        print(
            f"\n{JOBS} jobs: applied in {applied - began:.0f} s, all children after {done - began:.0f} s; "
            f"at rest {asked / REST:.1f} requests a second, {100 * used:.1f} % of a core"
        )
