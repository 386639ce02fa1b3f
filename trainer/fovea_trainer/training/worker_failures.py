"""Which failures of Ray's workers end the attempt. Ray itself only counts failures, and repeats all of them alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ray.exceptions
from fovea_api.errors import FoveaError, Retryable
from fovea_store.errors import causes, first_line
from ray.train import Checkpoint, UserCallback

FAILURES_IN_VAIN = 3
"""Failures in a row without a checkpoint in between after which the attempt fails: workers lost by chance get on."""


class WorkersLost(Retryable):
    """The workers of Ray could not go on."""


class OutOfMemory(Retryable):
    """A worker needed more memory than it may use. The operator repeats it once at one and the same limit."""


def of_memory(error: BaseException) -> OutOfMemory | None:
    """The lack of memory behind an error: of a GPU, of a process, or of its container by Ray's memory monitor."""
    import torch

    for each in causes(error):
        if isinstance(each, torch.OutOfMemoryError):
            what = f"the memory of the GPU is too small: {first_line(each)}"
            return OutOfMemory(what, None, "lower training.batchSize and raise gradientAccumulationSteps as much")
        if isinstance(each, MemoryError | ray.exceptions.OutOfMemoryError):
            what = f"a worker needed more memory than it may use: {first_line(each)}"
            return OutOfMemory(what, None, "raise spec.compute.resources.limits.memory")
    return None


def ends_attempt(errors: Iterable[BaseException], in_vain: int) -> FoveaError | None:
    """The error that ends the attempt; None: Ray starts the workers again, from the last checkpoint.

    Args:
        errors: What the workers of one group failed of.
        in_vain: Failures in a row without a checkpoint in between, this one included.
    """
    known = list(errors)
    if (lack := next(filter(None, map(of_memory, known)), None)) is not None:
        return lack
    if in_vain < FAILURES_IN_VAIN:
        return None
    return WorkersLost(f"the workers failed {in_vain} times without reaching a checkpoint, at last of: {known[0]}")


class WorkerFailures(UserCallback):
    """Hands an error that ends the attempt to the workers that Ray starts next, which end at once.

    Runs in the controller of Ray Train.

    Args:
        final_error: Actor that remembers the error.
    """

    def __init__(self, final_error: Any) -> None:
        self._final_error = final_error
        self._in_vain = 0

    def after_report(self, run_context: object, metrics: object, checkpoint: Checkpoint | None) -> None:
        """A checkpoint: what was lost before it does not recur."""
        if checkpoint is not None:
            self._in_vain = 0

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """One or more workers have failed. A node that was preempted counts as no failure."""
        if any(getattr(each, "preempted", False) for error in worker_exceptions.values() for each in causes(error)):
            return
        self._in_vain += 1
        if (error := ends_attempt(worker_exceptions.values(), self._in_vain)) is not None:
            self._final_error.set.remote(error)
