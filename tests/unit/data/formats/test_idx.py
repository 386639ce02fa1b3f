"""IDX: one bad pair of files costs itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from dataset_support import read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format


def images(count: int) -> bytes:
    return bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 4, 4) + bytes(range(16 * count))


def labels(*numbers: int) -> bytes:
    return bytes([0, 0, 8, 1]) + struct.pack(">I", len(numbers)) + bytes(numbers)


BAD: dict[str, dict[str, str | bytes]] = {
    "no labels": {"t10k-images-idx3-ubyte": images(2)},
    "labels of another number": {"t10k-images-idx3-ubyte": images(2), "t10k-labels-idx1-ubyte": labels(0)},
    "cut off": {"t10k-images-idx3-ubyte": images(2)[:9], "t10k-labels-idx1-ubyte": labels(0, 1)},
    "another type": {"t10k-images-idx3-ubyte": b"\0\0\x0d\x03" + images(2)[4:], "t10k-labels-idx1-ubyte": labels(0, 1)},
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_pair_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    good: dict[str, str | bytes] = {"train-images-idx3-ubyte": images(2), "train-labels-idx1-ubyte": labels(0, 1)}
    found = read_source(Format.IDX, write(tmp_path, {**good, **BAD[case]}), Task.CLASSIFICATION, classes=("a", "b"))
    assert found.labels == {"train-0": "a", "train-1": "b"}
    assert [kind for kind, _ in found.findings] == ["UnreadableFile"]


def test_a_number_beyond_the_classes_is_named_with_its_entry(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train-images-idx3-ubyte": images(2), "train-labels-idx1-ubyte": labels(0, 9)}
    found = read_source(Format.IDX, write(tmp_path, files), Task.CLASSIFICATION, classes=("a", "b"))
    assert found.labels == {"train-0": "a"}
    assert found.findings == [("UnknownClass", "train-labels-idx1-ubyte[1]")]
