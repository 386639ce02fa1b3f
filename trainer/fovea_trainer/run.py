"""`fovea run`: what a run's pod executes. Reads its spec from the environment, adopts or makes the result.

Exits with 0 after the result is in the store and in the Run's status; with 1 where trying again cannot help, with 75
where it can: at once, or when the infrastructure works again.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from types import FrameType

from fovea_api import dataset
from fovea_api.errors import FoveaError, Interrupted, Recoverable, Retryable
from fovea_api.run import MAX_VERSIONS, CleanupRecipe, Progress, RunError, RunResult, RunSpec, RunType, read_recipe
from fovea_store import StorePath, claim_store
from fovea_store.errors import outside_cause

from fovea_trainer.cleanup import clean_up
from fovea_trainer.data.findings import Finding
from fovea_trainer.data.text import writable
from fovea_trainer.environment import RunEnvironment, read_environment
from fovea_trainer.fingerprint import fingerprints
from fovea_trainer.logs import kept_log, log_to_stdout
from fovea_trainer.reporting import Reporter, StatusReporter, StatusUnavailable
from fovea_trainer.results import LOG, find_result, folder_of, forget_other_inputs, owner_folder, write_result
from fovea_trainer.tuning.errors import SweepFailed

FAILED, MESSAGE_LIMIT = 1, 4000

log = logging.getLogger(__name__)


def execute(spec: RunSpec, environment: RunEnvironment, reporter: Reporter) -> RunResult:
    """The result of the run, adopted from the store or made and stored there. A cleanup leaves none in the store, and
    an engine lies there under its own key.

    Adopted is only what was made by an equal run from what its inputs hold now. The store is the run's owner's, as
    `check_store` has seen to.
    """
    owner = spec.owner
    log.info(
        "run %s, attempt %d: %s of %s %s", environment.name, environment.attempt, spec.type, owner.kind, owner.name
    )
    if spec.type is RunType.CLEANUP:
        return _clean_up(spec, reporter)
    if spec.type is RunType.ENGINE_BUILD:
        return _build_engine(spec, environment, reporter)
    read = fingerprints(spec)
    stored = find_result(spec, environment.name, read)
    if stored is not None:
        log.info("the store has the result of an equal run, which is taken: %s", stored.artifact)
        done = Progress(stage="Done", percent=100, message="adopted from the store")
        if (training := stored.training) is not None:
            done = done.model_copy(update={"epoch": training.epochs, "epochs": training.epochs, "best": training.best})
        reporter.report(done)
        return stored
    recorded = _record(spec, environment, reporter) if spec.type is RunType.DATASET_BUILD else None
    if recorded is not None:
        read = fingerprints(spec)  # with the frames that this run has added: it is these that the build reads
    forget_other_inputs(spec, environment.name, read)
    folder = folder_of(spec, environment.name)
    if spec.type is RunType.DATASET_BUILD:
        result = _build(spec, environment, reporter, recorded or ())
    elif spec.type is RunType.TUNING_SWEEP:
        from fovea_trainer.tuning.run import tune

        result = tune(spec, environment, reporter)
    else:
        from fovea_trainer.training.run import train

        result = train(spec, environment, reporter)
    result = result.model_copy(
        update={"completed_at": datetime.now(UTC), "logs": None if environment.status is None else str(folder / LOG)}
    )
    write_result(spec, environment.name, read, result)
    return result


def check_store(spec: RunSpec, environment: RunEnvironment) -> None:
    """Sees to it that the store is the run's owner's, before anything is written there. Raises StoreOwnedByAnother."""
    if environment.owner is not None:
        marks = spec.type is not RunType.CLEANUP
        claim_store(StorePath.parse(spec.store), environment.owner, environment.adopt, write=marks)


def _record(spec: RunSpec, environment: RunEnvironment, reporter: Reporter) -> tuple[Finding, ...] | None:
    """Records the live streams of a build, and says what was wrong with them. None: it has no such sources."""
    from fovea_trainer.data.recordings import record

    recipe = read_recipe(spec.type, spec.recipe, dataset.Recipe)
    if not any(source.live for source in recipe.sources):
        return None
    return record(recipe, owner_folder(spec.store, spec.owner), environment.name, reporter.report)


def _build(spec: RunSpec, environment: RunEnvironment, reporter: Reporter, recorded: Sequence[Finding]) -> RunResult:
    from fovea_trainer.data.build import build_dataset
    from fovea_trainer.data.version import stored_versions

    built = build_dataset(
        read_recipe(spec.type, spec.recipe, dataset.Recipe),
        name=spec.owner.name,
        store_root=spec.store,
        parent=spec.inputs.parent,
        model=spec.inputs.prelabel,
        work_dir=environment.work_dir / "build",
        workers=spec.execution.workers,
        progress=reporter.report,
        recorded=recorded,
    )
    return RunResult(
        completed_at=datetime.now(UTC),
        artifact=built.artifact,
        digest=built.digest,
        report=built.report,
        dataset=built.summary,
        versions=stored_versions(owner_folder(spec.store, spec.owner))[:MAX_VERSIONS],
    )


def _clean_up(spec: RunSpec, reporter: Reporter) -> RunResult:
    recipe = CleanupRecipe.model_validate(dict(spec.recipe))
    left = clean_up(spec.owner, spec.store, recipe, reporter.report)
    return RunResult(completed_at=datetime.now(UTC), versions=left[:MAX_VERSIONS])


def _build_engine(spec: RunSpec, environment: RunEnvironment, reporter: Reporter) -> RunResult:
    from fovea_trainer.engine import build_engine

    result = build_engine(spec, environment.work_dir, reporter.report)
    logs = None if environment.status is None else str(folder_of(spec, environment.name) / LOG)
    return result.model_copy(update={"logs": logs})


def _word(name: str) -> str:
    """A reason as conditions write it; Ray names classes such as RayTaskError(ValueError)."""
    return "".join(part for part in re.split("[^A-Za-z0-9]", name) if part)


def failure(error: BaseException, logs: str | None = None) -> RunResult:
    """What is reported of a run that failed, and where its log is kept.

    Final is what the work itself says of its input. The infrastructure is at fault where a store, a disk or credentials
    are; what nobody foresaw may have been the machine's, and is tried again.
    """
    outside = outside_cause(error)
    known = outside if outside is not None else error
    foreseen = isinstance(known, FoveaError)
    reason = known.reason if isinstance(known, FoveaError) else _word(type(known).__name__)
    message = str(known) if foreseen else f"{type(known).__name__}: {known}"
    found = known if isinstance(known, SweepFailed) else SweepFailed("")
    return RunResult(
        completed_at=datetime.now(UTC),
        logs=logs,
        report=found.report,
        sweep=found.summary,
        error=RunError(
            reason=reason,
            message=writable(message)[-MESSAGE_LIMIT:] or reason,
            retryable=not foreseen or isinstance(known, Retryable | Recoverable),
            recoverable=outside is not None,
        ),
    )


def main(only_check: bool = False) -> int:
    """The entry of a run's pod; gives the exit code. `only_check`: whether the store is the owner's, and no more."""
    log_to_stdout()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        spec, environment = read_environment(os.environ)
    except FoveaError as error:
        log.error("%s", error)
        return error.exit_code
    assert environment.status is not None
    environment.work_dir.mkdir(parents=True, exist_ok=True)
    # A cleanup's log would lie in what it deletes.
    kept = None if spec.type is RunType.CLEANUP else folder_of(spec, environment.name) / LOG
    logs = None if kept is None else str(kept)
    with StatusReporter(environment.status) as reporter, ExitStack() as stack:
        try:
            check_store(spec, environment)
            if only_check:
                return 0
            if kept is not None:
                stack.enter_context(kept_log(kept, environment))
            result = execute(spec, environment, reporter)
        except BaseException as error:
            known = isinstance(error, FoveaError)
            log.error("the run ended early: %s", error, exc_info=None if known else error)
            # After an interruption the next attempt goes on: nothing has failed.
            reported = isinstance(error, Interrupted) or _report(reporter, failure(error, logs), environment)
            code = error.exit_code if isinstance(error, FoveaError) else FAILED
            return Retryable.exit_code if outside_cause(error) is not None or not reported else code
        log.info("the run is done%s", f": {result.artifact}" if result.artifact else "")
        return 0 if _report(reporter, result, environment) else Retryable.exit_code


def _report(reporter: Reporter, result: RunResult, environment: RunEnvironment) -> bool:
    """Whether the result has arrived; what has not, the next attempt reports, which finds it in the store."""
    try:
        reporter.finish(result.model_copy(update={"attempt": environment.attempt}))
    except (StatusUnavailable, Interrupted) as error:
        log.error("the result could not be reported: %s", error)
        return False
    return True


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("the pod was asked to stop", None, "the next attempt goes on from the last checkpoint")
