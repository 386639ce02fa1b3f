"""Annotation files that list many images: reading each, and telling apart the images that several entries claim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.records import FileImage, Labels, SourceImage

T = TypeVar("T")


def read_each(files: Iterable[str], read: Callable[[str], T]) -> tuple[list[T], list[Finding]]:
    """What the files say, and those that cannot be read. Raises the first file's InvalidInput where none can."""
    contents: list[T] = []
    faults: list[InvalidInput] = []
    for file in files:
        try:
            contents.append(read(file))
        except InvalidInput as error:
            faults.append(error)
    if faults and not contents:
        raise faults[0]
    return contents, [
        Finding(FindingKind.UNREADABLE_FILE, fault.location or "", fault.message, fault.remedy or "")
        for fault in faults
    ]


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that an annotation file lists."""

    path: str
    place: str
    split: str | None
    labels: Labels


def listed_once(tree: Tree, entries: Iterable[Entry]) -> Iterator[SourceImage | Finding]:
    """The images of entries; one that has several is left out, for whose labels are its own is not known."""
    by_path: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_path[entry.path].append(entry)
    for path, several in by_path.items():
        if len(several) == 1:
            yield SourceImage(path, FileImage(path), several[0].split, several[0].labels)
            continue
        places = " and ".join(entry.place for entry in several[:3])
        message = f"{path} is listed {len(several)} times, at {places}: which labels are its own is not known"
        tree.opened.add(path)  # a finding already
        yield Finding(FindingKind.LISTED_TWICE, several[0].place, message)
