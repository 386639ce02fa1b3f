"""One trial: a training of the very trainer, up to a milestone or to the end, and what it is worth."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fovea_api.common import Metrics
from fovea_api.errors import Interrupted
from fovea_api.run import RunSpec, RunType, run_identity
from fovea_api.trainingjob import Recipe
from fovea_store import StorePath
from pydantic import JsonValue

from fovea_trainer.environment import RunEnvironment
from fovea_trainer.training.context import Context
from fovea_trainer.training.finish import measure
from fovea_trainer.training.fitting import fitted, total_epochs
from fovea_trainer.training.loop import fit, has_ended
from fovea_trainer.training.state import State
from fovea_trainer.training.stored_checkpoints import StoredCheckpoints
from fovea_trainer.training.trained import restore
from fovea_trainer.training.training_run import TrainingRun


@dataclass(frozen=True, slots=True)
class Job:
    """A part of a trial, to be worked on by one process.

    Args:
        name: Name of the trial.
        number: Number of the trial.
        spec: The training that it is, as a run spec.
        environment: Where the sweep works.
        folder: The trial's folder in the store.
        until: Epochs after which it pauses. 0: at the end.
        deadline: When it pauses wherever it is, in seconds since 1970: what the budget still allows, waiting for a
            worker included. None: no limit.
        measured: Whether what does not change with the epochs (latency, size, complexity) is known already.
    """

    name: str
    number: int
    spec: RunSpec
    environment: RunEnvironment
    folder: str
    until: int
    deadline: float | None = None
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a part of a trial.

    Args:
        curve: Metrics after each epoch from the first on.
        total: Epochs of the whole training.
        artefact: Metrics of the exported artefact.
        ended: Whether the training is over and measured.
        cut: Whether it paused because its time was over, before the milestone.
        seconds: Time that it took.
        error: Why it failed; empty: it did not.
    """

    curve: Sequence[Metrics] = ()
    total: int = 0
    artefact: Mapping[str, float] = field(default_factory=dict)
    ended: bool = False
    cut: bool = False
    seconds: float = 0.0
    error: str = ""


def trial_spec(sweep: RunSpec, recipe: Recipe, frozen: Mapping[str, JsonValue]) -> RunSpec:
    """A trial as a training of the sweep's owner."""
    identity = run_identity(RunType.TRAINING, sweep.owner, recipe, sweep.inputs)
    update = {"type": RunType.TRAINING, "identity": identity, "recipe": dict(frozen), "success_criteria": ()}
    inputs = sweep.inputs.model_copy(update={"earlier_trials": None})
    return sweep.model_copy(update={**update, "inputs": inputs})


class TrialContext(Context, Protocol):
    """What a part of a trial needs of its surroundings."""

    @property
    def out_of_time(self) -> bool:
        """Whether it stops because the budget allows no more."""


class InProcess(StoredCheckpoints):
    """A trial in this process."""

    def __init__(self, job: Job, stop: threading.Event, heard: Callable[[], None]) -> None:
        super().__init__(StorePath.parse(job.folder), job.environment.work_dir, stop, heard)
        self._job = job

    @property
    def out_of_time(self) -> bool:
        return self._job.deadline is not None and time.time() >= self._job.deadline

    def stopping(self) -> bool:
        return super().stopping() or self.out_of_time


def work(job: Job, context: TrialContext) -> Outcome:
    """Trains a part of a trial; on several workers each does its share, and the first one measures. Raises what a
    training raises, and Interrupted when it was asked to stop."""
    began = time.monotonic()
    run = TrainingRun(job.spec, job.environment)
    version = run.open()
    recipe = fitted(run.recipe, version)
    total = total_epochs(recipe)
    until = job.until if 0 < job.until < total else None
    state = context.resume()
    if state is None or not (has_ended(recipe, state) or (until is not None and state.epoch >= until)):
        plan = run.plan(context.rank, tracked=False, until=until)
        try:
            state = fit(run.recipe, version, context, plan)
        except Interrupted:
            if not context.out_of_time:
                raise
            state = context.resume()
            assert state is not None
            return Outcome(_curve(state), total, cut=True, seconds=time.monotonic() - began)
    ended = has_ended(recipe, state)
    known = (job.measured and not ended) or context.rank > 0
    artefact = {} if known else _measured(run, state, splits=ended)
    return Outcome(_curve(state), total, artefact, ended, seconds=time.monotonic() - began)


def _curve(state: State) -> tuple[dict[str, float], ...]:
    finite = math.isfinite
    return tuple({name: value for name, value in epoch.items() if finite(value)} for epoch in state.history)


def _measured(run: TrainingRun, state: State, *, splits: bool) -> dict[str, float]:
    """Metrics of the artefact that these weights make: size, latency and complexity, and with `splits` the quality on
    the validation split."""
    with tempfile.TemporaryDirectory(prefix="fovea-trial-") as folder:
        return measure(restore(run, state), Path(folder), splits=splits)
