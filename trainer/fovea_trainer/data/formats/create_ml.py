"""CreateML: JSON lists of images with annotations, as Apple's Create ML reads and Roboflow and labelImg write them
(https://developer.apple.com/documentation/createml/building-an-object-detector-data-source).

All files of a source are read. A box is the centre and the sides of an object, in pixels from the top left, which is
what Create ML takes where its program is not told otherwise; the file cannot say so. Where no number of a file is above
2, its boxes are shares of the image's sides. Annotations without coordinates are classes of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from pydantic import JsonValue

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of, split_of_file
from fovea_trainer.data.formats import annotation_files as listing
from fovea_trainer.data.formats.annotation_files import read_each
from fovea_trainer.data.formats.json_stream import shown, stream_list
from fovea_trainer.data.formats.listed import located_entries
from fovea_trainer.data.formats.shapes import WHOLE
from fovea_trainer.data.records import RELATIVE, Box, Labels, SourceImage, are_shares
from fovea_trainer.data.text import text_stream

IMAGE = ("image", "imagefilename", "filename", "file")
ANNOTATIONS = ("annotations", "annotation", "labels", "label")
"""Keys of an image's name and of its annotations, in lower case; Apple's own first."""
SIDES = ("x", "y", "width", "height")
LAYOUT = 'CreateML has [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": …, "y": …, …}}]}]'


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object of an image, or a class of all of it."""

    name: str
    sides: tuple[float, float, float, float] | None
    """x and y of the centre, width, height; None: it has no coordinates, or nobody asks for them."""
    place: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that a file lists."""

    name: str = field(compare=False)
    place: str = field(compare=False)
    annotations: tuple[Annotation, ...]
    labelled: bool
    """Whether it has annotations at all, which may be none: else nobody labelled it."""
    findings: tuple[Finding, ...] = field(compare=False)
    """What is wrong with its annotations."""


@dataclass(frozen=True)
class Content:
    """A CreateML file."""

    file: str
    entries: Sequence[Entry]
    findings: Sequence[Finding]
    """What is wrong with its entries."""

    @cached_property
    def relative(self) -> bool:
        """Whether its boxes are shares of the image's sides."""
        return are_shares([side for entry in self.entries for each in entry.annotations for side in each.sides or ()])


@dataclass(frozen=True)
class CreateML:
    """Reader of CreateML."""

    tree: Tree
    task: Task

    def scan(self) -> Iterator[SourceImage | Finding]:
        files = list(self.tree.with_suffix(".json"))
        if not files:
            raise InvalidInput("there is no JSON file", str(self.tree.root), LAYOUT)
        contents, unreadable = read_each(files, lambda file: read_file(self.tree, file, self.task == Task.DETECTION))
        yield from unreadable
        if self.task == Task.DETECTION:
            _refuse_classes(contents)
        entries: dict[tuple[str, Entry, bool], listing.Entry] = {}
        for content in contents:
            yield from content.findings
            located, missing = located_entries(self.tree, content.entries, content.file)
            yield from missing
            for path, entry in ((path, entry) for path, several in located.items() for entry in several):
                split = split_of_file(content.file) or split_of(path)
                listed = listing.Entry(path, entry.place, split, self._labels(path, content, entry))
                entries.setdefault((path, entry, content.relative), listed)  # once, where two say the same
        yield from listing.listed_once(self.tree, entries.values())

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")

    def _labels(self, path: str, content: Content, entry: Entry) -> Labels:
        findings = list(entry.findings)
        boxes: list[Box] = []
        for each in entry.annotations:
            if self.task == Task.CLASSIFICATION:
                boxes.append(Box(each.name, *WHOLE, place=each.place))
            elif each.sides is None:
                findings.append(Finding(FindingKind.INVALID_LABEL, each.place, "the annotation has no `coordinates`"))
            else:
                x, y, width, height = each.sides
                corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                boxes.append(Box(each.name, *corners, place=each.place))
        if not entry.labelled:
            findings.append(Finding(FindingKind.UNLABELLED, entry.place, f"{path} has no `annotations`"))
        size = RELATIVE if content.relative else None
        return Labels(boxes=tuple(boxes), size=size, place=entry.place, findings=tuple(findings))


def open_reader(tree: Tree, options: Options) -> Reader:
    return CreateML(tree, options.task)


def _refuse_classes(contents: Sequence[Content]) -> None:
    """Raises InvalidInput where annotations are classes of images alone."""
    every = [each for content in contents for entry in content.entries for each in entry.annotations]
    if every and all(each.sides is None for each in every):
        raise InvalidInput(
            "no annotation has `coordinates`",
            every[0].place,
            "give each its x, y, width and height, or learn classes of images by task: Classification",
        )


# --- A file ---


def read_file(tree: Tree, file: str, boxes: bool) -> Content:
    """A CreateML file. Raises InvalidInput where it lists no images; bad entries become findings.

    Args:
        tree: The source.
        file: The file.
        boxes: Whether coordinates are asked for.
    """
    entries: list[Entry] = []
    findings: list[Finding] = []
    with (tree / file).open() as raw, text_stream(raw) as stream:
        for item, place in stream_list(stream, file):
            try:
                entries.append(_entry(item, place, boxes))
            except InvalidInput as error:
                findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message))
    if findings and not entries:
        raise InvalidInput(f"the file lists no images: {findings[0].message}", findings[0].place, LAYOUT)
    return Content(file, entries, findings)


def _entry(item: JsonValue, place: str, boxes: bool) -> Entry:
    if not isinstance(item, dict):
        raise InvalidInput(f"the item is {shown(item)}, not an object")
    values = {key.lower(): value for key, value in item.items()}
    name = next((values[key] for key in IMAGE if key in values), None)
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"`image` is {shown(name)}, not the name of a file")
    given = next((values[key] for key in ANNOTATIONS if key in values), None)
    annotations: list[Annotation] = []
    findings: list[Finding] = []
    for number, each in enumerate(given if isinstance(given, list) else [] if given is None else [given], 1):
        where = f"{place}, annotation {number}"
        try:
            annotations.append(_annotation(each, where, boxes))
        except InvalidInput as error:
            findings.append(Finding(FindingKind.INVALID_LABEL, where, error.message))
    return Entry(name.strip(), place, tuple(annotations), given is not None, tuple(findings))


def _annotation(item: JsonValue, place: str, boxes: bool) -> Annotation:
    label = item.get("label") if isinstance(item, dict) else item
    if not isinstance(label, str) or not label.strip():
        raise InvalidInput(f"`label` is {shown(label)}, not the name of a class")
    given = item.get("coordinates") if isinstance(item, dict) and boxes else None
    return Annotation(label.strip(), None if given is None else _sides(given), place)


def _sides(coordinates: JsonValue) -> tuple[float, float, float, float]:
    values = [coordinates.get(side) for side in SIDES] if isinstance(coordinates, dict) else []
    numbers = [float(value) for value in values if isinstance(value, int | float) and abs(value) < 1e18]
    if len(numbers) != 4 or bool in map(type, values):
        raise InvalidInput(f"`coordinates` are {shown(coordinates)}, not x, y, width and height")
    return numbers[0], numbers[1], numbers[2], numbers[3]
