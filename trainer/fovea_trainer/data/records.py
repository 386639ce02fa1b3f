"""What flows from a source to a version: an image and its labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fovea_trainer.data.findings import Finding

IGNORE = 255
"""Class index of mask pixels that belong to no class; they count neither in training nor in evaluation."""
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "validate": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}
"""What the world calls the three splits."""
_BESIDE = re.compile(
    r"(?<![a-z])(data|set|dataset|split|images?|imgs?|labels?|annotations?|only)(?![a-z])|(set|data|images)$"
)
"""Words beside the name of a split: test_set, train-images, valset."""


def split_named(folder: str) -> str | None:
    """The split that a folder's name means, such as `val2017`, `Test-Set` or `train_images`; None for other names."""
    words = _BESIDE.sub("", re.sub(r"[^a-z]+", " ", folder.lower()).strip())
    return SPLIT_NAMES.get("".join(words.split()))


RELATIVE = (-1, -1)
"""Size that marks boxes as shares of the image's sides, from 0 to 1."""
MAX_SHARE = 2.0
"""Largest number that is taken for a share: boxes leave their images a little."""


def are_shares(sides: Collection[float]) -> bool:
    """Whether the numbers of all boxes of a file are shares of the image's sides: of pixels, some would be larger."""
    return bool(sides) and max(map(abs, sides)) <= MAX_SHARE


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image in a file of its own; `path` is relative to the source."""

    path: str


@dataclass(frozen=True, slots=True)
class RawImage:
    """A grey or RGB image inside of a file of raw pixels (IDX)."""

    path: str
    offset: int
    height: int
    width: int
    channels: int


ImageRef = FileImage | RawImage


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels of one class: polygons [[x1, y1, x2, y2, …], …], or run lengths down the columns (COCO)."""

    name: str
    """The class; empty where it is not known: the pixels are ignored."""
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)
    """Height and width of the run lengths."""
    place: str = ""
    box: tuple[float, float, float, float] | None = None
    """x1, y1, x2, y2 of its box, where there is one beside the pixels."""


@dataclass(frozen=True, slots=True)
class Box:
    """An object: x1, y1, x2, y2 in pixels of the displayed image, absolute, not yet checked."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    difficult: bool = False
    place: str = ""
    outline: Region | None = None
    """Its pixels, where they are labelled and the task asks for them."""

    @property
    def corners(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A picture whose pixel values are classes. `lookup[value]` is the class index, IGNORE for none.

    `known[value]` says whether the value may occur at all.
    """

    path: str
    lookup: bytes
    known: bytes
    orientation: int = 1
    """How EXIF turns the image's raster, of which the mask is; 1 where the mask is of the displayed picture."""
    colors: tuple[int, ...] = ()
    """Colours 0xRRGGBB, whose position here is the pixel's value; IGNORE is that of all others. Empty: no colours."""


@dataclass(frozen=True, slots=True)
class Labels:
    """All that an annotation says about one image."""

    name: str | None = None
    """Class of the whole image."""
    boxes: tuple[Box, ...] = ()
    regions: tuple[Region, ...] = ()
    mask: MaskFile | None = None
    size: tuple[int, int] | None = None
    """Width and height that the annotation claims."""
    place: str = ""
    findings: tuple[Finding, ...] = ()
    complete: bool = True
    """Whether all that the image shows is known, or known to be unknown; otherwise the image is left out."""
    waits: bool = False
    """Nobody has labelled the image yet: it is not in the version, and that is no fault."""


@dataclass(frozen=True, slots=True)
class NamedClass:
    """A class that a source's files name, whether a label is of it or not."""

    name: str
    place: str
    """The file that names it."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image of a source. Labels that lie in a file of their own are read later, by a worker."""

    name: str
    """Path relative to the source (POSIX): the image's name in every later version."""
    image: ImageRef
    split: str | None = None
    """The split that the source puts it in: train, validation, test."""
    labels: Labels | None = None
    labels_path: str | None = None
    outlines_path: str | None = None
    """A picture whose pixels say which object they are of."""
    group: str = ""
    """What the source says that it belongs to; images of a group stay in one split. Empty: it does not say."""

    def files(self) -> Iterator[str]:
        """Paths of the files that the image and its labels lie in."""
        yield self.image.path
        if self.labels_path is not None:
            yield self.labels_path
        if self.outlines_path is not None:
            yield self.outlines_path
        if self.labels is not None and self.labels.mask is not None:
            yield self.labels.mask.path
