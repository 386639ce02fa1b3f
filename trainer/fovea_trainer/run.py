"""`fovea run`: what a run's pod executes. Reads the order from the environment, adopts or makes the result.

Exits with 0 after the result is in the store and in the Run's status; with 1 where trying again cannot help, with 75
where it can.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from fovea_api import bundle, dataset, version
from fovea_api.errors import FoveaError, Interrupted, InvalidInput, Retryable
from fovea_api.run import MAX_VERSIONS, CleanupRecipe, Progress, RunError, RunOwner, RunResult, RunSpec, RunType
from pydantic import ValidationError

from fovea_trainer.reporting import Reporter, RunStatus, StatusReporter, StatusUnavailable
from fovea_trainer.store import NotFound, Place, place

LOG_UPLOAD_SECONDS = 15.0
"""Between two copies of the growing log to the store; what a killed pod can lose of it."""
RESULT, LOG = "result.json", "log.txt"
FAILED, MESSAGE_LIMIT = 1, 4000
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a run works, beside its order.

    Args:
        name: Name of the run.
        attempt: Number of the attempt, from 1.
        work_dir: Local folder for caches and intermediate files.
        ray: Whether training runs on Ray, else in this process.
        status: The Run object to report into; None: there is none.
    """

    name: str
    attempt: int
    work_dir: Path
    ray: bool
    status: RunStatus | None = None


def owner_folder(store: str, owner: RunOwner) -> Place:
    """The folder of an object in the store: all that its runs have written."""
    return place(store) / owner.kind.lower() / owner.name


def folder_of(spec: RunSpec, name: str) -> Place:
    """The run's folder in the store."""
    return runs_of(spec.store, spec.owner) / name


def runs_of(store: str, owner: RunOwner) -> Place:
    """Where the runs of an object have their folders in the store."""
    return owner_folder(store, owner) / "runs"


@dataclass(frozen=True, slots=True)
class Made:
    """A complete result in the store, and the identity of the run that made it."""

    identity: str
    result: RunResult


def find_result(spec: RunSpec, name: str) -> RunResult | None:
    """The complete result of the same identity in the store, if there is one."""
    made = read_result(folder_of(spec, name))
    return made.result if made is not None and made.identity == spec.identity else None


def read_result(folder: Place) -> Made | None:
    """The result in a run's folder; None where there is none, or what it made is no longer there."""
    try:
        content = json.loads((folder / RESULT).read_text())
        made = Made(content["identity"], RunResult.model_validate(content["result"]))
    except NotFound:
        return None
    except (ValueError, KeyError) as error:
        log.warning("%s cannot be read and is made anew: %s", folder / RESULT, error)
        return None
    if not _is_whole(made.result):
        log.warning("%s is gone; it is made anew", made.result.artifact)
        return None
    return made


def _is_whole(result: RunResult) -> bool:
    """Whether what a run made is in the store, with the file that is written last."""
    if result.artifact is None:
        return False
    return any((place(result.artifact) / commit).is_file() for commit in (version.MANIFEST, bundle.MANIFEST))


def execute(spec: RunSpec, surroundings: Surroundings, reporter: Reporter) -> RunResult:
    """The result of the run, adopted from the store or made and stored there. A cleanup leaves none in the store."""
    owner = spec.owner
    log.info(
        "run %s, attempt %d: %s of %s %s", surroundings.name, surroundings.attempt, spec.type, owner.kind, owner.name
    )
    if spec.type is RunType.CLEANUP:
        return _clean_up(spec, reporter)
    found = find_result(spec, surroundings.name)
    if found is not None:
        log.info("the store has the result of an equal run, which is taken: %s", found.artifact)
        done = Progress(stage="Done", percent=100, message="adopted from the store")
        if (training := found.training) is not None:
            done = done.model_copy(update={"epoch": training.epochs, "epochs": training.epochs, "best": training.best})
        reporter.tell(done)
        return found
    folder = folder_of(spec, surroundings.name)
    if spec.type is RunType.DATASET_BUILD:
        result = _build(spec, surroundings, reporter)
    else:
        from fovea_trainer.training.run import train

        result = train(spec, surroundings, reporter)
    result = result.model_copy(
        update={"completed_at": datetime.now(UTC), "logs": None if surroundings.status is None else str(folder / LOG)}
    )
    (folder / RESULT).write_text(json.dumps({"identity": spec.identity, "result": result.to_dict()}, indent=1))
    return result


def _build(spec: RunSpec, surroundings: Surroundings, reporter: Reporter) -> RunResult:
    from fovea_trainer.data.build import build_dataset
    from fovea_trainer.data.version import stored_versions

    built = build_dataset(
        dataset.Recipe.model_validate(spec.recipe),
        name=spec.owner.name,
        store_root=spec.store,
        parent=spec.inputs.parent,
        work_dir=surroundings.work_dir / "build",
        workers=spec.execution.workers,
        progress=reporter.tell,
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
    from fovea_trainer.cleanup import clean_up

    recipe = CleanupRecipe.model_validate(dict(spec.recipe))
    left = clean_up(spec.owner, spec.store, recipe, reporter.tell)
    return RunResult(completed_at=datetime.now(UTC), versions=left[:MAX_VERSIONS])


def _word(name: str) -> str:
    """A reason as conditions write it; Ray names classes such as RayTaskError(ValueError)."""
    return "".join(part for part in re.split("[^A-Za-z0-9]", name) if part)


def failure(error: BaseException, logs: str | None = None) -> RunResult:
    """What is told of a run that failed, and where its log is kept."""
    known = isinstance(error, FoveaError)
    reason = error.reason if isinstance(error, FoveaError) else _word(type(error).__name__)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    return RunResult(
        completed_at=datetime.now(UTC),
        logs=logs,
        error=RunError(
            reason=reason,
            message=message[-MESSAGE_LIMIT:] or reason,
            retryable=not known or isinstance(error, Retryable),  # what nobody foresaw may have been the machine's
        ),
    )


def main() -> int:
    """The entry of a run's pod; gives the exit code."""
    log_to_stdout()
    signal.signal(signal.SIGTERM, _interrupt)
    spec, surroundings = read_environment(os.environ)
    assert surroundings.status is not None
    surroundings.work_dir.mkdir(parents=True, exist_ok=True)
    # A cleanup's log would lie in what it deletes.
    kept = None if spec.type is RunType.CLEANUP else folder_of(spec, surroundings.name) / LOG
    logs = None if kept is None else str(kept)
    with (
        StatusReporter(surroundings.status) as reporter,
        nullcontext() if kept is None else kept_log(kept, surroundings),
    ):
        try:
            result = execute(spec, surroundings, reporter)
        except BaseException as error:
            known = isinstance(error, FoveaError)
            log.error("the run ended early: %s", error, exc_info=None if known else error)
            # After an interruption the next attempt goes on: nothing has failed.
            told = isinstance(error, Interrupted) or _tell(reporter, failure(error, logs), surroundings)
            code = error.exit_code if isinstance(error, FoveaError) else FAILED
            return code if told else Retryable.exit_code
        log.info("the run is done%s", f": {result.artifact}" if result.artifact else "")
        return 0 if _tell(reporter, result, surroundings) else Retryable.exit_code


def _tell(reporter: Reporter, result: RunResult, surroundings: Surroundings) -> bool:
    """Whether the result has arrived; what has not, the next attempt tells, which finds it in the store."""
    try:
        reporter.finish(result.model_copy(update={"attempt": surroundings.attempt}))
    except (StatusUnavailable, Interrupted) as error:
        log.error("the result could not be reported: %s", error)
        return False
    return True


def log_to_stdout() -> None:
    """Makes this process log what it does; of libraries, only warnings."""
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, stream=sys.stdout)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    ours = logging.getLogger("fovea_trainer")
    ours.setLevel(logging.INFO)
    if not ours.handlers:  # one of its own: Ray has set up the root logger of its workers already
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        ours.addHandler(handler)
        ours.propagate = False


def read_environment(environment: Mapping[str, str]) -> tuple[RunSpec, Surroundings]:
    """The order and its surroundings. Raises InvalidInput."""
    try:
        spec = RunSpec.model_validate_json(environment["FOVEA_RUN"])
        name, namespace = environment["FOVEA_RUN_NAME"], environment["FOVEA_NAMESPACE"]
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
    except KeyError as error:
        raise InvalidInput(
            f"the variable {error.args[0]} is not set", None, "`fovea run` works in a run's pod only"
        ) from error
    except ValidationError as error:
        raise InvalidInput(str(error), "FOVEA_RUN") from error
    surroundings = Surroundings(
        name=name,
        attempt=int(environment.get("FOVEA_ATTEMPT", "1")),
        work_dir=Path(environment.get("FOVEA_WORK_DIR", "/fovea/work")),
        ray=spec.type is RunType.TRAINING,
        status=RunStatus(f"https://{f'[{host}]' if ':' in host else host}:{port}", namespace, name),
    )
    return spec, surroundings


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("the pod was asked to stop", None, "the next attempt goes on from the last checkpoint")


@contextmanager
def kept_log(target: Place, surroundings: Surroundings) -> Iterator[None]:
    """Keeps all that this process and its children print, in the store too; attempts follow each other in one file.

    A store that is away costs the log, never the run.
    """
    file = surroundings.work_dir / LOG
    file.parent.mkdir(parents=True, exist_ok=True)
    earlier = b""
    if surroundings.attempt > 1:
        try:
            earlier = target.read_bytes()
        except FoveaError:
            log.warning("the log of earlier attempts cannot be read")
    file.write_bytes(earlier + f"--- attempt {surroundings.attempt} ---\n".encode())
    ended = threading.Event()

    def upload() -> None:
        try:
            target.upload(file)
        except (FoveaError, OSError) as error:
            print(f"the log cannot be copied to the store: {error}", file=sys.__stderr__)

    def keep_uploading() -> None:
        while not ended.wait(LOG_UPLOAD_SECONDS):
            upload()

    with _tee(file):
        uploader = threading.Thread(target=keep_uploading, name="log", daemon=True)
        uploader.start()
        try:
            yield
        finally:
            ended.set()
            uploader.join()
    upload()


@contextmanager
def _tee(file: Path) -> Iterator[None]:
    """Copies file descriptors 1 and 2 into a file too; libraries in C and child processes included.

    A full disk costs the copy alone.
    """
    originals = [os.dup(1), os.dup(2)]
    reader, writer = os.pipe()
    for stream in (1, 2):
        os.dup2(writer, stream)
    os.close(writer)

    def copy() -> None:
        with file.open("ab", buffering=0) as sink, os.fdopen(reader, "rb", buffering=0) as source:
            while chunk := source.read(65536):
                shown = memoryview(chunk)
                while shown:
                    shown = shown[os.write(originals[0], shown) :]
                with suppress(OSError):
                    sink.write(chunk)

    thread = threading.Thread(target=copy, name="tee", daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, original in enumerate(originals, 1):
            os.dup2(original, stream)
        thread.join(2)  # a child that lives on may hold the pipe open
