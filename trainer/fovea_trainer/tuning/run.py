"""A sweep from its run spec to what it leaves in the store: trials on Ray or in this process, then the report."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from fovea_api.errors import FoveaError, Interrupted, InvalidInput, Recoverable
from fovea_api.run import RunResult, RunSpec, read_recipe, run_name
from fovea_api.tuningsweep import SweepRecipe, study_identity
from fovea_store import StorePath
from fovea_store.errors import outside_cause

from fovea_trainer.data.version import open_version
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.reporting import Reporter
from fovea_trainer.results import owner_folder
from fovea_trainer.training.run import asked_to_stop, worker_resources
from fovea_trainer.tuning.errors import SweepFailed, TrialLost
from fovea_trainer.tuning.journal import Journal
from fovea_trainer.tuning.manifest import SWEEPS, earlier_trials, leave
from fovea_trainer.tuning.study import Study
from fovea_trainer.tuning.table import TrialListener
from fovea_trainer.tuning.trial import InProcess, Job, Outcome, work

STUDIES = "studies"

log = logging.getLogger(__name__)


def study_folder(spec: RunSpec, recipe: SweepRecipe) -> StorePath:
    """Where the journal lies: runs that differ in how many trials they make share it."""
    identity = study_identity(spec.owner, recipe, spec.inputs, spec.nonce)
    return owner_folder(spec.store, spec.owner) / STUDIES / run_name(identity)


def tune(spec: RunSpec, environment: RunEnvironment, reporter: Reporter) -> RunResult:
    """Makes the trials of a sweep, or goes on where the journal ends; leaves manifest and report in the store.

    Raises:
        TooManyTrialsFailed, BudgetTooSmall, NoTrialWithinLimits: there is nothing to choose; what was found stays in
            the journal, and manifest and report are written all the same.
        Interrupted: it was asked to stop; the next attempt goes on.
        TakenOver: another process goes on with it already.
    """
    recipe = read_recipe(spec.type, spec.recipe, SweepRecipe)
    assert spec.inputs.dataset is not None
    version = open_version(spec.inputs.dataset.artifact, environment.work_dir / "versions")
    if not version.manifest.splits.get("validation"):
        raise InvalidInput(
            "there is no validation split, on which trials are compared",
            "spec.template.spec.datasetRef",
            "give validation a share in the Dataset's splits.ratios",
        )
    folder = study_folder(spec, recipe)
    reserved, workers = worker_resources(spec.execution), spec.execution.workers if environment.ray else 1
    study = Study(
        spec, recipe, environment, Journal(folder), earlier_trials(spec.inputs.earlier_trials),
        (workers * reserved["CPU"], workers * reserved.get("GPU", 0.0)),
    )  # fmt: skip
    if study.entries:
        log.info("the journal has %d trials, with which the sweep goes on", len(study.entries))

    def heard() -> None:
        if isinstance(reporter, TrialListener):
            reporter.trials(study)
        reporter.report(study.progress())

    error: SweepFailed | None = None
    try:
        if environment.ray:
            from fovea_trainer.tuning.ray_tune import carry_out

            carry_out(study, heard)
        else:
            _carry_out(study, heard)
    except SweepFailed as failed:
        error = failed
    study.finish()
    error = error or study.why_nothing()
    heard()
    left = leave(study, owner_folder(spec.store, spec.owner) / SWEEPS)
    reporter.report(study.progress().model_copy(update={"stage": "Done", "percent": 100}))
    if error is not None:
        error.summary, error.report = study.summary(), left.report
        log.info("report: %s", left.report)
        raise error
    return RunResult(
        completed_at=datetime.now(UTC),
        artifact=left.artifact,
        digest=left.digest,
        report=left.report,
        metrics={} if (best := study.best()) is None else dict(best.artefact),
        sweep=study.summary(),
    )


def _carry_out(study: Study, heard: Callable[[], None]) -> None:
    """One job after the other, in this process."""

    def tick() -> None:
        if study.tick():
            heard()

    if study.spec.execution.parallel_trials > 1:
        log.info("one trial is trained after the other in this process; --ray trains several at a time")
    with asked_to_stop() as stop:
        heard()
        while not stop.is_set() and (job := study.next()) is not None:
            heard()
            try:
                outcome = attempt(job, stop, tick)
            except BaseException:  # no fault of the trial's
                study.abandoned(job)
                raise
            study.done(job, outcome)
            heard()
    if stop.is_set() and study.ended is None:
        raise Interrupted("the sweep was stopped", None, "the same command goes on")


def attempt(job: Job, stop: threading.Event | None = None, heard: Callable[[], None] = lambda: None) -> Outcome:
    """Works on a job, and calls `heard` every few seconds; an error of the trial is its outcome. Raises what is no
    fault of the trial: Interrupted, TrialLost, and faults of the surroundings."""
    began = time.monotonic()
    try:
        if job.environment.ray and job.spec.execution.workers > 1:
            from fovea_trainer.tuning.workers import work_on_workers

            return work_on_workers(job)
        return work(job, InProcess(job, stop or threading.Event(), heard))
    except (Interrupted, TrialLost):
        raise
    except Exception as error:
        outside = outside_cause(error)
        if outside is not None:
            raise outside from error
        if isinstance(error, Recoverable):
            raise
        known = isinstance(error, FoveaError)
        if not known:
            log.exception("%s failed", job.name)
        words = str(error) if known else f"{type(error).__name__}: {error}"
        return Outcome(error=words[:2000], seconds=time.monotonic() - began)
