"""Loaders: batches that other processes prepare while the network learns from those before."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.context import ForkServerContext
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from fovea_trainer.data.version import Split
from fovea_trainer.training.context import Context
from fovea_trainer.training.dataset import Batch, Collate, SplitDataset
from fovea_trainer.training.order import Draw, Order, WorkerBatches
from fovea_trainer.training.read_ahead import ReadAhead

Items = list[int] | list[Draw]
"""The images of a batch, as SplitDataset is indexed."""


class _Batches:
    """A loader whose processes live as long as this object.

    Args:
        dataset: The split.
        context: The worker.
    """

    def __init__(self, dataset: SplitDataset, context: Context) -> None:
        self.dataset = dataset
        self._sampler = _Sampler(dataset)
        processes = context.loader_processes
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._sampler,
            collate_fn=Collate(dataset.task),
            num_workers=processes,
            persistent_workers=processes > 0,
            multiprocessing_context=_forkserver() if processes else None,
            pin_memory=context.device.type == "cuda",
            worker_init_fn=_alone,
        )

    def _iterate(
        self, batches: WorkerBatches | list[list[int]], positions: Sequence[NDArray[np.int64]]
    ) -> Iterator[Batch]:
        """The batches; `positions`: of the images of each."""
        read_ahead = self._sampler.begin(batches, positions)
        try:
            for number, batch in enumerate(self._loader):
                if read_ahead is not None:
                    read_ahead.after(number)
                yield batch
        finally:
            if read_ahead is not None:
                read_ahead.close()


class TrainingBatches(_Batches):
    """A worker's batches of the train split, epoch by epoch.

    Args:
        dataset: The train split.
        order: Which image is trained on when.
        context: The worker.
    """

    def __init__(self, dataset: SplitDataset, order: Order, context: Context) -> None:
        super().__init__(dataset, context)
        self._order, self._rank, self._workers = order, context.rank, context.workers

    def epoch(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """The batches of an epoch from a step on, both counted from 0."""
        batches = WorkerBatches(self._order, epoch, first_step, self._rank, self._workers)
        combines = self.dataset.augment.combines
        return self._iterate(batches, batches.positions(combines))


class ValidationBatches(_Batches):
    """A worker's share of a split in its order, epoch by epoch.

    Args:
        dataset: The split.
        batch_size: Images in a batch of this worker.
        context: The worker.
    """

    def __init__(self, dataset: SplitDataset, batch_size: int, context: Context) -> None:
        super().__init__(dataset, context)
        self.indices = range(context.rank, len(dataset), context.workers)
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        size = self._batch_size
        batches = [list(self.indices[start : start + size]) for start in range(0, len(self.indices), size)]
        return self._iterate(batches, [np.array(batch, np.int64) for batch in batches])


class _Sampler:
    """The batches of the pass that was begun; it runs in the process that trains, and waits there for shards."""

    def __init__(self, dataset: SplitDataset) -> None:
        self._samples = dataset.samples
        self._batches: WorkerBatches | list[list[int]] = []
        self._read_ahead: ReadAhead | None = None

    def begin(
        self, batches: WorkerBatches | list[list[int]], positions: Sequence[NDArray[np.int64]]
    ) -> ReadAhead | None:
        """Sets the batches; gives what is to be told when they arrive, where the images come from shards."""
        self._batches = batches
        self._read_ahead = None
        if isinstance(self._samples, Split):
            self._read_ahead = ReadAhead(self._samples, positions)
        return self._read_ahead

    def __iter__(self) -> Iterator[Items]:
        batches: Iterable[Items] = self._batches
        read_ahead = self._read_ahead
        for number, batch in enumerate(batches):
            if read_ahead is not None:
                read_ahead.before(number)
            yield batch

    def __len__(self) -> int:
        return len(self._batches)


def _forkserver() -> ForkServerContext:
    """Where the processes come from: one without threads that has imported what they need.

    The process that trains has threads, of Ray and of OpenCV; what it forks may wait for ever for a lock that one of
    these held.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _alone(number: int) -> None:
    """One thread for each process: OpenCV would start one for each core in each of them."""
    cv2.setNumThreads(1)
