"""Loaders: the same batches, whoever prepares them, from processes that outlive an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Augmentation, Flip, Resize
from fovea_serving.pipeline import Preprocess, decode
from fovea_trainer.augmentation import Augment
from fovea_trainer.tasks import Sample, definition
from fovea_trainer.training import context as contexts
from fovea_trainer.training.context import SingleProcess, loader_processes
from fovea_trainer.training.dataset import Collate, Normalize, SplitDataset
from fovea_trainer.training.loading import TrainingBatches
from fovea_trainer.training.order import Order
from synthetic import squares


@dataclass
class WithProcesses(SingleProcess):
    folder: Path
    processes: int

    def __post_init__(self) -> None:
        super().__init__(self.folder, 1, lambda progress: None)
        self.loader_processes = self.processes


def images(batches: TrainingBatches, epoch: int, first_step: int = 0) -> list[torch.Tensor]:
    return [images for images, _, _ in batches.epoch(epoch, first_step)]


def test_processes_prepare_the_same_batches_in_every_epoch(tmp_path: Path) -> None:
    preprocess = Preprocess(32, 32, Resize.LETTERBOX, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    augment = Augment([Augmentation(horizontal_flip=Flip())])
    task = Task.CLASSIFICATION
    dataset = SplitDataset(squares(task).split("train"), definition(task), preprocess, augment)
    order = Order(np.ones(len(dataset)), 8, seed=0)
    alone = TrainingBatches(dataset, order, WithProcesses(tmp_path, 0))
    several = TrainingBatches(dataset, order, WithProcesses(tmp_path, 2))
    next(islice(several.epoch(0, 0), 1))  # an epoch that is left half way
    for position in ((0, 0), (1, 0), (1, 2)):
        pairs = list(zip(images(alone, *position), images(several, *position), strict=True))
        assert len(pairs) == 3 - position[1]
        assert all(torch.equal(one, other) for one, other in pairs)
    assert not torch.equal(images(alone, 0)[0], images(alone, 1)[0])


LOCK = Lock()


@dataclass
class Locking(Sequence[Sample]):
    """Samples that are read under a lock, as many a library has one."""

    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        with LOCK:
            return self.samples[index]


def test_processes_do_not_wait_for_a_lock_that_a_thread_of_this_one_holds(tmp_path: Path) -> None:
    task = Task.CLASSIFICATION
    samples = Locking(squares(task).split("train"))
    preprocess = Preprocess(32, 32, Resize.LETTERBOX, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    dataset = SplitDataset(samples, definition(task), preprocess, Augment(()))
    batches = TrainingBatches(dataset, Order(np.ones(len(dataset)), 8, seed=0), WithProcesses(tmp_path, 2))
    with LOCK:
        assert len(images(batches, 0)) == 3


@pytest.mark.parametrize(
    ("device", "threads", "processes"), [("cpu", 1, 0), ("cpu", 2, 0), ("cpu", 4, 3), ("cuda", 1, 5)]
)
def test_a_gpu_leaves_the_cpus_to_the_loader(
    device: str, threads: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "usable_cpus", lambda: 6)
    assert loader_processes(torch.device(device), threads) == processes


def test_batches_are_normalized_as_serving_does_it() -> None:
    """To the last bit; they travel as bytes, in the memory format that convolutions want."""
    preprocess = Preprocess(32, 32, Resize.LETTERBOX, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    task = Task.CLASSIFICATION
    dataset = SplitDataset(squares(task).split("train"), definition(task), preprocess, Augment(()))
    images, _, _ = Collate(definition(task))([dataset[index] for index in range(3)])
    assert images.dtype is torch.uint8
    normalized = Normalize(preprocess, torch.device("cpu"))(images)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in (images, normalized))
    for index in range(3):
        served, _ = preprocess(decode(dataset.samples[index].image_bytes))
        assert np.array_equal(normalized[index].numpy(), served)
