"""A training from its run spec to the stored bundle: fit (on Ray or here), then finish."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from fovea_api.architectures import find, read_options
from fovea_api.choice import AUTO
from fovea_api.common import parse_quantity
from fovea_api.errors import FoveaError, InvalidInput, Retryable
from fovea_api.run import Execution, Progress, RunResult, RunSpec
from fovea_store import StoreUnavailable
from fovea_store.errors import causes, outside_cause

from fovea_trainer.environment import RunEnvironment
from fovea_trainer.logs import log_to_stdout
from fovea_trainer.reporting import Reporter, StatusReporter
from fovea_trainer.training.choice import choose
from fovea_trainer.training.context import RayWorker, SingleProcess
from fovea_trainer.training.finish import check_supported, finish
from fovea_trainer.training.loop import fit
from fovea_trainer.training.memory import ray_runtime_env
from fovea_trainer.training.state import State
from fovea_trainer.training.training_run import TrainingRun

WORKER_FAILURES = 100
"""Lost workers that Ray replaces before the attempt fails, as long as there are checkpoints in between
(`worker_failures`); each goes on from the last one."""

log = logging.getLogger(__name__)


def train(spec: RunSpec, environment: RunEnvironment, reporter: Reporter) -> RunResult:
    """Trains, exports, evaluates and stores the bundle; gives the result without its end time."""
    run = TrainingRun(spec, environment)
    if spec.inputs.dataset is None:
        raise InvalidInput("a training needs a dataset version", "spec.inputs.dataset")
    check_supported(run.recipe)
    if environment.ray:
        return _train_on_ray(run, reporter)
    checkpoints = run.folder.local_path() if run.folder.is_local else environment.work_dir
    with asked_to_stop() as stop:
        run = _ready(choose(run, reporter.report, stop))
        context = SingleProcess(checkpoints / "checkpoints", spec.execution.checkpoints_kept, reporter.report, stop)
        state = fit(run.recipe, run.open(), context, run.plan(0))
    return finish(run, state, reporter.report)


def _ready(run: TrainingRun) -> TrainingRun:
    """The run, whose architecture has the options that it is given. Raises InvalidInput."""
    read_options(find(run.recipe.model.architecture), run.recipe.model.options)
    return run


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGINT (Ctrl-C) or SIGTERM sets; the second one acts as it did before."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python leaves signals to the main thread
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        log.info("training stops after this step and saves its state; once more stops it at once")
        signal.signal(number, before[signal.Signals(number)])
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train_on_ray(run: TrainingRun, reporter: Reporter) -> RunResult:
    import ray
    import ray.train
    import ray.train.torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from fovea_trainer.training.worker_failures import WorkerFailures, WorkersLost

    execution = run.spec.execution
    resources = worker_resources(execution)
    workers: int | tuple[int, int] = execution.workers
    if execution.min_workers is not None and execution.max_workers is not None:
        workers = (execution.min_workers, execution.max_workers)
    on_a_worker = ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    if run.recipe.model.architecture == AUTO:
        chosen: TrainingRun | FoveaError = ray.get(on_a_worker(_choose).remote(run))
        if isinstance(chosen, FoveaError):
            raise chosen
        run = chosen
    run = _ready(run)
    filesystem, path = (run.folder / "ray").arrow()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # lost with us alone
    final_error: Any = ray.remote(num_cpus=0)(_FinalError).options(scheduling_strategy=here).remote()
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"run": run, "final_error": final_error},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,  # type: ignore[arg-type]  # Ray's annotation knows no elasticity
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=run.environment.name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=execution.checkpoints_kept),
            failure_config=ray.train.FailureConfig(max_failures=WORKER_FAILURES),
            worker_runtime_env=ray_runtime_env(resources),  # type: ignore[call-arg]  # the class is of Ray Train v1
            callbacks=[WorkerFailures(final_error)],  # type: ignore[list-item]  # the annotation is of Ray Train v1
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from error
    final: FoveaError | None = ray.get(final_error.get.remote())
    if final is not None:
        raise final
    if result.checkpoint is None:
        raise WorkersLost("training ended without a checkpoint")
    rest = on_a_worker(_finish)
    done: tuple[RunResult, Progress] | FoveaError = ray.get(rest.remote(run, result.checkpoint))
    if isinstance(done, FoveaError):
        raise done
    reporter.report(done[1])  # this process reports last, and its report replaces the workers'
    return done[0]


class _FinalError:
    """Remembers an error that ends the attempt: Ray starts workers again after every error, and these end at once."""

    def __init__(self) -> None:
        self._error: FoveaError | None = None

    def set(self, error: FoveaError) -> None:
        self._error = self._error or error

    def get(self) -> FoveaError | None:
        return self._error


def _worker(config: Mapping[str, Any]) -> None:
    """A worker of Ray Train."""
    import ray

    log_to_stdout()
    run, final_error = config["run"], config["final_error"]
    assert isinstance(run, TrainingRun)
    if ray.get(final_error.get.remote()) is not None:
        return
    try:
        _train_as_worker(run)
    except Exception as error:
        if (final := _ends_attempt(error)) is not None:
            ray.get(final_error.set.remote(final))
        raise


def _ends_attempt(error: Exception) -> FoveaError | None:
    """The error that ends the whole attempt, where starting its workers again would meet it again."""
    from fovea_trainer.training.worker_failures import of_memory

    if (lack := of_memory(error)) is not None:
        return lack
    outside = outside_cause(error)
    if isinstance(outside, StoreUnavailable):  # it may answer the workers that Ray starts next
        return None
    if outside is not None:
        return outside
    return error if isinstance(error, FoveaError) and not isinstance(error, Retryable) else None


def _train_as_worker(run: TrainingRun) -> None:
    import torch

    torch.set_num_threads(worker_threads(run.spec.execution))  # Ray sets one
    status = run.environment.status
    with StatusReporter(status) if status is not None else nullcontext() as reporter:
        context = RayWorker(reporter.report if reporter is not None else lambda progress: None)
        fit(run.recipe, run.open(), context, run.plan(context.rank))


def _choose(run: TrainingRun) -> TrainingRun | FoveaError:
    """The run with the architecture that a comparison chooses, as a Ray task on a worker's resources."""
    import torch

    log_to_stdout()
    torch.set_num_threads(worker_threads(run.spec.execution))
    status = run.environment.status
    try:
        with StatusReporter(status) if status is not None else nullcontext() as reporter:
            report = reporter.report if reporter is not None else lambda progress: None
            return choose(run, report, threading.Event())
    except Exception as error:  # Ray would wrap it in a text
        return _known(error)


def _known(error: Exception) -> FoveaError:
    """The error of a Ray task as one of our own. Raises the error itself where it is none."""
    from fovea_trainer.training.worker_failures import of_memory

    known = of_memory(error) or outside_cause(error) or error
    if isinstance(known, FoveaError):
        return known
    raise error


def _finish(run: TrainingRun, checkpoint: object) -> tuple[RunResult, Progress] | FoveaError:
    """The rest of the run, as a Ray task on a worker's resources; the result and the last progress reported."""
    import ray.train
    import torch

    log_to_stdout()
    assert isinstance(checkpoint, ray.train.Checkpoint)
    torch.set_num_threads(worker_threads(run.spec.execution))
    with checkpoint.as_directory() as folder:
        state = State.load(Path(folder))
    status = run.environment.status
    reported: list[Progress] = []
    try:
        with StatusReporter(status) if status is not None else nullcontext() as reporter:

            def report(progress: Progress) -> None:
                reported.append(progress)
                if reporter is not None:
                    reporter.report(progress)

            return finish(run, state, report), reported[-1]
    except Exception as error:  # Ray would wrap it in a text
        return _known(error)


def worker_resources(execution: Execution) -> dict[str, float]:
    """What Ray reserves for a worker: the whole cores that it may use, and the GPUs of the limits."""
    resources: dict[str, float] = {"CPU": worker_threads(execution)}
    gpus = execution.resources.limits.get("nvidia.com/gpu")
    return resources | ({"GPU": parse_quantity(gpus)} if gpus is not None else {})


def worker_threads(execution: Execution) -> int:
    """Cores that a worker may use, at least one: its limit, as KubeRay tells Ray, else what it requests."""
    given = execution.resources.limits.get("cpu") or execution.resources.requests.get("cpu") or "1"
    return max(1, int(parse_quantity(given)))


def _cause(error: BaseException) -> FoveaError:
    """Our own error inside of Ray's, or a lack of memory or other fault outside; else that workers were lost."""
    from fovea_trainer.training.worker_failures import WorkersLost, of_memory

    own = next((each for each in causes(error) if isinstance(each, FoveaError)), None)
    return own or of_memory(error) or outside_cause(error) or WorkersLost(str(error))
