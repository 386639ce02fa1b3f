"""Two operators on one API server: the leader dies or hangs in the middle of its work, and the other finishes it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fovea_api import names
from fovea_operator.objects import RAY_JOB, RUN
from fovea_operator.settings import Settings
from kubernetes import client

from tests.controlplane.test_operator import World, built, kuberay_crds, training, world
from tests.ports import free_port

__all__ = ["kuberay_crds", "world"]  # fixtures

TIMES = ("lease_seconds", "lease_renew_deadline_seconds", "lease_retry_seconds")
"""Settings that are those of production here."""
COMMAND = (sys.executable, "-c", "import sys; from fovea_operator.main import main; sys.exit(main(sys.argv[1:]))")


@dataclass(frozen=True)
class Replica:
    """An operator in a process of its own."""

    process: asyncio.subprocess.Process
    name: str
    port: int

    async def requests(self) -> float:
        """Requests to the API server so far, without those about the Lease."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        counted = [line for line in lines if line.startswith("fovea_api_requests_total") and 'kind="Lease"' not in line]
        return sum(float(line.rpartition(" ")[2]) for line in counted)

    def cpu_seconds(self) -> float:
        """Seconds of a core that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def replica(world: World, name: str, **changed: Any) -> AsyncIterator[Replica]:
    port = free_port()
    times = {name: getattr(Settings(), name) for name in TIMES}
    settings = dataclasses.asdict(world.settings(port=port, **times, **changed))
    flags = [f"--{flag.replace('_', '-')}={value}" for flag, value in settings.items()]
    process = await asyncio.create_subprocess_exec(*COMMAND, *flags, env={**os.environ, "HOSTNAME": name})
    try:
        yield Replica(process, name, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        await process.wait()


def lease(world: World) -> Any:
    """The spec of the Lease."""
    return client.CoordinationV1Api(world.plane.api).read_namespaced_lease("fovea-operator", world.namespace).spec


def leads(world: World, replica: Replica) -> bool:
    with contextlib.suppress(client.ApiException):
        return str(lease(world).holder_identity).startswith(f"{replica.name}-")
    return False


async def apply_jobs(world: World, numbers: Iterable[int]) -> None:
    await world.apply(*(training() | {"metadata": {"name": f"job-{number}"}} for number in numbers))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["it dies", "it hangs"])
async def test_another_finishes_what_a_leader_began(world: World, how: signal.Signals) -> None:
    jobs, more = 12, 4
    async with replica(world, "first") as first:
        await world.until(lambda: leads(world, first))
        await built(world)
        async with replica(world, "second") as second:
            await apply_jobs(world, range(jobs))
            await world.until(lambda: world.all(RAY_JOB))
            first.process.send_signal(how)
            await apply_jobs(world, range(jobs, jobs + more))  # it may have been done with the others by then
            jobs += more
            await world.until(lambda: leads(world, second))
            await world.until(lambda: len(world.all(RAY_JOB)) == jobs)
            await world.until(lambda: len(world.events("AttemptStarted")) == jobs + 1)  # and that of the build
            if how is signal.SIGSTOP:
                first.process.send_signal(signal.SIGCONT)
                async with asyncio.timeout(120):
                    assert await first.process.wait() == 1  # it lost the Lease and leaves at once
            await asyncio.sleep(1)
            assert leads(world, second)
            children = world.all(RAY_JOB)
            assert {each["metadata"]["name"].rpartition("-")[2] for each in children} == {"1"}
            owners = [each["metadata"]["labels"][names.LABEL_NAME] for each in children]
            assert sorted(owners) == sorted(f"job-{index}" for index in range(jobs))
            runs = [each for each in world.all(RUN) if each["spec"]["type"] == "Training"]
            assert [len(each["status"]["attempts"]) for each in runs] == [1] * jobs
            assert len(world.events("AttemptStarted")) == jobs + 1
