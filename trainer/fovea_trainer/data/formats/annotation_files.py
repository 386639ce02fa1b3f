"""Annotation files that list many images: reading each, and telling apart the images that several entries claim.

Labels of one image may lie in several files, one for each kind of them. Where two files have objects of one class, of
which none has all of the other's, they are no parts: one is a former export, or of somebody else.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.records import FileImage, Labels, Region, SourceImage

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
    """The images of entries; one that has several, which differ, is left out: whose labels are its own is not known.

    Those that do not are of jobs that overlap, or of an export that is there twice.
    """
    by_path: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_path[entry.path].append(entry)
    for path, several in by_path.items():
        if len(several) == 1 or len({(entry.split, _content(entry.labels)) for entry in several}) == 1:
            yield SourceImage(path, FileImage(path), several[0].split, several[0].labels)
            continue
        places = " and ".join(entry.place for entry in several[:3])
        message = f"{path} is listed {len(several)} times, at {places}: which labels are its own is not known"
        tree.opened.add(path)  # a finding already
        yield Finding(FindingKind.LISTED_TWICE, several[0].place, message)


def _content(labels: Labels) -> Hashable:
    """What labels say, wherever they stand."""
    return (
        tuple((box.name, box.corners, box.difficult, box.outline and _outline(box.outline)) for box in labels.boxes),
        tuple(map(_outline, labels.regions)),
        *(labels.size, labels.complete, labels.waits, tuple(finding.kind for finding in labels.findings)),
    )


def _outline(region: Region) -> Hashable:
    return region.name, region.polygons, region.runs, region.size, region.box


def contradiction(path: str, files: Sequence[tuple[str, Iterable[tuple[str, Hashable]]]]) -> Finding | None:
    """What two files say differently about an image.

    Args:
        path: The image.
        files: Where each file lists it, and class and outline of its objects there.
    """
    if len(files) < 2:
        return None
    by_class: list[tuple[str, dict[str, set[Hashable]]]] = []
    for place, objects in files:
        outlines: dict[str, set[Hashable]] = defaultdict(set)
        by_class.append((place, outlines))
        for name, outline in objects:
            outlines[name].add(outline)
    for (first, one), (second, other) in itertools.combinations(by_class, 2):
        for name in sorted(one.keys() & other.keys()):
            if not (one[name] <= other[name] or other[name] <= one[name]):
                message = f"{path} has other objects of the class {name} at {first} than at {second}"
                return Finding(
                    FindingKind.LISTED_TWICE, first, message, "keep the file that is right, and move the other away"
                )
    return None
