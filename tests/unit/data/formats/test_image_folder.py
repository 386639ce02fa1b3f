"""ImageFolder as the world lays it out: which folders are classes, which are splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from dataset_support import read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_trainer.data.records import split_named

Seen = dict[str, tuple[str | None, str | None]]

LAYOUTS: dict[str, tuple[Seen, list[str]]] = {
    "classes": ({"cats/1.jpg": ("cats", None), "dogs/1.jpg": ("dogs", None)}, []),
    "one class": ({"cats/1.jpg": ("cats", None), "cats/2.jpg": ("cats", None)}, []),
    "folders around": ({"a/b/cats/1.jpg": ("cats", None), "a/b/dogs/1.jpg": ("dogs", None)}, []),
    "folders within a class": ({"cats/old/1.jpg": ("cats", None), "dogs/1.jpg": ("dogs", None)}, []),
    "splits": ({"train/cats/1.jpg": ("cats", "train"), "Test-Set/cats/1.jpg": ("cats", "test")}, []),
    "one split": ({"train/cats/1.jpg": ("cats", "train"), "train/dogs/1.jpg": ("dogs", "train")}, []),
    "split by year": ({"train2017/cats/1.jpg": ("cats", "train"), "val2017/cats/1.jpg": ("cats", "validation")}, []),
    "splits within classes": ({"cats/train/1.jpg": ("cats", "train"), "dogs/holdout/1.jpg": ("dogs", "test")}, []),
    "the innermost split": ({"train/val/cats/1.jpg": ("cats", "validation"),
                             "train/train/cats/2.jpg": ("cats", "train")}, []),
    "unlabelled test": ({"train/cats/1.jpg": ("cats", "train"), "test/1.jpg": (None, "test")}, ["test/1.jpg"]),
    "unlabelled test beside classes": ({"cats/1.jpg": ("cats", None), "dogs/1.jpg": ("dogs", None),
                                        "test/1.jpg": (None, "test")}, ["test/1.jpg"]),
    "a stray picture": ({"cats/1.jpg": ("cats", None), "dogs/1.jpg": ("dogs", None), "preview.jpg": (None, None)},
                        ["preview.jpg"]),
    "a stray picture around": ({"pets/cats/1.jpg": ("cats", None), "pets/dogs/1.jpg": ("dogs", None),
                                "pets/sheet.jpg": (None, None)}, ["pets/sheet.jpg"]),
    "the vehicle": ({"bus/1.jpg": ("bus", None), "car/1.jpg": ("car", None), "train/1.jpg": ("train", None)}, []),
    "the vehicle in splits": ({"train/bus/1.jpg": ("bus", "train"), "train/train/1.jpg": (None, "train"),
                               "test/bus/1.jpg": ("bus", "test")}, ["train/train/1.jpg"]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    seen, unlabelled = LAYOUTS[layout]
    read = read_source(Format.IMAGE_FOLDER, write(tmp_path, dict.fromkeys(seen, "")), Task.CLASSIFICATION)
    assert read.labels == {path: name for path, (name, _) in seen.items() if name}
    assert {path: image.split for path, image in read.images.items()} == {path: each[1] for path, each in seen.items()}
    assert read.findings == [("Unlabelled", path) for path in unlabelled]


def test_folders_that_are_called_nearly_as_splits_are_told(tmp_path: Path) -> None:
    """So Intel's scenes lie in their archive; one such folder alone is as good a class as any."""
    names = ("seg_train/seg_train/sea/1.jpg", "seg_test/seg_test/sea/2.jpg", "train_station/3.jpg")
    read = read_source(Format.IMAGE_FOLDER, write(tmp_path / "a", dict.fromkeys(names, "")), Task.CLASSIFICATION)
    assert read.findings == [("MissingSplit", name) for name in ("seg_test", "seg_train", "train_station")]
    root = write(tmp_path / "b", {"train_station/1.jpg": "", "harbour/2.jpg": ""})
    assert read_source(Format.IMAGE_FOLDER, root, Task.CLASSIFICATION).findings == []


def test_a_declared_class_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/bus/1.jpg": "", "train/train/1.jpg": "", "test/bus/1.jpg": ""})
    assert set(
        read_source(Format.IMAGE_FOLDER, root, Task.CLASSIFICATION, classes=("bus", "train")).labels.values()
    ) == {"bus", "train"}


@pytest.mark.parametrize("paths", [("training/1.jpg", "holdout/2.jpg"), ("test/1.jpg",), ("1.jpg", "2.jpg")])
def test_split_names_alone_are_refused(paths: Sequence[str], tmp_path: Path) -> None:
    root = write(tmp_path, dict.fromkeys(paths, ""))
    with pytest.raises(InvalidInput, match=r"no class|class's folder"):
        read_source(Format.IMAGE_FOLDER, root, Task.CLASSIFICATION)


def test_names_of_splits() -> None:
    named = {name: split_named(name) for name in ("Train", "train_images", "trainset", "val2017", "valid", "Test-Set",
                                                  "testdata", "hold_out", "dev", "test_tube", "contest", "settest",
                                                  "trainval", "images", "data", "2017")}  # fmt: skip
    assert {name for name, split in named.items() if split == "train"} == {"Train", "train_images", "trainset"}
    assert {name for name, split in named.items() if split == "validation"} == {"val2017", "valid", "dev"}
    assert {name for name, split in named.items() if split == "test"} == {"Test-Set", "testdata", "hold_out"}
