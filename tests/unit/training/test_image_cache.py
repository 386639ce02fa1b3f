"""Decoded images that are kept: the same pixels, within the room that there is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Augmentation, Flip, RandomCrop
from fovea_serving.pipeline import Preprocess
from fovea_trainer.augmentation import Augment
from fovea_trainer.tasks import definition
from fovea_trainer.training import dataset as datasets
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import SplitDataset
from fovea_trainer.training.image_cache import MEMORY_SHARE, ImageCache, default_limit
from fovea_trainer.training.loading import TrainingBatches
from fovea_trainer.training.order import Order
from synthetic import squares

SIDE = 24
BYTES = SIDE * SIDE * 3 + 1


class Worker(SingleProcess):
    def __init__(self, folder: Path, processes: int) -> None:
        super().__init__(folder, 1, lambda progress: None)
        self.loader_processes = processes


def split(cache: ImageCache | None, crops: bool = False) -> SplitDataset:
    changes = [Augmentation(horizontal_flip=Flip())]
    if crops:
        changes.insert(0, Augmentation(random_crop=RandomCrop(width=16, height=16)))
    task = Task.SEMANTIC_SEGMENTATION
    return SplitDataset(squares(task).split("train"), definition(task), Preprocess(SIDE, SIDE), Augment(changes), cache)


def epochs(dataset: SplitDataset, folder: Path, processes: int) -> list[torch.Tensor]:
    batches = TrainingBatches(dataset, Order(np.ones(len(dataset)), 8, seed=0), Worker(folder, processes))
    return [images for epoch in range(3) for images, _, _ in batches.epoch(epoch, 0)]


@pytest.mark.parametrize("room", [1.0, 0.4, 0.0])
@pytest.mark.parametrize(("crops", "processes"), [(False, 0), (False, 2), (True, 2)])
def test_kept_images_have_the_pixels_of_those_that_are_decoded(
    tmp_path: Path, room: float, crops: bool, processes: int
) -> None:
    limit = int(room * 24 * BYTES)
    cache = ImageCache(tmp_path, limit)
    expected = epochs(split(None, crops), tmp_path, 0)
    given = epochs(split(cache, crops), tmp_path, processes)
    assert all(torch.equal(one, other) for one, other in zip(expected, given, strict=True))
    assert list(tmp_path.iterdir()) == [], "the file has no name: nobody can find it after this training"
    assert cache._file.seek(0, 2) <= limit


def test_an_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = []
    decode = datasets.decode
    monkeypatch.setattr(datasets, "decode", lambda data, name=None: names.append(name) or decode(data, name))
    epochs(split(ImageCache(tmp_path, 24 * BYTES)), tmp_path, 0)
    assert (len(names), len(set(names))) == (24, 24)
    names.clear()
    epochs(split(ImageCache(tmp_path, 24 + 10 * (BYTES - 1))), tmp_path, 0)
    assert len(names) == 10 + 3 * 14


def test_a_full_disk_ends_the_keeping_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = ImageCache(tmp_path, 10**6).reserve([(4, 4)] * 3)
    pixels = np.full((4, 4, 3), 7, np.uint8)
    slots.write(0, pixels)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        slots.write(1, pixels)
    slots.write(2, pixels)
    assert "no more images are kept decoded" in caplog.text
    read = [slots.read(index) for index in range(3)]
    assert [image is not None for image in read] == [True, False, False]
    assert np.array_equal(read[0], pixels)


def test_the_room_follows_from_the_containers_memory(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroups"
    cgroups.mkdir()
    whole = default_limit(tmp_path, cgroups)
    (cgroups / "memory.max").write_text("max\n")
    assert default_limit(tmp_path, cgroups) == pytest.approx(whole, rel=0.05)  # others use the disk
    (cgroups / "memory.max").write_text(f"{2**28}\n")
    assert default_limit(tmp_path, cgroups) == 2**28 * MEMORY_SHARE
    (cgroups / "memory.max").unlink()
    (cgroups / "memory").mkdir()
    (cgroups / "memory/memory.limit_in_bytes").write_text(f"{2**27}\n")
    assert default_limit(tmp_path, cgroups) == 2**27 * MEMORY_SHARE
    assert ImageCache(tmp_path, 2**20).limit == 2**20
