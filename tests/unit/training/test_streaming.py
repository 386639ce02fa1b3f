"""Versions that are larger than their place on the disk: the same batches, from shards that come and go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pytest
import torch
from fovea_api.common import Task
from fovea_api.errors import CorruptData
from fovea_api.version import MANIFEST, DatasetVersion, Shard
from fovea_serving.pipeline import Preprocess
from fovea_store import StorePath
from fovea_store.errors import StoreFull, StoreUnavailable
from fovea_trainer.augmentation import Augment
from fovea_trainer.data import shard_cache
from fovea_trainer.data.version import Split, open_version, write_shard
from fovea_trainer.tasks import definition
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import SplitDataset
from fovea_trainer.training.image_cache import DISK_SHARE
from fovea_trainer.training.loading import TrainingBatches, ValidationBatches
from fovea_trainer.training.order import Order
from synthetic import SIZE, png

SHARDS, ROWS, BATCH = 14, 4, 3


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of SHARDS shards; each image has a grey value of its own."""
    folder, shards = tmp_path_factory.mktemp("store"), []
    for number in range(SHARDS):
        file = folder / f"shards/train-{number:05}.parquet"
        file.parent.mkdir(exist_ok=True)
        rows = (row(number * ROWS + place) for place in range(ROWS))
        count = write_shard(iter(rows), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        shards.append(Shard(path=f"shards/{file.name}", split="train", rows=count, digest=digest))
    manifest = DatasetVersion(
        task=Task.CLASSIFICATION, classes=("dark", "bright"), splits={"train": SHARDS * ROWS}, images=SHARDS * ROWS,
        annotations=SHARDS * ROWS, shards=tuple(shards), digest="sha256-" + "0" * 64,
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def row(number: int) -> dict[str, object]:
    image = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
    image[0, 0] = number
    return {
        "digest": f"{number:04}", "name": f"{number}.png", "source": "lab", "group": "", "width": SIZE,
        "height": SIZE, "image": png(image), "label": number % 2, "boxes": [], "labels": [], "difficult": [],
        "mask": None,
    }  # fmt: skip


class Worker(SingleProcess):
    def __init__(self, folder: Path, processes: int = 0) -> None:
        super().__init__(folder, 1, lambda progress: None)
        self.loader_processes = processes


def split(stored: Path, cache: Path, room: float | None = None) -> Split:
    """The train split with room for the images of so many shards (while one arrives, it takes its size twice)."""
    size = (stored / "shards/train-00000.parquet").stat().st_size
    limit = None if room is None else int(room * size * 1.1)
    return open_version(str(stored), cache, limit=limit).split("train")


def order(train: Split) -> Order:
    return Order(np.ones(len(train)), BATCH, seed=3, shards=tuple(shard.rows for shard in train.shards))


def batches(train: Split, folder: Path, processes: int = 0) -> TrainingBatches:
    dataset = SplitDataset(train, definition(Task.CLASSIFICATION), Preprocess(SIZE, SIZE), Augment(()))
    return TrainingBatches(dataset, order(train), Worker(folder, processes))


def here(cache: Path) -> list[Path]:
    return list(cache.rglob("*.images.arrow"))


def size(cache: Path) -> int:
    total = 0
    for file in here(cache):
        with suppress(FileNotFoundError):  # it leaves just now
            total += file.stat().st_size
    return total


@pytest.mark.parametrize("processes", [0, 2])
def test_a_version_larger_than_its_place_gives_the_same_batches(stored: Path, tmp_path: Path, processes: int) -> None:
    whole = batches(split(stored, tmp_path / "whole"), tmp_path)
    train = split(stored, tmp_path / "part", 12)
    part = batches(train, tmp_path, processes)
    assert here(tmp_path / "part") == [], "opening fetches labels only"
    for position in ((0, 0), (1, 0), (1, 5)):
        seen = 0
        for expected, given in zip(whole.epoch(*position), part.epoch(*position), strict=True):
            assert torch.equal(expected[0], given[0])
            assert torch.equal(expected[1].labels, given[1].labels)  # type: ignore[attr-defined]
            assert size(tmp_path / "part") <= train.cache.limit
            seen += 1
        assert seen == order(train).steps_per_epoch - position[1]
    assert len(here(tmp_path / "whole")) == SHARDS


def test_training_starts_before_all_shards_are_here(stored: Path, tmp_path: Path) -> None:
    epoch = batches(split(stored, tmp_path / "cache"), tmp_path).epoch(0, 0)
    next(epoch)
    assert len(here(tmp_path / "cache")) < SHARDS
    assert sum(1 for _ in epoch) == order(split(stored, tmp_path / "cache")).steps_per_epoch - 1


def test_labels_are_read_without_images(stored: Path, tmp_path: Path) -> None:
    train = split(stored, tmp_path / "cache")
    assert train.column("label") == [index % 2 for index in range(len(train))]
    assert [sample.label for sample in train] == train.column("label")
    assert (train[5].name, train[5].width, train[5].boxes.shape) == ("5.png", SIZE, (0, 4))
    assert here(tmp_path / "cache") == []
    assert train[5].image_bytes == row(5)["image"]
    assert len(here(tmp_path / "cache")) == 1


def test_validation_goes_through_the_shards_in_their_order(stored: Path, tmp_path: Path) -> None:
    train = split(stored, tmp_path / "cache", 8)
    dataset = SplitDataset(train, definition(Task.CLASSIFICATION), Preprocess(SIZE, SIZE), Augment(()))
    seen = [label for _, targets, _ in ValidationBatches(dataset, 5, Worker(tmp_path)) for label in targets.labels]  # type: ignore[attr-defined]
    assert seen == train.column("label")


def test_a_shard_that_fails_is_asked_for_again_and_then_named(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "PAUSE_SECONDS", 0.0)
    fetch, calls = shard_cache._fetch_images, list[Path]()

    def failing(packed: object, target: Path, digest: str) -> None:
        calls.append(target)
        if len(calls) % shard_cache.ATTEMPTS:
            raise StoreUnavailable("the store does not answer", str(packed))
        fetch(packed, target, digest)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_cache, "_fetch_images", failing)
    train = split(stored, tmp_path / "cache")
    assert train[0].image_bytes == row(0)["image"]
    assert len(calls) == shard_cache.ATTEMPTS
    monkeypatch.setattr(shard_cache, "_fetch_images", lambda packed, *_: (_ for _ in ()).throw(
        StoreUnavailable("the store does not answer", str(packed))))  # fmt: skip
    with pytest.raises(StoreUnavailable, match=r"train-\d+.parquet: the store does not answer"):
        next(batches(split(stored, tmp_path / "other"), tmp_path).epoch(0, 0))


def test_the_store_is_asked_again_for_sizes_and_labels(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "PAUSE_SECONDS", 0.0)
    for name in ("size", "is_file"):
        real, failed = getattr(StorePath, name), set[str]()

        def failing(path: StorePath, real: Callable[[StorePath], int] = real, failed: set[str] = failed) -> int:
            if path.uri not in failed:
                failed.add(path.uri)
                raise StoreUnavailable("the store does not answer", path.uri)
            return real(path)

        monkeypatch.setattr(StorePath, name, failing)
    assert split(stored, tmp_path)[0].image_bytes == row(0)["image"]


def test_a_shard_that_another_process_is_about_to_map_stays(stored: Path, tmp_path: Path) -> None:
    train = split(stored, tmp_path, 2.1)
    first, second = (train.cache.images(shard) for shard in train.shards[:2])
    train.cache.fetch(train.shards[0])
    with ThreadPoolExecutor(1) as pool:
        with shard_cache._locked(shard_cache._lock(first)):
            other = pool.submit(train.cache.fetch, train.shards[1])
            assert not wait([other], 0.3).done
            assert first.exists()
        assert other.result() == second
    assert not first.exists()


def test_room_for_a_shard_on_its_way_is_not_given_twice(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, arriving, begun, go = shard_cache._fetch_images, list[Path](), Event(), Event()

    def slow(packed: StorePath, target: Path, digest: str) -> None:
        arriving.append(target)
        begun.set()
        go.wait()
        fetch(packed, target, digest)

    monkeypatch.setattr(shard_cache, "_fetch_images", slow)
    train = split(stored, tmp_path, 3)  # one takes its size twice while it arrives
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(train.cache.fetch, shard) for shard in train.shards[:2]]
        try:
            begun.wait()
            wait(both, 0.3)
            assert len(arriving) == 1
        finally:
            go.set()
    assert len(arriving) == 2
    assert [future.result().name for future in both] == [train.cache.images(shard).name for shard in train.shards[:2]]


def test_what_a_killed_process_left_is_removed(stored: Path, tmp_path: Path) -> None:
    train = split(stored, tmp_path, 3)
    lock = shard_cache._lock(train.cache.images(train.shards[5]))
    lock.touch()
    os.truncate(lock, 10**9)
    left = [lock.with_suffix(end) for end in (".part", ".parquet")]
    for file in left:
        file.write_bytes(b"half")
    assert train[0].image_bytes == row(0)["image"]
    assert not any(file.exists() for file in left)
    assert lock.stat().st_size == 0


def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / ".images.arrow.part").symlink_to("/dev/full")
    with pytest.raises(StoreFull, match=r"images.arrow: no space is left"):
        shard_cache._write(tmp_path / "images.arrow", iter([pa.table({"image": [b"0" * 10**6]})]))
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_has_left_is_mapped_no_more(stored: Path, tmp_path: Path) -> None:
    train, other = split(stored, tmp_path, 2.1), split(stored, tmp_path, 2.1)
    assert train[0].image_bytes == row(0)["image"]
    other.cache.fetch(train.shards[1])
    other.cache.fetch(train.shards[0])  # another file of the same name
    assert train[0].image_bytes == row(0)["image"]
    assert train[2 * ROWS].image_bytes == row(2 * ROWS)["image"]
    assert list(train._images) == [2]
    train.forget()
    assert train._images == {}


def test_shards_and_decoded_images_leave_a_part_of_the_disk() -> None:
    assert shard_cache.FREE_SHARE + DISK_SHARE <= 0.85


def test_a_place_that_is_too_small_is_refused_with_a_remedy(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match=r"the local copies may take .*work_dir_size"):
        list(batches(split(stored, tmp_path / "cache", 3), tmp_path).epoch(0, 0))


def test_a_label_file_that_is_no_parquet_is_refused(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "copy/shards"
    copied.mkdir(parents=True)
    (tmp_path / "copy" / MANIFEST).write_bytes((stored / MANIFEST).read_bytes())
    for file in (stored / "shards").iterdir():
        (copied / file.name).write_bytes(file.read_bytes()[: -100 if file.name.endswith("3.parquet") else None])
    monkeypatch.setattr(shard_cache, "PAUSE_SECONDS", 0.0)
    with pytest.raises(CorruptData, match=r"train-00003.parquet: the shard cannot be read"):
        split(tmp_path / "copy", tmp_path / "cache")
