"""A training from its order to the stored bundle: fit (on Ray or here), then finish."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from fovea_api.architectures import find, read_options
from fovea_api.common import parse_quantity
from fovea_api.errors import FoveaError, InvalidInput, Retryable
from fovea_api.run import Execution, Progress, RunResult, RunSpec
from fovea_api.trainingjob import Recipe

from fovea_trainer.data.version import OpenVersion, open_version
from fovea_trainer.reporting import Reporter, StatusReporter
from fovea_trainer.run import Surroundings, folder_of, log_to_stdout
from fovea_trainer.store import Place, place
from fovea_trainer.training.base_weights import fetch_base_weights
from fovea_trainer.training.context import RayWorker, SingleProcess
from fovea_trainer.training.finish import check_supported, finish
from fovea_trainer.training.loop import Plan, fit
from fovea_trainer.training.state import State
from fovea_trainer.training.tracking import Tracker

WORKER_FAILURES = 100
"""Lost workers that Ray replaces before the attempt fails; each goes on from the last checkpoint."""

log = logging.getLogger(__name__)


class WorkersLost(Retryable):
    """The Ray cluster could not go on."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker needs to know; sent to it as it is."""

    spec: RunSpec
    surroundings: Surroundings

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.spec.recipe)

    @property
    def folder(self) -> Place:
        return folder_of(self.spec, self.surroundings.name)

    @property
    def bundles(self) -> Place:
        """Where the job's bundles lie, each under its digest."""
        return place(self.spec.store) / "trainingjob" / self.spec.owner.name / "bundles"

    def open(self) -> OpenVersion:
        """The dataset version, from this machine's cache, with the problem as it is stated now."""
        given = self.spec.inputs.dataset
        assert given is not None
        version = open_version(given.artifact, self.surroundings.work_dir / "versions")
        if given.problem is None:
            return version
        return replace(version, manifest=version.manifest.model_copy(update={"problem": given.problem}))

    def plan(self, rank: int) -> Plan:
        """How to carry out the work."""
        events = self.surroundings.work_dir / "tensorboard" / f"attempt-{self.surroundings.attempt}"
        tracker = None
        if rank == 0:
            name, job = self.surroundings.name, self.spec.owner.name
            tracker = Tracker(events, self.folder / "tensorboard" / events.name, name, job, self._flat())
        source = self.spec.inputs.base_weights or self.recipe.model.pretrained.uri
        return Plan(
            checkpoint_every=self.spec.execution.checkpoint_every_epochs,
            base_weights=None if source is None else fetch_base_weights(source, self.surroundings.work_dir / "base"),
            tracker=tracker,
        )

    def _flat(self) -> Mapping[str, object]:
        flat: dict[str, object] = {}

        def walk(value: object, path: str) -> None:
            if isinstance(value, Mapping):
                for name, item in value.items():
                    walk(item, f"{path}.{name}" if path else name)
            else:
                flat[path] = value

        walk(self.recipe.to_dict(), "")
        return flat


def train(spec: RunSpec, surroundings: Surroundings, reporter: Reporter) -> RunResult:
    """Trains, exports, evaluates and stores the bundle; gives the result without its end time."""
    order = Order(spec, surroundings)
    if spec.inputs.dataset is None:
        raise InvalidInput("a training needs a dataset version", "spec.inputs.dataset")
    check_supported(order.recipe)
    read_options(find(order.recipe.model.architecture), order.recipe.model.options)
    if surroundings.ray:
        return _train_on_ray(order, reporter)
    checkpoints = order.folder.local_path() if order.folder.is_local else surroundings.work_dir
    with _asked_to_stop() as stop:
        context = SingleProcess(checkpoints / "checkpoints", spec.execution.checkpoints_kept, reporter.tell, stop)
        state = fit(order.recipe, order.open(), context, order.plan(0))
    return finish(order, state, reporter.tell)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
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


def _train_on_ray(order: Order, reporter: Reporter) -> RunResult:
    import ray
    import ray.train
    import ray.train.torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    execution = order.spec.execution
    resources = worker_resources(execution)
    workers: int | tuple[int, int] = execution.workers
    if execution.min_workers is not None and execution.max_workers is not None:
        workers = (execution.min_workers, execution.max_workers)
    filesystem, path = (order.folder / "ray").arrow()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # lost with us alone
    verdict: Any = ray.remote(num_cpus=0)(_Verdict).options(scheduling_strategy=here).remote()
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"order": order, "verdict": verdict},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,  # type: ignore[arg-type]  # Ray's annotation knows no elasticity
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=order.surroundings.name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=execution.checkpoints_kept),
            failure_config=ray.train.FailureConfig(max_failures=WORKER_FAILURES),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from error
    final: FoveaError | None = ray.get(verdict.get.remote())
    if final is not None:
        raise final
    if result.checkpoint is None:
        raise WorkersLost("training ended without a checkpoint")
    rest = ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(_finish)
    done: tuple[RunResult, Progress] | FoveaError = ray.get(rest.remote(order, result.checkpoint))
    if isinstance(done, FoveaError):
        raise done
    reporter.tell(done[1])  # this process reports last, and its report replaces the workers'
    return done[0]


class _Verdict:
    """Remembers an error that is final. Ray starts the workers again after every error; these then end at once."""

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
    order, verdict = config["order"], config["verdict"]
    assert isinstance(order, Order)
    if ray.get(verdict.get.remote()) is not None:
        return
    try:
        _train_as_worker(order)
    except FoveaError as error:
        if not isinstance(error, Retryable):
            ray.get(verdict.set.remote(error))
        raise


def _train_as_worker(order: Order) -> None:
    import torch

    torch.set_num_threads(worker_threads(order.spec.execution))  # Ray sets one
    status = order.surroundings.status
    with StatusReporter(status) if status is not None else nullcontext() as reporter:
        context = RayWorker(reporter.tell if reporter is not None else lambda progress: None)
        fit(order.recipe, order.open(), context, order.plan(context.rank))


def _finish(order: Order, checkpoint: object) -> tuple[RunResult, Progress] | FoveaError:
    """The rest of the run, as a Ray task on a worker's resources; the result and the last progress told."""
    import ray.train
    import torch

    log_to_stdout()
    assert isinstance(checkpoint, ray.train.Checkpoint)
    torch.set_num_threads(worker_threads(order.spec.execution))
    with checkpoint.as_directory() as folder:
        state = State.load(Path(folder))
    status = order.surroundings.status
    told: list[Progress] = []
    try:
        with StatusReporter(status) if status is not None else nullcontext() as reporter:

            def tell(progress: Progress) -> None:
                told.append(progress)
                if reporter is not None:
                    reporter.tell(progress)

            return finish(order, state, tell), told[-1]
    except FoveaError as error:  # Ray would wrap it in a text
        return error


def worker_resources(execution: Execution) -> dict[str, float]:
    """What Ray reserves for a worker: whole cores, and the GPUs of the limits."""
    resources: dict[str, float] = {"CPU": worker_threads(execution)}
    gpus = execution.resources.limits.get("nvidia.com/gpu")
    return resources | ({"GPU": parse_quantity(gpus)} if gpus is not None else {})


def worker_threads(execution: Execution) -> int:
    """Cores of a worker, at least one."""
    given = execution.resources.requests.get("cpu") or execution.resources.limits.get("cpu") or "1"
    return max(1, int(parse_quantity(given)))


def _cause(error: BaseException) -> FoveaError:
    """Our own error inside of Ray's, which tells what is wrong; else one that says that workers were lost."""
    seen: list[BaseException] = [error]
    for item in seen:
        if isinstance(item, FoveaError):
            return item
        inner = [item.__cause__, getattr(item, "_base_exc", None), *getattr(item, "worker_failures", {}).values()]
        seen += [part for part in inner if isinstance(part, BaseException) and part not in seen]
    return WorkersLost(str(error))
