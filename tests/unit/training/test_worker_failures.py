"""Which failures of Ray's workers end an attempt, by the exceptions that Ray and torch raise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fovea_api.errors import FoveaError
from fovea_trainer.training.worker_failures import WorkerFailures, ends_attempt
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

MONITOR: Exception = OutOfMemoryError(  # type: ignore[no-untyped-call]
    "Task was killed due to the node running low on memory.\nMemory on the node was 1.9GB / 2GB"
)
LOST = WorkerHealthCheckFailedError("A worker died", RayActorError(error_msg="SIGKILL"))
RECLAIMED = WorkerHealthCheckFailedError("A worker died", RayActorError(error_msg="reclaimed", preempted=True))
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
WORKER, BATCH = "spec.compute.resources.limits.memory", "training.batchSize"


class Remembered:
    """An actor's method `set`, in this process."""

    def __init__(self) -> None:
        self.errors: list[FoveaError] = []
        self.set = self

    def remote(self, error: FoveaError) -> None:
        self.errors.append(error)


def failures(*events: Any) -> list[str]:
    """Reasons of the errors that end the attempt after these events: an exception each, or a checkpoint."""
    remembered = Remembered()
    watch = WorkerFailures(remembered)
    for event in events:
        if isinstance(event, Exception):
            watch.after_exception(None, {0: ConnectionError("a peer is away"), 1: event})
        else:
            watch.after_report(None, [], event)
    return [error.reason for error in remembered.errors]


@pytest.mark.parametrize(
    ("error", "message", "remedy"),
    [
        (MONITOR, "a worker needed more memory than it may use: Task was killed due to", WORKER),
        (WorkerHealthCheckFailedError("A worker died", MONITOR), "a worker needed more memory than it may use", WORKER),
        (ControllerError(MONITOR), "a worker needed more memory than it may use: Task was killed", WORKER),
        (MemoryError(), "a worker needed more memory than it may use: MemoryError", WORKER),
        (GPU, "the memory of the GPU is too small: CUDA out of memory. Tried to allocate 2.00 GiB.", BATCH),
    ],
)
def test_a_lack_of_memory_ends_the_attempt_and_says_what_to_raise(error: Exception, message: str, remedy: str) -> None:
    found = ends_attempt([ConnectionError("a peer is away"), error], 1)
    assert found is not None
    assert (found.reason, found.exit_code) == ("OutOfMemory", 75)
    assert message in found.message
    assert remedy in (found.remedy or "")
    assert "\n" not in str(found)


def test_workers_that_fail_without_getting_on_end_the_attempt() -> None:
    checkpoint: Any = object()
    assert failures(LOST, LOST) == []
    assert failures(LOST, LOST, LOST) == ["WorkersLost"]
    assert failures(LOST, LOST, None, LOST) == ["WorkersLost"], "a report without a checkpoint saves nothing"
    assert failures(*[LOST, LOST, checkpoint] * 20) == [], "workers lost by chance get on"
    assert failures(*[RECLAIMED] * 20, LOST, LOST) == [], "a node that is reclaimed is no failure"
    assert "SIGKILL" in str(ends_attempt([LOST], 3))
