"""CSV: tables with a row an object, or a row an image, with a header or one of the known orders of columns.

All files of a source are read (`*.csv`, `*.tsv`), with commas, semicolons or tabs, and the labels of an image are
joined. What the columns mean is told by their names: see csv_columns. A row whose box is empty says that its image
shows no object. Boxes are pixels, or shares of the image's sides where no number of a file is above 2. The split is
that of the row, else of the file's name, else of the image's folder.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TextIO

from fovea_api.common import Task
from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of, split_of_file
from fovea_trainer.data.formats.annotation_files import contradiction, read_each
from fovea_trainer.data.formats.csv_columns import HEADER, YES, Columns, cell_of, classes_of, columns_of, number_of
from fovea_trainer.data.formats.listed import located_entries
from fovea_trainer.data.formats.pairs import Images
from fovea_trainer.data.formats.shapes import WHOLE
from fovea_trainer.data.records import (
    RELATIVE,
    Box,
    FileImage,
    Labels,
    NamedClass,
    SourceImage,
    are_shares,
    split_named,
)
from fovea_trainer.data.text import text_stream

SAMPLE = 100
"""Rows that are looked at to learn what the columns mean."""
LINE = 1 << 20
"""Longest first line."""
MULTI_HOT = 0.1
"""Share of rows with several classes from which a file is of labels of which an image can have several."""
UNASSIGNED = ("", "unassigned", "none", "nan")
"""Words for no split."""
GUESSES = re.compile(r"submission", re.IGNORECASE)
"""Names of files that competitions want to be filled in: their labels are no labels."""


@dataclass(slots=True)
class Entry:
    """An image that a file lists."""

    name: str
    place: str
    """Where it is listed first."""
    boxes: list[Box] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with its rows."""
    splits: dict[str, str] = field(default_factory=dict)
    """Where each split is named that it is put in."""
    size: tuple[int, int] | None = None


@dataclass(slots=True)
class Content:
    """A file."""

    file: str
    entries: dict[str, Entry] = field(default_factory=dict)
    """By the image as it is written."""
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with rows that name no image."""
    classes: Sequence[str] = ()
    """Those that it names, whether a row is of them or not."""
    unknown: set[str] = field(default_factory=set)
    """Words for splits that are none."""
    relative: bool = False
    """Whether its boxes are shares of the image's sides."""
    scored: int = 0
    """Labels that are not quite sure."""


@dataclass(frozen=True)
class CSV:
    """Reader of CSV."""

    tree: Tree
    task: Task
    class_map: Mapping[str, str]

    def scan(self) -> Iterator[SourceImage | Finding | NamedClass]:
        files = [path for path in self.tree.with_suffix(".csv", ".tsv") if not GUESSES.search(PurePosixPath(path).stem)]
        if not files:
            raise InvalidInput("there is no CSV file", str(self.tree.root), f"CSV has a header: {HEADER}")
        contents, unreadable = read_each(files, lambda file: read_file(self.tree, file, self.task, self.class_map))
        if unreadable and not any(content.entries for content in contents):
            raise InvalidInput(unreadable[0].message, unreadable[0].place, unreadable[0].remedy)
        yield from unreadable
        stems = Images(self.tree.images)
        located: dict[str, list[tuple[Content, Entry]]] = defaultdict(list)
        for content in contents:
            yield from content.findings
            yield from (NamedClass(name, content.file) for name in content.classes)
            found, missing = located_entries(self.tree, content.entries.values(), content.file, stems)
            yield from missing
            for path, entries in found.items():
                located[path] += [(content, entry) for entry in entries]
        for path, several in located.items():
            yield self._image(path, several)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")

    def _image(self, path: str, several: Sequence[tuple[Content, Entry]]) -> SourceImage | Finding:
        """An image with the labels of all rows that name it."""
        entries = [entry for _, entry in several]
        place = entries[0].place
        if len({content.relative for content, entry in several if entry.boxes}) > 1:
            self.tree.opened.add(path)  # a finding already
            message = f"{path} has boxes in pixels and in shares, at {' and '.join(one.place for one in entries[:3])}"
            return Finding(FindingKind.LISTED_TWICE, place, message)
        by_file: dict[str, tuple[str, list[tuple[str, Hashable]]]] = {}
        for content, entry in several:
            _, objects = by_file.setdefault(content.file, (entry.place, []))
            objects += [(box.name, box.corners) for box in entry.boxes]
        if (differing := contradiction(path, list(by_file.values()))) is not None:
            self.tree.opened.add(path)  # a finding already
            return differing
        findings = [finding for entry in entries for finding in entry.findings]
        splits = {split: where for entry in entries for split, where in entry.splits.items()}
        if not splits:
            named = {split_of_file(content.file): entry.place for content, entry in several}
            splits = {split: where for split, where in named.items() if split is not None}
        if len(splits) > 1:
            message = f"{path} is in the splits {' and '.join(f'{split} ({where})' for split, where in splits.items())}"
            findings.append(Finding(FindingKind.SPLIT_CONFLICT, next(iter(splits.values())), message))
        relative = any(content.relative for content, entry in several if entry.boxes)
        labels = Labels(
            boxes=tuple(box for entry in entries for box in entry.boxes),
            size=RELATIVE if relative else next((entry.size for entry in entries if entry.size), None),
            place=place,
            findings=tuple(findings),
        )
        split = next(iter(splits)) if len(splits) == 1 else None if splits else split_of(path)
        return SourceImage(path, FileImage(path), split, labels)


def open_reader(tree: Tree, options: Options) -> Reader:
    return CSV(tree, options.task, options.class_map)


# --- A file ---


def read_file(tree: Tree, file: str, task: Task, class_map: Mapping[str, str]) -> Content:
    """A CSV file. Raises InvalidInput where it is not clear what its columns are; bad rows become findings.

    Args:
        tree: The source.
        file: The file.
        task: What the labels are for.
        class_map: What the classes are called in the version; those dropped do not count.
    """
    with (tree / file).open() as raw, text_stream(raw) as stream:
        rows = read_rows(stream, file)
        first = list(itertools.islice(rows, SAMPLE))
        if not first:
            raise InvalidInput("the file is empty", file, f"CSV has a header: {HEADER}")
        if classes := classes_of([cells for cells, _ in first]):
            return Content(file, classes=classes)
        try:
            columns = columns_of([cells for cells, _ in first], task == Task.DETECTION)
        except InvalidInput as error:
            raise InvalidInput(error.message, f"{file}:{first[0][1]}", error.remedy) from None
        content = Content(file, classes=columns.classes)
        several: list[str] = []
        for cells, line in itertools.chain(first[1:] if columns.header else first, rows):
            names = _add(content, columns, cells, f"{file}:{line}", task)
            if len({class_map.get(name, name) for name in names} - {""}) > 1:
                several.append(f"{file}:{line}")
    if content.scored:
        message = f"{content.scored} labels have a confidence below 1, as predictions have"
        content.findings.append(Finding(FindingKind.PREDICTED_LABELS, file, message))
    if len(several) > MULTI_HOT * len(content.entries):
        raise InvalidInput(
            f"{len(several)} rows name several classes of an image; classification wants one",
            several[0],
            'give a column with the one class, or drop the others by classMap: {name: ""}',
        )
    sides = [side for entry in content.entries.values() for box in entry.boxes for side in box.corners]
    content.relative = columns.relative or are_shares(sides)
    return content


def read_rows(stream: TextIO, file: str) -> Iterator[tuple[list[str], int]]:
    """The rows of a file that hold anything, each with the line that it begins on. Raises InvalidInput where one cannot
    be read."""
    head = stream.readline(LINE)
    skipped = 0
    while head and not head.strip():
        head, skipped = stream.readline(LINE), skipped + 1
    if len(head) == LINE:
        raise InvalidInput(f"the first line is longer than {LINE:,} characters", f"{file}:1", "it is no CSV file")
    outside = re.sub(r'"[^"]*"', "", head)
    delimiter = max(",;\t", key=outside.count)
    reader = csv.reader(itertools.chain((head,), stream), delimiter=delimiter, skipinitialspace=True)
    while True:
        line = skipped + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(f"the row cannot be read: {error}", f"{file}:{line}", "close its quotes") from None
        if any(cell.strip() for cell in cells):
            yield cells, line


def _add(content: Content, columns: Columns, cells: Sequence[str], place: str, task: Task) -> list[str]:
    """Adds a row; gives the classes that it names. Raises InvalidInput where rows run into one another."""
    name = cells[columns.image].strip() if columns.image < len(cells) else ""
    if "\n" in name or "\r" in name:
        raise InvalidInput("a quote that begins here is not closed", place, "close it")
    entry = content.entries.setdefault(name, Entry(name, place)) if name else Entry(name, place)
    try:
        if not name:
            raise InvalidInput("the row names no image")
        if columns.header and any(cells[len(columns.header) :]):
            raise InvalidInput(f"the row has {len(cells)} cells, the header {len(columns.header)}")
        labels = columns.meaning.labels(cells)
        confidence = _confidence(cells, columns)
    except InvalidInput as error:
        findings = entry.findings if name else content.findings
        findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message))
        return []
    entry.size = entry.size or _size(cells, columns)
    _add_split(content, entry, cells, columns, place)
    if labels and confidence == 0:
        return []
    content.scored += bool(labels) and confidence < 1
    difficult = columns.difficult is not None and cell_of(cells, columns.difficult).lower() in YES
    for label, corners in labels:
        if task == Task.CLASSIFICATION or corners is None:
            entry.boxes.append(Box(label, *WHOLE, place=place))
        else:
            entry.boxes.append(Box(label, *corners, difficult, place))
    return [label for label, _ in labels]


def _confidence(cells: Sequence[str], columns: Columns) -> float:
    """How sure a row is; 1 where it does not say. Raises InvalidInput."""
    value = None if columns.confidence is None else number_of(cell_of(cells, columns.confidence))
    if value is not None and value < 0:
        raise InvalidInput(f"{value:g} is no confidence from 0 to 1")
    return 1 if value is None else value


def _add_split(content: Content, entry: Entry, cells: Sequence[str], columns: Columns, place: str) -> None:
    written = "" if columns.split is None else cell_of(cells, columns.split)
    if split := split_named(written):
        entry.splits.setdefault(split, place)
    elif written.lower() not in UNASSIGNED and written not in content.unknown:
        content.unknown.add(written)
        message = f"{written[:40]!r} is none of train, validation and test"
        content.findings.append(Finding(FindingKind.MISSING_SPLIT, place, message))


def _size(cells: Sequence[str], columns: Columns) -> tuple[int, int] | None:
    """Width and height of the image; None where they are none."""
    try:
        width, height = (int(float(cell_of(cells, position))) for position in columns.size or ())
    except (ValueError, OverflowError):
        return None
    return (width, height) if 0 < width < 1 << 20 and 0 < height < 1 << 20 else None
