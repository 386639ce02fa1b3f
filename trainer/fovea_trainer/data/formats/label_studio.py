"""Label Studio: the export called JSON, a list of tasks with their annotations (https://labelstud.io/guide/export).

Of several annotations of a task the one that is marked as ground truth counts, else the newest; cancelled ones, drafts
and predictions are no labels. A task without an annotation is not labelled; an annotation without regions says that
nothing is there. Coordinates are percents of the image as it is displayed, however it was turned for the labelling
(`image_rotation`). A turned rectangle is the box around it, and an outline where the task asks for one.

An image is found by its path or URL: of uploaded files, whose names the tool changes and puts eight digits before, by
either name. Brush strokes are run lengths of RGBA pixels (rle-pack of https://github.com/thi-ng/umbrella); every pixel
that is not transparent is of the region.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_serving.captures.label_files import WITHOUT_NAMES, finished_annotation, label_names
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of
from fovea_trainer.data.formats.annotation_files import Entry, listed_once, read_each
from fovea_trainer.data.formats.coco import unnamed_rest
from fovea_trainer.data.formats.json_stream import stream_list
from fovea_trainer.data.formats.shapes import (
    MAX_NUMBER,
    WHOLE,
    Shape,
    box,
    check_area,
    cropped,
    ellipse,
    labels_of,
    polygon,
    refuse_boxes,
    turned,
    unusable,
)
from fovea_trainer.data.image_files import image_by_name
from fovea_trainer.data.records import Labels, SourceImage
from fovea_trainer.data.regions import rectangle
from fovea_trainer.data.text import text_stream

EXPORT = "export the project as JSON"
UPLOADED = re.compile(r"/data/upload/\d+/(?P<name>(?:[0-9a-f]{8}-)?(?P<original>[^/]+))")
CHANGED = re.compile(r"[^-\w.]")
"""Letters that the tool leaves out of the names of uploaded files, once blanks are underscores."""
DRAWN = ("rectangle", "polygon", "ellipse", "brush", "keypoint", "vector", "bitmask")
"""Results whose names are in another result of the same id, of the type `labels`."""

Item = Mapping[str, JsonValue]


@dataclass(slots=True)
class Labelled:
    """An image of a task with what its annotation says of it."""

    images: list[str]
    """What of the task's data can be its name."""
    place: str
    size: tuple[int, int] | None = None
    shapes: list[Shape] = field(default_factory=list)
    choices: list[Shape] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    complete: bool = True


@dataclass(frozen=True)
class LabelStudio:
    """Reader of Label Studio."""

    tree: Tree
    options: Options

    def scan(self) -> Iterator[SourceImage | Finding]:
        files = list(self.tree.with_suffix(".json"))
        if not files:
            raise InvalidInput("there is no JSON file", str(self.tree.root), EXPORT)
        contents, unreadable = read_each(files, self._read_file)
        yield from unreadable
        shapes = [shape for _, tasks, _ in contents for task in tasks for shape in task.shapes]
        if self.options.task == Task.SEMANTIC_SEGMENTATION:
            yield from unnamed_rest(self.options, {shape.name for shape in shapes}, contents[0][0])
        if self.options.outlines:
            refuse_boxes(shapes)
        entries: list[Entry] = []
        for file, tasks, findings in contents:
            yield from findings
            for task in tasks:
                try:
                    entries.append(self._entry(task, file))
                except InvalidInput as error:
                    yield Finding(FindingKind.MISSING_IMAGE, task.place, error.message, error.remedy or "")
        yield from listed_once(self.tree, entries)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")

    def _entry(self, task: Labelled, file: str) -> Entry:
        """A task's image with its labels. Raises InvalidInput where it is not in the source, or could be two."""
        path = next((path for name in task.images if (path := self._path(name, file)) is not None), None)
        if path is None:
            raise InvalidInput(f"the image {task.images[0][-60:]!r} is not in the source", task.place)
        labels = labels_of(
            self.options,
            task.shapes,
            classes=task.choices,
            place=task.place,
            size=task.size,
            findings=task.findings,
            complete=task.complete,
        )
        return Entry(path, task.place, split_of(path) or split_of(file), labels)

    def _path(self, written: str, file: str) -> str | None:
        """The image of a path or URL. Raises InvalidInput where two could be meant."""
        if (place := self.tree.locate(written, file, "images")) is not None:
            return place.path
        if (uploaded := UPLOADED.search(written)) is None:
            return None
        paths = self._uploadable.get(uploaded["name"]) or self._uploadable.get(uploaded["original"]) or []
        if len(paths) > 1:
            message = f"{written!r} could be {' or '.join(map(str, paths[:3]))}"
            raise InvalidInput(message, None, "give the files the names that Label Studio has given them")
        return paths[0] if paths else None

    @cached_property
    def _uploadable(self) -> Mapping[str, list[str]]:
        """Paths of images by the name that an upload gives them, less the digits before it."""
        names: dict[str, list[str]] = defaultdict(list)
        for path in self.tree.images:
            names[CHANGED.sub("", path.rpartition("/")[2].strip().replace(" ", "_"))].append(path)
        return names

    # --- One file ---

    def _read_file(self, file: str) -> tuple[str, list[Labelled], list[Finding]]:
        """A file's name, its tasks, and what is wrong with entries that are none."""
        tasks: list[Labelled] = []
        findings: list[Finding] = []
        with (self.tree / file).open() as raw, text_stream(raw) as stream:
            for item, place in stream_list(stream, file):
                if isinstance(item, dict) and "annotator" in item and "annotation_id" in item:
                    raise InvalidInput("this is the export JSON-MIN, without types and sizes", place, EXPORT)
                try:
                    tasks += self._tasks(item, place)
                except InvalidInput as error:
                    findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message))
        if not tasks:
            why = f": {findings[0].message}" if findings else ""
            raise InvalidInput(f"the file lists no tasks with an image{why}", f"{file}:1", "it is not Label Studio's")
        return file, tasks, findings

    def _tasks(self, item: JsonValue, place: str) -> list[Labelled]:
        """The images of a task with what its annotation says of each. Raises InvalidInput where that is not known."""
        data = item.get("data") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(data, dict):
            raise InvalidInput("the entry is no task: it has no `data`", place)
        texts = {key: value for key, value in data.items() if isinstance(value, str) and value.strip()}
        images = {key: value for key, value in texts.items() if key == "image" or _is_image(value)}
        if not texts:
            listed = any(isinstance(value, list) for value in data.values())
            words = "lists images, of which one a task is read" if listed else "names no image"
            raise InvalidInput(f"the task's `data` {words}", place)
        annotation = finished_annotation(item)
        results = None if annotation is None else annotation.get("result")
        if not isinstance(results, list):
            words = "the task has no annotation" if annotation is None else "the annotation has no `result`"
            finding = Finding(FindingKind.UNLABELLED, place, words)
            shown = [_places(images, "image")] if "image" in images else [[value] for value in images.values()]
            return [Labelled(places, place, findings=[finding]) for places in shown or [[*texts.values()]]]
        every = [one for one in results if isinstance(one, dict)]
        named = {str(one.get("id")) for one in every if label_names(one)}
        told = [(number, one) for number, one in enumerate(every, 1) if self._tells(one)]
        tasks: list[Labelled] = []
        for places, of_image in _by_image(images, texts, told, place):
            tasks.append(task := Labelled(places, place))
            for number, result in of_image:
                self._add(task, result, f"{place}, result {result.get('id') or number}", named)
        return tasks

    def _tells(self, result: Item) -> bool:
        """Whether a result draws something, or gives the whole image a class where the task wants that."""
        kind, value = str(result.get("type", "")).lower(), result.get("value")
        if not isinstance(value, dict) or kind in WITHOUT_NAMES:
            return False
        whole = kind == "choices"
        of_region = whole and any(key in value for key in (*SHAPES, "x"))  # it says nothing about the image
        return whole == (self.options.task == Task.CLASSIFICATION) and not of_region

    def _add(self, task: Labelled, result: Item, place: str, named: set[str]) -> None:
        """Adds what a result draws, or the classes that it gives the image."""
        kind, value = str(result.get("type", "")).lower(), result["value"]
        assert isinstance(value, dict)
        names = label_names(result)
        if kind in DRAWN and not names and str(result.get("id")) in named:
            return  # the result of the same id has its geometry, too
        try:
            if not names:
                raise InvalidInput(f"the {kind or 'result'} has no label", place)
            for name in names:
                if kind == "choices":
                    task.choices.append(box(name, place, WHOLE))
                elif (shape := self._shape(name, result, value, place)) is not None:
                    task.size = task.size or _size(result)
                    task.shapes.append(shape)
        except InvalidInput as error:
            task.findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message, error.remedy or ""))
            task.complete = False

    def _shape(self, name: str, result: Item, value: Item, place: str) -> Shape | None:
        """The shape of a result; None of one that is dropped on purpose. Raises InvalidInput."""
        size = _size(result)
        if size is None:
            raise InvalidInput("`original_width` and `original_height` are no size of an image", place, EXPORT)
        for key, make in SHAPES.items():
            if key in value:
                return make(name, place, value, size)
        points = _pixels(value, ("x", "y"), size, place) if "x" in value else []
        return unusable(self.options, name, place, str(result.get("type"))[:40], points)


def open_reader(tree: Tree, options: Options) -> Reader:
    return LabelStudio(tree, options)


def _is_image(written: str) -> bool:
    """Whether a path or URL names an image file."""
    return any(map(image_by_name, (written, written.partition("?")[0])))


def _places(images: Mapping[str, str], field: str) -> list[str]:
    """What can name the image of a field: its value and, where that names no file, what other fields name."""
    value = images[field]
    return [value] if _is_image(value) else [value, *(other for key, other in images.items() if key != field)]


def _by_image(
    images: Mapping[str, str], texts: Mapping[str, str], results: Sequence[tuple[int, Item]], place: str
) -> list[tuple[list[str], Sequence[tuple[int, Item]]]]:
    """The results of each image, with what can be its name.

    Where a task has several images, a result is of the one whose field is called as its tag is (`to_name`), or, with
    one tag alone, of the field `image`. Raises InvalidInput where no field is called so.
    """
    if len(images) < 2:
        return [([*(images or texts).values()], results)]
    tags = dict.fromkeys(str(result.get("to_name")) for _, result in results)
    if tags and tags.keys() <= images.keys():
        return [(_places(images, tag), [one for one in results if str(one[1].get("to_name")) == tag]) for tag in tags]
    if len(tags) < 2 and "image" in images:
        return [(_places(images, "image"), results)]
    raise InvalidInput(f"which image of {', '.join(images)} is labelled is not known", place)


# --- Shapes -------------------------------------------------------------------------------------------------

Size = tuple[int, int]
"""Width and height in pixels."""


def _rectangle(name: str, place: str, value: Item, size: Size) -> Shape:
    """A rectangle, turned clockwise round its upper left corner."""
    x, y, width, height = _pixels(value, ("x", "y", "width", "height"), size, place)
    degrees = _number(value, "rotation", place, 0.0)
    if not degrees:
        return box(name, place, (x, y, x + width, y + height))
    return polygon(name, place, turned(rectangle(x, y, x + width, y + height), (x, y), degrees))


def _polygon(name: str, place: str, value: Item, size: Size) -> Shape:
    points = value["points"]
    pairs = [{"x": point[0], "y": point[1]} for point in points if isinstance(point, list) and len(point) == 2] \
        if isinstance(points, list) else []  # fmt: skip
    return polygon(name, place, [side for pair in pairs for side in _pixels(pair, ("x", "y"), size, place)])


def _ellipse(name: str, place: str, value: Item, size: Size) -> Shape:
    x, y, across, down = _pixels(value, ("x", "y", "radiusX", "radiusY"), size, place)
    return ellipse(name, place, (x, y), (across, down), _number(value, "rotation", place, 0.0))


def _brush(name: str, place: str, value: Item, size: Size) -> Shape:
    check_area(*size, place)
    rle = value["rle"]
    try:
        data = bytes(rle) if isinstance(rle, list) else b""  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidInput("`rle` is no list of bytes", place) from None
    return cropped(name, place, decode_alpha(data, *size, place) > 0, 0, 0, size)


SHAPES: Mapping[str, Callable[[str, str, Item, Size], Shape]] = {
    "rle": _brush,
    "points": _polygon,
    "radiusX": _ellipse,
    "height": _rectangle,
}
"""By the key that only such a value has: how a shape is made of its label, place, value and the size of its image."""


def decode_alpha(data: bytes, width: int, height: int, place: str) -> NDArray[np.uint8]:
    """The fourth channel `[height, width]` of RGBA pixels that rle-pack has packed.

    It begins with the number of values (32 bits), the bits of each less 1 (5) and four lengths less 1 (4 each). Runs
    follow: a bit that says whether one value is repeated; which of the four lengths the run's own is written in (2);
    this, less 1; and the value, or so many. Raises InvalidInput where the data are of another size, or end early.
    """
    bits = _Bits(data, place)
    if (count := bits.read(32)) != width * height * 4:
        raise InvalidInput(f"the brush strokes have {count:,} values, not {width} x {height} x 4", place)
    word = bits.read(5) + 1
    if word != 8:
        raise InvalidInput(f"the values of the brush strokes have {word} bits, not 8", place)
    lengths = [bits.read(4) + 1 for _ in range(4)]
    alpha = np.zeros(width * height, np.uint8)
    start = 0
    while start < count:
        repeated = bits.read(1)
        end = start + 1 + bits.read(lengths[bits.read(2)])
        if end > count:
            raise InvalidInput("the brush strokes have more values than they say", place)
        # values 3, 7, 11, … are those of the fourth channel
        values = bits.read(8) if repeated else bits.words(end - start)[3 - start % 4 :: 4]
        alpha[start // 4 : end // 4] = values
        start = end
    return alpha.reshape(height, width)


class _Bits:
    """Numbers of some bits each, the highest bit first."""

    def __init__(self, data: bytes, place: str) -> None:
        self.data, self.place, self.position = data, place, 0

    def _advance(self, count: int) -> tuple[bytes, int]:
        """The bytes that the next bits lie in, and how many bits of the first are used already."""
        start, end = self.position, self.position + count
        if end > len(self.data) * 8:
            raise InvalidInput("the brush strokes end early", self.place)
        self.position = end
        return self.data[start // 8 : (end + 7) // 8], start % 8

    def read(self, count: int) -> int:
        data, used = self._advance(count)
        return (int.from_bytes(data, "big") >> (len(data) * 8 - used - count)) & ((1 << count) - 1)

    def words(self, count: int) -> NDArray[np.uint8]:
        """So many numbers of 8 bits."""
        data, used = self._advance(count * 8)
        return np.packbits(np.unpackbits(np.frombuffer(data, np.uint8))[used : used + count * 8])


def _pixels(value: Item, keys: Sequence[str], size: Size, place: str) -> list[float]:
    """Percents of an image's width and height, in turn, in pixels."""
    return [_number(value, key, place) * size[index % 2] / 100 for index, key in enumerate(keys)]


def _number(value: Item, key: str, place: str, default: float | None = None) -> float:
    number = value.get(key, default)
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < MAX_NUMBER:
        raise InvalidInput(f"`{key}` is {str(number)[:40]!r}, not a number", place)
    return float(number)


def _size(result: Item) -> Size | None:
    """Width and height of the image that a result is of; None where it does not say."""
    width, height = result.get("original_width"), result.get("original_height")
    if not isinstance(width, int | float) or not isinstance(height, int | float):
        return None
    return (int(width), int(height)) if 1 <= width < 1 << 20 and 1 <= height < 1 << 20 else None
