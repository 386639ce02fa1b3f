"""Loaders: batches that other processes prepare while the network learns from those before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
from torch.utils.data import DataLoader

from fovea_trainer.training.context import Context
from fovea_trainer.training.dataset import Batch, Collate, SplitDataset
from fovea_trainer.training.order import Draw, Order, WorkerBatches


def _loader(dataset: SplitDataset, context: Context, **how: Any) -> DataLoader[Batch]:
    """A loader of batches of a dataset; `how`: which, as torch's DataLoader takes it."""
    made: DataLoader[Any] = DataLoader(
        dataset,
        collate_fn=Collate(dataset.task),
        num_workers=context.loader_processes,
        persistent_workers=context.loader_processes > 0,
        pin_memory=context.device.type == "cuda",
        worker_init_fn=_alone,
        **how,
    )
    return made


def _alone(number: int) -> None:
    """One thread for each process: OpenCV would start one for each core in each of them."""
    cv2.setNumThreads(1)


class TrainingBatches:
    """A worker's batches of the train split, epoch by epoch; its processes live as long as this object.

    Args:
        dataset: The train split.
        order: Which image is trained on when.
        context: The worker.
    """

    def __init__(self, dataset: SplitDataset, order: Order, context: Context) -> None:
        self._sampler = _Sampler(order, context.rank, context.workers)
        self._loader = _loader(dataset, context, batch_sampler=self._sampler)

    def epoch(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """The batches of an epoch from a step on, both counted from 0."""
        self._sampler.position = epoch, first_step
        return iter(self._loader)


class ValidationBatches:
    """A worker's share of a split in its order, epoch by epoch; its processes live as long as this object.

    Args:
        dataset: The split.
        batch_size: Images in a batch of this worker.
        context: The worker.
    """

    def __init__(self, dataset: SplitDataset, batch_size: int, context: Context) -> None:
        self.dataset = dataset
        self.indices = range(context.rank, len(dataset), context.workers)
        self._loader = _loader(dataset, context, batch_size=batch_size, sampler=self.indices)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


class _Sampler:
    """The batches of the epoch that is set; it is read in the process that sets it."""

    def __init__(self, order: Order, rank: int, workers: int) -> None:
        self._order, self._rank, self._workers = order, rank, workers
        self.position = (0, 0)

    def _batches(self) -> WorkerBatches:
        return WorkerBatches(self._order, *self.position, self._rank, self._workers)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())
