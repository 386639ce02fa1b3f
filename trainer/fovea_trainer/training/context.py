"""Where training runs: a single process or a worker of Ray Train. The loop does not know which."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from fovea_api.errors import CorruptData
from fovea_api.run import Progress
from fovea_serving.backends import usable_cpus

from fovea_trainer.training.state import FILE, State

Listener = Callable[[Progress], None]
MOST_PROCESSES = 16
"""Processes that prepare images for one worker, at most."""

log = logging.getLogger(__name__)


class Context(Protocol):
    """What the loop needs of its surroundings."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0."""

    @property
    def workers(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""

    @property
    def loader_processes(self) -> int:
        """Processes that prepare images beside this one."""

    def resume(self) -> State | None:
        """The newest checkpoint of this run."""

    def report_progress(self, progress: Progress) -> None:
        """Reports how far training is; cheap, called often."""

    def report(self, state: State, save: bool) -> None:
        """Reports the state, on all workers together; with `save` it becomes the newest checkpoint."""

    def stopping(self) -> bool:
        """Whether to save and stop as soon as possible."""


class SingleProcess:
    """Training in this process, with checkpoints in a folder."""

    rank = 0
    workers = 1

    def __init__(self, folder: Path, keep: int, listener: Listener, stop: threading.Event | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.loader_processes = loader_processes(self.device, torch.get_num_threads())
        self._folder, self._keep, self._listener = folder, keep, listener
        self._stop = stop or threading.Event()

    def resume(self) -> State | None:
        for folder in reversed(self._complete()):
            try:
                return State.load(folder)
            except CorruptData as error:
                log.warning("%s; training goes on from the one before", error.message)
                shutil.rmtree(folder)
        return None

    def report_progress(self, progress: Progress) -> None:
        self._listener(progress)

    def report(self, state: State, save: bool) -> None:
        if not save:
            return
        state.save(self._folder / f"{state.epoch:06}-{state.step:08}")
        kept = self._complete()[-self._keep :]
        for folder in self._checkpoints():
            if folder not in kept:
                shutil.rmtree(folder)

    def stopping(self) -> bool:
        return self._stop.is_set()

    def _complete(self) -> list[Path]:
        return [folder for folder in self._checkpoints() if (folder / FILE).exists()]

    def _checkpoints(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*-*") if path.is_dir())


class RayWorker:
    """A worker of Ray Train; checkpoints go to the run's storage path."""

    def __init__(self, listener: Listener) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.workers: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.loader_processes = loader_processes(self.device, torch.get_num_threads())
        self._listener = listener

    def resume(self) -> State | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return State.load(Path(folder))

    def report_progress(self, progress: Progress) -> None:
        if self.rank == 0:
            self._listener(progress)

    def report(self, state: State, save: bool) -> None:
        import ray.train

        metrics = {"epoch": state.epoch, **(state.history[-1] if state.history else {})}
        if not save or self.rank != 0:
            ray.train.report(metrics)
            return
        with _temporary_folder() as folder:
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(str(state.save(folder))))

    def stopping(self) -> bool:
        """Never: whoever stops a RayJob kills its driver, and the workers with it, within seconds.

        Training goes on from the last checkpoint, of which there is one every few minutes.
        """
        return False


def loader_processes(device: torch.device, threads: int) -> int:
    """Processes for preparing images.

    A GPU leaves the CPUs to them, all that the container may use, whatever share of these was requested. On a CPU they
    take time from training, and pay from three threads on.
    """
    if device.type != "cpu":
        return max(1, min(usable_cpus() - 1, MOST_PROCESSES))
    return 0 if threads <= 2 else min(threads - 1, MOST_PROCESSES)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fovea-checkpoint-") as folder:
        yield Path(folder)
