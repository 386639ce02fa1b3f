"""COCO: JSON files of images, annotations and categories (https://cocodataset.org/#format-data).

The files are read as a stream, so that memory is bounded by the annotations and not by the text, and every
error names its line. One file a split, as in `annotations/instances_train2017.json`.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TextIO

from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from pydantic import JsonValue

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree
from fovea_trainer.data.records import SPLIT_NAMES, Box, FileImage, Found, Labels, Region

BLOCK = 1 << 20
"""Characters read at once."""
MAX_ITEM = 64 << 20
"""Characters of one image or annotation; beyond it the file is no COCO file."""
SECTIONS = ("images", "annotations", "categories")
MAX_POINTS = 1_000_000
"""Numbers of one annotation's polygons."""


@dataclass(frozen=True)
class COCO:
    """Reader of COCO."""

    tree: Tree
    task: Task

    def scan(self) -> Iterator[Found]:
        files = [path for path in self.tree.with_suffix(".json") if "caption" not in path and "keypoint" not in path]
        if not files:
            raise InvalidInput("there is no JSON file", str(self.tree.root), "COCO has annotations/*.json and images")
        by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.tree.files:
            by_name[PurePosixPath(path).name].append(path)
        seen: dict[str, str] = {}
        for file in files:
            for found in self._file(file, by_name):
                if found.name in seen:
                    raise InvalidInput(f"the image {found.name} is also in {seen[found.name]}", file, "list it once")
                seen[found.name] = file
                yield found

    def read(self, found: Found) -> Labels:
        raise AssertionError("scan gives all labels")

    def _file(self, file: str, by_name: dict[str, list[str]]) -> Iterator[Found]:
        categories: dict[int, str] = {}
        images: dict[int, tuple[str, int, int, str]] = {}
        annotations: dict[int, list[Annotation]] = defaultdict(list)
        findings: dict[int, list[Finding]] = defaultdict(list)
        lost: list[Finding] = []
        sections: set[str] = set()
        with io.TextIOWrapper((self.tree / file).open(), "utf-8-sig", errors="strict") as stream:
            for section, item, line in stream_arrays(stream, file):
                sections.add(section)
                place = f"{file}:{line}"
                if section not in SECTIONS:
                    continue
                if not isinstance(item, dict):
                    raise InvalidInput(f"an item of {section} is not an object", place)
                if section == "categories":
                    categories[_integer(item, "id", place)] = _text(item, "name", place)
                elif section == "images":
                    number = _integer(item, "id", place)
                    if number in images:
                        raise InvalidInput(f"two images have the id {number}", place, "make the ids unique")
                    width, height = (_integer(item, side, place, 0) for side in ("width", "height"))
                    images[number] = (_text(item, "file_name", place), width, height, place)
                elif section == "annotations":
                    try:
                        number = _integer(item, "image_id", place)
                    except InvalidInput as error:
                        lost.append(Finding(FindingKind.INVALID_LABEL, place, error.message))
                        continue
                    try:
                        annotations[number].append(self._annotation(item, place))
                    except InvalidInput as error:
                        findings[number].append(Finding(FindingKind.INVALID_LABEL, place, error.message))
        if "images" not in sections:
            raise InvalidInput("the file lists no images", f"{file}:1", "it is not COCO; move it away")
        for number in (annotations.keys() | findings.keys()) - images.keys():
            for annotation in annotations[number]:
                message = f"there is no image of id {number}"
                lost.append(Finding(FindingKind.INVALID_LABEL, annotation.place, message))
            lost.extend(findings[number])
        split = _split(file)
        for number, (name, width, height, place) in images.items():
            path = _resolve(name, self.tree, file, by_name, place)
            found_findings = findings.get(number, [])
            if lost:
                found_findings, lost = [*lost, *found_findings], []
            labels = self._labels(annotations.get(number, []), categories, found_findings)
            size = (width, height) if width > 0 and height > 0 else None
            yield Found(
                path,
                FileImage(path),
                split,
                Labels(**labels, size=size, place=place),  # type: ignore[arg-type]
            )

    def _labels(
        self, annotations: list[Annotation], categories: dict[int, str], findings: list[Finding]
    ) -> dict[str, object]:
        boxes: list[Box] = []
        regions: list[Region] = []
        for annotation in annotations:
            name = categories.get(annotation.category)
            if name is None:
                message = f"there is no category of id {annotation.category}"
                findings.append(Finding(FindingKind.UNKNOWN_CLASS, annotation.place, message))
            elif self.task == Task.SEMANTIC_SEGMENTATION:
                regions.append(Region(name, annotation.polygons, annotation.runs, annotation.size, annotation.place))
            else:
                x, y, width, height = annotation.box
                boxes.append(Box(name, x, y, x + width, y + height, annotation.crowd, annotation.place))
        return {"boxes": tuple(boxes), "regions": tuple(regions), "findings": tuple(findings)}

    def _annotation(self, item: dict[str, JsonValue], place: str) -> Annotation:
        category = _integer(item, "category_id", place)
        crowd = item.get("iscrowd") == 1
        if self.task == Task.SEMANTIC_SEGMENTATION:
            polygons, runs, size = _segmentation(item.get("segmentation"), place)
            return Annotation(category, place, crowd, polygons=polygons, runs=runs, size=size)
        box = item.get("bbox")
        if box is None and self.task == Task.CLASSIFICATION:
            box = [0.0, 0.0, math.inf, math.inf]
        return Annotation(category, place, crowd, box=_four(box, place))


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation as far as the task needs it."""

    category: int
    place: str
    crowd: bool
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)


def open_reader(tree: Tree, options: Options) -> Reader:
    return COCO(tree, options.task)


# --- Values -------------------------------------------------------------------------------------------------


def _integer(item: dict[str, JsonValue], key: str, place: str, default: int | None = None) -> int:
    value = item.get(key, default)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(f"`{key}` is {_short(value)}, not a whole number", place)
    return value


def _text(item: dict[str, JsonValue], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"`{key}` is {_short(value)}, not a text", place)
    return value.strip()


def _four(value: JsonValue, place: str) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(side) for side in value):
        raise InvalidInput(f"`bbox` is {_short(value)}, not [x, y, width, height]", place)
    x, y, width, height = (float(side) for side in value if isinstance(side, int | float))
    return (x, y, width, height)


def _segmentation(
    value: JsonValue, place: str
) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...], tuple[int, int]]:
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            raise InvalidInput(f"`segmentation.size` is {_short(size)}, not [height, width]", place)
        height, width = (side for side in size if isinstance(side, int))
        runs = decode_runs(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
            raise InvalidInput("`segmentation.counts` is no list of run lengths", place)
        whole = tuple(run for run in runs if isinstance(run, int))
        if sum(whole) != height * width:
            raise InvalidInput(f"the run lengths sum to {sum(whole)}, not to {height} x {width}", place)
        return (), whole, (height, width)
    polygons: list[tuple[float, ...]] = []
    for part in value if isinstance(value, list) else [value]:
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or len(part) > MAX_POINTS:
            raise InvalidInput(
                f"`segmentation` is {_short(part)}, not polygons [[x1, y1, x2, y2, x3, y3, …], …]", place
            )
        if not all(_is_number(number) for number in part):
            raise InvalidInput("a polygon holds something that is no finite number", place)
        polygons.append(tuple(float(number) for number in part if isinstance(number, int | float)))
    if not polygons:
        raise InvalidInput("`segmentation` is empty", place)
    return tuple(polygons), (), (0, 0)


def decode_runs(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character, relative to the run before the last (maskApi.c)."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more and position < len(text):
            bits = ord(text[position]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            position, shift = position + 1, shift + 5
            if not more and bits & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _short(value: JsonValue) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _split(file: str) -> str | None:
    words = re.split(r"[^a-z]+", PurePosixPath(file).stem.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None) or next(
        (SPLIT_NAMES[part.lower()] for part in PurePosixPath(file).parts[:-1] if part.lower() in SPLIT_NAMES),
        None,
    )


def _resolve(name: str, tree: Tree, file: str, by_name: dict[str, list[str]], place: str) -> str:
    """The path of an image that a COCO file names: at the root, beside the file, in images/, or anywhere."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name:
        raise InvalidInput(
            f"`file_name` is {_short(name)}, which leaves the dataset",
            place,
            "write paths relative to the dataset",
        )
    folder = str(PurePosixPath(file).parent)
    for prefix in ("", f"{folder}/", "images/"):
        if (path := f"{prefix}{name}".removeprefix("./")) in tree.files:
            return path
    candidates = [path for path in by_name.get(PurePosixPath(name).name, []) if path.endswith(name)]
    if len(candidates) > 1:
        raise InvalidInput(f"{name} could be {' or '.join(candidates[:3])}", place, "write more of the path")
    return candidates[0] if candidates else name


# --- Streaming JSON -----------------------------------------------------------------------------------------


def stream_arrays(stream: TextIO, file: str) -> Iterator[tuple[str, JsonValue, int]]:
    """The items of the arrays of the top-level object, as (key, item, line), holding one item at a time.

    NaN and infinity become None; nesting as deep as a bomb and broken JSON raise InvalidInput with the line.
    """
    text = _Window(stream, file)
    text.expect("{")
    if text.peek() == "}":
        return
    while True:
        key = text.value()
        if not isinstance(key, str):
            raise text.error("a key is not a text")
        text.expect(":")
        if text.peek() == "[":
            text.expect("[")
            while text.peek() != "]":
                text.skip_space()
                line = text.line
                yield key, text.value(), line
                if text.peek() != ",":
                    break
                text.expect(",")
            text.expect("]")
        else:
            text.value()
        if text.peek() == "}":
            return
        text.expect(",")


class _Window:
    """A moving piece of a JSON text, and the line that it starts on."""

    def __init__(self, stream: TextIO, file: str) -> None:
        self.stream, self.file = stream, file
        self.text, self.position, self.line, self.ended = "", 0, 1, False
        self.decode: Callable[[str, int], tuple[JsonValue, int]] = json.JSONDecoder(
            parse_constant=lambda _: None
        ).raw_decode

    def error(self, message: str) -> InvalidInput:
        return InvalidInput(message, f"{self.file}:{self.line}", "repair the file")

    def fill(self) -> bool:
        """Reads on; drops what has been used. False at the end."""
        try:
            block = self.stream.read(BLOCK)
        except UnicodeDecodeError as error:
            raise self.error(f"the file is not UTF-8: {error.reason}") from None
        self.text, self.position = self.text[self.position :] + block, 0
        self.ended = not block
        return not self.ended

    def advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.position, end)
        self.position = end

    def skip_space(self) -> None:
        while True:
            end = self.position
            while end < len(self.text) and self.text[end] in " \t\r\n":
                end += 1
            self.advance(end)
            if end < len(self.text) or not self.fill():
                return

    def peek(self) -> str:
        self.skip_space()
        return self.text[self.position : self.position + 1]

    def expect(self, sign: str) -> None:
        if (found := self.peek()) != sign:
            raise self.error(f"the JSON is broken: {sign!r} expected, {found or 'the end of the file'!r} found")
        self.advance(self.position + 1)

    def value(self) -> JsonValue:
        self.skip_space()
        while True:
            start = self.position
            try:
                value, end = self.decode(self.text, start)
                # A number that touches the end of the window may go on behind it.
                if end < len(self.text) or not self.fill():
                    self.advance(end - start + self.position)
                    return value
            except json.JSONDecodeError as error:
                if len(self.text) - start > MAX_ITEM:
                    raise self.error(f"an item is longer than {MAX_ITEM:,} characters") from None
                if not self.fill():
                    self.advance(min(error.pos - start, len(self.text)))
                    raise self.error(f"the JSON is broken: {error.msg}") from None
            except RecursionError:
                raise self.error("the JSON is nested too deeply") from None
            except ValueError as error:
                raise self.error(f"the JSON is broken: {error}") from None
