"""Trainings in two processes that talk by gloo, as Ray Train's workers on CPUs do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Recipe
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.loop import Plan, fit
from fovea_trainer.training.state import State
from synthetic import squares

WORKERS = 2


class Killed(Exception):
    """Stands for workers that are gone from one moment to the next."""


class Worker(SingleProcess):
    """One of two workers; both go on from the first one's checkpoint. Dies at `killed_at` (epoch, step)."""

    def __init__(self, rank: int, folder: Path, killed_at: tuple[int, int] | None = None) -> None:
        super().__init__(folder / str(rank), 2, lambda progress: None)
        self.rank, self.workers, self._first = rank, WORKERS, folder / "0"
        self._killed_at = killed_at

    def resume(self) -> State | None:
        return SingleProcess(self._first, 2, lambda progress: None).resume()

    def report(self, state: State, save: bool) -> None:
        super().report(state, save)
        if (state.epoch, state.step) == self._killed_at:
            raise Killed


def train(recipes: Mapping[str, Recipe], folder: Path, killed: str) -> dict[str, list[State]]:
    """The final states of both workers by the recipe's name; the one called `killed` is interrupted and resumed."""
    torch.multiprocessing.spawn(_work, (dict(recipes), folder, killed), WORKERS)
    return {name: [State.load(folder / name / f"final-{rank}") for rank in range(WORKERS)] for name in recipes}


def _work(rank: int, recipes: Mapping[str, Recipe], folder: Path, killed: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS)
    version = squares(Task.CLASSIFICATION)
    for name, recipe in recipes.items():
        if name == killed:
            try:
                fit(recipe, version, Worker(rank, folder / name, (1, 1)), Plan(checkpoint_seconds=0))
            except Killed:
                torch.distributed.barrier()
        state = fit(recipe, version, Worker(rank, folder / name))
        state.save(folder / name / f"final-{rank}")
    torch.distributed.destroy_process_group()
