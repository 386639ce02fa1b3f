"""A trial on several workers: Ray Train within a trial of Ray Tune.

Train restores nothing: the journal says how far a trial is, and its checkpoint is where that of a trial on one worker
is. The trial itself reserves what `ray_tune.DRIVER` says.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch
from fovea_api.errors import FoveaError
from fovea_store import StorePath
from fovea_store.errors import outside_cause
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fovea_trainer.logs import log_to_stdout
from fovea_trainer.training.context import RayWorker
from fovea_trainer.training.distributed import first_workers
from fovea_trainer.training.memory import ray_runtime_env
from fovea_trainer.training.run import worker_resources, worker_threads
from fovea_trainer.training.state import State
from fovea_trainer.training.stored_checkpoints import keep_checkpoint, load_checkpoint
from fovea_trainer.training.worker_failures import of_memory
from fovea_trainer.tuning.errors import TrialLost
from fovea_trainer.tuning.trial import Job, Outcome, work


class TrialWorker(RayWorker):
    """A worker of a trial."""

    def __init__(self, job: Job) -> None:
        super().__init__(lambda progress: None)
        self._job = job
        self.out_of_time = False

    def resume(self) -> State | None:
        return load_checkpoint(StorePath.parse(self._job.folder))

    def report(self, state: State, save: bool) -> None:
        if save and self.rank == 0:
            keep_checkpoint(StorePath.parse(self._job.folder), state)
        ray.train.report({"epoch": state.epoch})  # all wait for the first one

    def stopping(self) -> bool:
        if self._job.deadline is not None:  # the first worker's clock decides for all
            self.out_of_time = first_workers(time.time() >= self._job.deadline, self)
        return self.out_of_time


def work_on_workers(job: Job) -> Outcome:
    """Trains a part of a trial on `execution.workers` workers. Raises what a training raises, and TrialLost."""
    execution = job.spec.execution
    resources = worker_resources(execution)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    answer: Any = ray.remote(num_cpus=0)(_Answer).options(scheduling_strategy=here).remote()
    folder = StorePath.parse(job.folder) / "ray"
    filesystem, path = folder.arrow()
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job, "answer": answer},
        scaling_config=ray.train.ScalingConfig(
            num_workers=execution.workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=uuid.uuid4().hex,  # one that is known, Train would restore
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=0),
            worker_runtime_env=ray_runtime_env(resources),  # type: ignore[call-arg]  # the class is of Ray Train v1
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        known: Outcome | FoveaError | None = ray.get(answer.get.remote())
        lost = TrialLost(f"workers of {job.name} were lost: {error}")
        raise (known if isinstance(known, FoveaError) else None) or of_memory(error) or lost from error
    finally:
        folder.delete()
    outcome = ray.get(answer.get.remote())
    assert isinstance(outcome, Outcome)
    return outcome


class _Answer:
    """What came of the work: the first worker's outcome, or the first error."""

    def __init__(self) -> None:
        self._value: Outcome | FoveaError | None = None

    def set(self, value: Outcome | FoveaError) -> None:
        self._value = self._value or value

    def get(self) -> Outcome | FoveaError | None:
        return self._value


def _worker(config: Mapping[str, Any]) -> None:
    """A worker of Ray Train."""
    import torch

    log_to_stdout()
    job, answer = config["job"], config["answer"]
    torch.set_num_threads(worker_threads(job.spec.execution))  # Ray sets one
    context = TrialWorker(job)
    try:
        outcome = work(job, context)
    except Exception as error:
        known = of_memory(error) or outside_cause(error) or error
        if isinstance(known, FoveaError):
            ray.get(answer.set.remote(known))
        raise
    if context.rank == 0:
        ray.get(answer.set.remote(outcome))
