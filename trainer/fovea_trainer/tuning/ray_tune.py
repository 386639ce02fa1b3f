"""Trials on Ray Tune: each part of a trial is one of Tune's, whose searcher asks the study what is next.

So a trial that pauses or ends early has ended for Tune: its placement group goes, nothing hangs; what is known stays
in the journal, where Tune's own `restore` loses the searcher's state and failed trials (ray#30861, ray#30584). A trial
on one worker calls the trainer function itself; for one on several see `workers`. Actors are reused, so only a first
trial waits for the libraries.

A trial begins when Ray has room for it, so Ray's autoscaler never sees one that waits: with `elastic_trials` it is told
of them (`request_room`), and Tune keeps no actor while none waits, for its worker could not leave.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ray
from fovea_api.errors import FoveaError, Interrupted
from fovea_api.names import RAY_TRIAL
from fovea_api.run import Execution
from ray import tune
from ray.autoscaler.sdk import request_resources
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.search_generator import SearchGenerator

from fovea_trainer.training.run import asked_to_stop, worker_resources
from fovea_trainer.tuning.errors import TrialLost
from fovea_trainer.tuning.study import Study
from fovea_trainer.tuning.trial import Job, Outcome

DRIVER = {"CPU": 0.0, RAY_TRIAL: 1.0}
"""What a trial on several workers reserves beside them: no CPU, for Ray Train's workers would wait for what it holds
(ray#54305), but something, for Ray places nothing that asks for nothing."""
MOST_JOBS = 1_000_000
"""Parts of trials that Tune may be asked for: more than 10,000 trials have."""

log = logging.getLogger(__name__)


class _Trainable(tune.Trainable):
    """Works on one part of a trial in its only step."""

    def setup(self, config: Mapping[str, Any]) -> None:
        self._job: Job = config["job"]

    def step(self) -> dict[str, Any]:
        import torch

        from fovea_trainer.logs import log_to_stdout
        from fovea_trainer.training.run import worker_threads
        from fovea_trainer.tuning.run import attempt

        log_to_stdout()
        torch.set_num_threads(worker_threads(self._job.spec.execution))  # Ray sets one
        try:
            return {"outcome": attempt(self._job), "done": True}
        except TrialLost:  # as if its own process had died
            raise
        except FoveaError as error:  # Ray would wrap it in a text
            return {"fault": error, "done": True}

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self._job = new_config["job"]
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: object) -> None:
        pass


class _Searcher(Searcher):
    """Asks the study for jobs and reports their outcomes to it.

    Args:
        study: The study.
        heard: Called after each change.
        room: How many trials Ray has room for at a time.
        request: Called with how many of them it should have room for. None: that is fixed.
    """

    def __init__(
        self,
        study: Study,
        heard: Callable[[], None],
        room: Callable[[], int] = lambda: MOST_JOBS,
        request: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._study, self._heard, self._room, self._request = study, heard, room, request
        self._jobs: dict[str, Job] = {}
        self._waiting = 0
        """Jobs that would begin if there were room."""
        self.fault: FoveaError | None = None
        """What ends the sweep: nothing further begins."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles a searcher for its own `restore`, and the reporter of a pod cannot be pickled."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        if self.fault is not None:
            return str(Searcher.FINISHED)
        if self._jobs and len(self._jobs) >= self._room():  # what waits for a worker would count as work
            return None
        try:
            job = self._study.next()
        except FoveaError as error:
            self.fault = error
            return str(Searcher.FINISHED)
        if job is None:
            self._look_ahead()
            return None if self._jobs else str(Searcher.FINISHED)
        self._heard()
        self._jobs[trial_id] = job
        self._look_ahead()
        return {"job": job}

    @property
    def needs_no_more(self) -> bool:
        """Whether workers may leave: nothing begins until a trial at work has ended."""
        return self._request is not None and bool(self._jobs) and not self._waiting

    def _look_ahead(self) -> None:
        """Requests room for what is at work and what waits. What is at work alone keeps its workers by itself: Ray
        might take a request for as many to be for one that is idle."""
        if self._request is not None:
            most = self._study.spec.execution.parallel_trials
            self._waiting = self._study.waiting(most - len(self._jobs))
            self._request(len(self._jobs) + self._waiting if self._waiting else 0)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        outcome, fault = (result or {}).get("outcome"), (result or {}).get("fault")
        try:
            if isinstance(fault, FoveaError):
                self._study.abandoned(job)
                self.fault = self.fault or fault
            elif isinstance(outcome, Outcome):
                self._study.done(job, outcome)
            else:  # its process died: the study counts how often
                self._study.lost(job)
        except FoveaError as error:  # Tune would wrap it in a text
            self.fault = self.fault or error
        else:
            self._heard()
        self._look_ahead()

    def abandon(self) -> None:
        """What was begun and has not ended is not the fault of its trials."""
        while self._jobs:
            self._study.abandoned(self._jobs.popitem()[1])

    def save(self, checkpoint_path: str) -> None:
        pass  # the journal has everything

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Search(SearchGenerator):
    """The search as Tune sees it: over also while no worker is needed, for else Tune keeps an actor on one."""

    def __init__(self, searcher: _Searcher, most: int) -> None:
        super().__init__(ConcurrencyLimiter(searcher, max_concurrent=most))
        self._own = searcher

    def is_finished(self) -> bool:
        return bool(super().is_finished()) or self._own.needs_no_more


class _Watch(tune.Callback):
    """Counts the time while trials work, and ends them at once where nothing waits for them: Tune calls it several
    times a second, and lets its errors through."""

    def __init__(self, study: Study, searcher: _Searcher, stop: threading.Event, heard: Callable[[], None]) -> None:
        self._study, self._searcher, self._stop, self._heard = study, searcher, stop, heard

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as of the searcher."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._stop.is_set():
            raise Interrupted("the sweep was asked to stop", None, "the next attempt goes on")
        if isinstance(self._searcher.fault, Interrupted):
            raise self._searcher.fault
        if self._study.tick():
            self._heard()


def room_for(execution: Execution, cluster: Mapping[str, float]) -> int:
    """How many trials a Ray cluster of these resources has room for at a time."""
    needed = {name: execution.workers * amount for name, amount in worker_resources(execution).items() if amount}
    return int(min(cluster.get(name, 0.0) // amount for name, amount in needed.items()))


def request_room(execution: Execution, trials: int) -> None:
    """Tells Ray's autoscaler for how many trials at a time there should be workers. 0: it decides by what works."""
    request_resources(bundles=trials * execution.workers * [worker_resources(execution)])


def carry_out(study: Study, heard: Callable[[], None]) -> None:
    """Carries out a study's jobs on the Ray that is connected to, as many at once as the sweep allows and Ray has room
    for. Raises what a trial's surroundings are at fault of, what the study raises, and Interrupted."""
    execution = study.spec.execution
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    request = partial(request_room, execution) if execution.elastic_trials else None
    searcher = _Searcher(study, heard, lambda: room_for(execution, ray.cluster_resources()), request)  # type: ignore[no-untyped-call]
    resources = worker_resources(execution) if execution.workers == 1 else DRIVER
    with tempfile.TemporaryDirectory(prefix="fovea-tune-") as folder, asked_to_stop() as stop:
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, tune.PlacementGroupFactory([resources])),
            tune_config=tune.TuneConfig(
                search_alg=_Search(searcher, execution.parallel_trials),
                num_samples=MOST_JOBS,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                callbacks=[_Watch(study, searcher, stop, heard)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the folder is in this pod alone
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            searcher.abandon()
    if searcher.fault is not None:
        raise searcher.fault
    if study.ended is None:  # Tune returns as usual after Ctrl-C
        raise Interrupted("the sweep was stopped", None, "the same command goes on")
