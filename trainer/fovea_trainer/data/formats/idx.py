"""IDX: the layout of MNIST and its kin, `<split>-images-idx3-ubyte` and `<split>-labels-idx1-ubyte`.

Packed files (`.gz`) are unpacked before (see sources).

The file starts with two zero bytes, the type (8: uint8) and the number of dimensions, then each dimension as
a big-endian uint32 (http://yann.lecun.com/exdb/mnist). Classes are named by `classes`, or by their number,
which `classMap` renames.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree
from fovea_trainer.data.records import SPLIT_NAMES, Labels, RawImage, SourceImage

UINT8 = 8
MAX_COUNT = 50_000_000
"""Images in one file."""
MAX_SIDE = 16_384
"""Pixels of a side."""
PREFIXES = {**SPLIT_NAMES, "t10k": "test"}
"""First word of the file's name, by convention of MNIST."""


@dataclass(frozen=True)
class IDX:
    """Reader of IDX."""

    tree: Tree
    classes: tuple[str, ...]

    def scan(self) -> Iterator[SourceImage | Finding]:
        pairs = [
            (
                path,
                path.replace("-images-idx", "-labels-idx").replace("-idx3-", "-idx1-").replace("-idx4-", "-idx1-"),
            )
            for path in self.tree.with_suffix("-ubyte")
            if "-images-idx" in path
        ]
        if not pairs:
            raise InvalidInput(
                "there are no IDX files",
                str(self.tree.root),
                "IDX has train-images-idx3-ubyte[.gz] and labels",
            )
        broken: list[InvalidInput] = []
        for images, labels in pairs:
            try:
                yield from self._pair(images, labels)
            except InvalidInput as error:
                broken.append(error)
        if len(broken) == len(pairs):
            raise broken[0]
        for fault in broken:
            yield Finding(FindingKind.UNREADABLE_FILE, fault.location or "", fault.message, fault.remedy or "")

    def _pair(self, images: str, labels: str) -> Iterator[SourceImage]:
        if labels not in self.tree.files:
            raise InvalidInput("the labels of these images are missing", images, f"add {labels}")
        shape, start = header(self.tree, images)
        count = shape[0]
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
            raise InvalidInput(f"the dimensions {shape} are not those of images", images, "count, height, width")
        label_shape, label_start = header(self.tree, labels)
        if label_shape != (count,):
            raise InvalidInput(f"there are {count} images but labels of shape {label_shape}", labels)
        with (self.tree / labels).open() as file:
            file.seek(label_start)
            numbers = read_exactly(file, count, labels)
        prefix = PurePosixPath(images).name.split("-")[0]
        channels = shape[3] if len(shape) == 4 else 1
        size = shape[1] * shape[2] * channels
        width = len(str(count - 1))
        for index in range(count):
            name = self.classes[numbers[index]] if numbers[index] < len(self.classes) else str(numbers[index])
            place = f"{labels}[{index}]"
            yield SourceImage(
                f"{prefix}-{index:0{width}}",
                RawImage(images, start + index * size, shape[1], shape[2], channels),
                PREFIXES.get(prefix.lower()),
                Labels(name=name, place=place),
            )

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")


def open_reader(tree: Tree, options: Options) -> Reader:
    # `classes` gives the numbers their names, unless classMap does it or the classes are numbers themselves.
    numbered = options.class_map or all(name.isdecimal() for name in options.classes)
    return IDX(tree, () if numbered else tuple(options.classes))


def header(tree: Tree, path: str) -> tuple[tuple[int, ...], int]:
    """Dimensions and the offset of the first value. Raises InvalidInput for anything but uint8 IDX."""
    with (tree / path).open() as file:
        magic = read_exactly(file, 4, path)
        if magic[:3] != bytes([0, 0, UINT8]) or not 1 <= magic[3] <= 4:
            raise InvalidInput(f"the file starts with {magic.hex()}, which is not IDX of uint8", path)
        shape = struct.unpack(f">{magic[3]}I", read_exactly(file, 4 * magic[3], path))
        if not 0 < shape[0] <= MAX_COUNT or any(not 0 < side <= MAX_SIDE for side in shape[1:]):
            raise InvalidInput(f"the dimensions {shape} cannot be true", path)
        return shape, 4 + 4 * magic[3]


def read_exactly(file: BinaryIO, count: int, path: str) -> bytes:
    """`count` bytes. Raises InvalidInput where the file ends before."""
    data = file.read(count)
    if len(data) != count:
        raise InvalidInput(f"the file ends {count - len(data):,} bytes too early", path, "fetch it again")
    return data
