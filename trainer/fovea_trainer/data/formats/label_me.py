"""LabelMe: a JSON file an image, with shapes and flags (https://github.com/wkentaro/labelme), also X-AnyLabeling's.

A file is of the image of its own name, beside it or in a folder that stands for its own; where there is none, or there
are several, of the one that its `imagePath` names. The image itself is read, never the copy in `imageData`.
A flag that is set is a class of the whole image; a file without flags has the classes of its shapes.
"""

from __future__ import annotations

import base64
import io
import math
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_trainer.data.checks import MAX_PIXELS, read_mask
from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of
from fovea_trainer.data.formats.coco import unnamed_rest
from fovea_trainer.data.formats.json_stream import shown, stream_arrays
from fovea_trainer.data.formats.pairs import READERS, Images, paired, stem_of
from fovea_trainer.data.formats.shapes import (
    WHOLE,
    Shape,
    box,
    cropped,
    ellipse,
    labels_of,
    polygon,
    refuse_boxes,
)
from fovea_trainer.data.records import FileImage, Labels, Region, SourceImage
from fovea_trainer.data.regions import corners_of, extent, fault_of, pixels_of, region_of
from fovea_trainer.data.text import decode_text

FILE_BYTES = 256 << 20
"""Largest file: it may hold the image, too."""
SAMPLE = 100
"""Files that are looked into to learn what the shapes are."""
POLYGONS = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")
POINTS = {
    **dict.fromkeys(POLYGONS, 3),
    **{"mask": 2, "circle": 2, "rectangle": 2, "line": 2, "linestrip": 2, "point": 1, "points": 1},
}
"""Fewest points of each kind of shape."""
OUTLINED = (*POLYGONS, "circle", "mask")
"""Kinds of shapes that say which pixels an object has."""
PNG = b"\x89PNG\r\n\x1a\n"
SAME_SIDE = 2
"""Pixels by which a mask and its box may differ: box ends are rounded, and counted or not."""
Size = tuple[int, int]
"""Width and height in pixels."""
LAYOUT = "LabelMe has <image>.json beside <image>.jpg"


@dataclass(frozen=True)
class LabelMe:
    """Reader of LabelMe."""

    tree: Tree
    options: Options

    def scan(self) -> Iterator[SourceImage | Finding]:
        files = list(self.tree.with_suffix(".json"))
        if not files:
            raise InvalidInput("there is no JSON file", str(self.tree.root), LAYOUT)
        images = self.tree.images
        if not images:
            raise InvalidInput("there are no images", str(self.tree.root), f"{LAYOUT}; `imageData` is not read")
        pairs, findings = self._pairs(files, Images(images))
        yield from findings
        if self.options.task in (Task.SEMANTIC_SEGMENTATION, Task.INSTANCE_SEGMENTATION):
            yield from self._look_into([file for file, image in pairs.items() if image is not None])
        for each in paired(self.tree, images, pairs, FILE_BYTES):
            if isinstance(each, Finding):
                yield each
            else:
                path, file = each
                yield SourceImage(path, FileImage(path), split_of(path), None, file)

    def read(self, item: SourceImage) -> Labels:
        if item.labels_path is None:
            message = "the image has no JSON file"
            return Labels(findings=(Finding(FindingKind.UNLABELLED, item.name, message),), place=item.name)
        return labels_of_file(read_file(self.tree, item.labels_path), self.options)

    def _pairs(self, files: Sequence[str], images: Images) -> tuple[dict[str, str | None], list[Finding]]:
        """The image of each file, and what is wrong with files that have none."""
        same = {file: images.near(file, stem_of(file)) for file in files}
        lonely = [file for file, image in same.items() if image is None]
        findings: list[Finding] = []
        named = partial(self._named, frozenset(images.paths))
        with ThreadPoolExecutor(READERS) as readers:
            for file, found in zip(lonely, readers.map(named, lonely), strict=True):
                if isinstance(found, Finding):
                    findings.append(found)
                    del same[file]
                else:
                    same[file] = found
        return same, findings

    def _named(self, images: Set[str], file: str) -> str | Finding:
        """The image that a file names; a finding where it names none that is there."""
        try:
            content = read_file(self.tree, file)
        except InvalidInput as error:
            return Finding(FindingKind.UNREADABLE_FILE, error.location or file, error.message, error.remedy or "")
        named, remedy = content.others.get("imagePath"), ""
        message = f"its image {shown(named)} is not in the source"
        try:
            located = self.tree.locate(named, file) if isinstance(named, str) else None
        except InvalidInput as error:
            return Finding(FindingKind.MISSING_IMAGE, file, error.message, error.remedy or "")
        if located is not None and located.path in images:
            return located.path
        if content.others.get("imageData"):
            message = f"its image {shown(named)} is in `imageData` alone, which is not read"
            remedy = "write the image out as a file beside the JSON file"
        return Finding(FindingKind.MISSING_IMAGE, file, message, remedy)

    def _look_into(self, files: Sequence[str]) -> Iterator[Finding]:
        """Raises InvalidInput where objects are learned by their pixels and none has any."""
        shapes: list[Shape] = []
        for file in files[:: max(1, len(files) // SAMPLE)]:
            with suppress(InvalidInput):  # a finding, once it is read for its image
                content = read_file(self.tree, file)
                shapes += [_shape(part, content.size) for part in content.drawn]
        refuse_boxes(shapes)
        if self.options.task == Task.SEMANTIC_SEGMENTATION and files:
            yield from unnamed_rest(self.options, {shape.name for shape in shapes}, files[0])


def open_reader(tree: Tree, options: Options) -> Reader:
    return LabelMe(tree, options)


# --- A file ---


@dataclass(frozen=True)
class Drawn:
    """A shape as the file has it."""

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]
    """Of a circle its centre, and a point on it."""
    place: str
    group: str = ""
    """What the shapes of one object have in common; empty: the shape is an object."""
    difficult: bool = False
    mask: NDArray[np.bool_] | None = None
    """Pixels `[height, width]` of a mask, the first of which lies at the first point."""


@dataclass(frozen=True)
class Content:
    """A LabelMe file."""

    file: str
    drawn: Sequence[Drawn]
    findings: Sequence[Finding]
    """What is wrong with its shapes."""
    others: Mapping[str, JsonValue] = field(default_factory=dict)
    """Its flags, its image and the image's size."""

    @property
    def flags(self) -> Mapping[str, JsonValue]:
        flags = self.others.get("flags")
        return flags if isinstance(flags, dict) else {}

    @property
    def size(self) -> Size | None:
        """Width and height of the image."""
        width, height = self.others.get("imageWidth"), self.others.get("imageHeight")
        if type(width) is int and type(height) is int and 0 < width * height <= MAX_PIXELS and width > 0:
            return width, height
        return None


def read_file(tree: Tree, file: str) -> Content:
    """A LabelMe file. Raises InvalidInput with the line; bad shapes become findings."""
    text, _ = decode_text((tree / file).read_bytes(FILE_BYTES))
    drawn: list[Drawn] = []
    findings: list[Finding] = []
    arrays: set[str] = set()
    others: dict[str, JsonValue] = {}
    pixels = 0
    for section, item, place in stream_arrays(io.StringIO(text), file, arrays, others):
        if section == "shapes":
            try:
                drawn.append(_drawn(item, place))
            except InvalidInput as error:
                findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message))
                continue
            pixels += 0 if (mask := drawn[-1].mask) is None else mask.size
            if pixels > MAX_PIXELS:
                raise InvalidInput(f"the masks up to here have more than {MAX_PIXELS:,} pixels", place)
    if "shapes" not in arrays:
        raise InvalidInput("the file has no `shapes`", f"{file}:1", "it is not LabelMe; move it away")
    return Content(file, drawn, findings, others)


def _drawn(item: JsonValue, place: str) -> Drawn:
    if not isinstance(item, dict):
        raise InvalidInput(f"the shape is {shown(item)}, not an object")
    name, kind = item.get("label"), item.get("shape_type") or "polygon"
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"`label` is {shown(name)}, not the name of a class")
    if not isinstance(kind, str) or kind not in POINTS:
        raise InvalidInput(f"`shape_type` is {shown(kind)}, not one of {', '.join(POINTS)}")
    points = item.get("points")
    if not isinstance(points, list) or len(points) < POINTS[kind]:
        raise InvalidInput(f"`points` of a {kind} are {shown(points)}, not [[x, y], …]")
    ends = tuple(_point(point) for point in points)
    group, flags = item.get("group_id"), item.get("flags")
    difficult = item.get("difficult") or (flags.get("difficult") if isinstance(flags, dict) else None)
    return Drawn(
        name.strip(),
        kind,
        ends,
        place,
        "" if group is None else str(group),
        difficult is True,
        _mask(item.get("mask"), ends, place) if kind == "mask" else None,
    )


def _point(point: JsonValue) -> tuple[float, float]:
    sides = point if isinstance(point, list) else []
    numbers = [float(side) for side in sides if isinstance(side, int | float) and abs(side) < 1e18]
    if len(numbers) != 2 or len(sides) != 2 or bool in map(type, sides):
        raise InvalidInput(f"`points` holds {shown(point)}, not [x, y]")
    return numbers[0], numbers[1]


def _mask(text: JsonValue, points: Sequence[tuple[float, float]], place: str) -> NDArray[np.bool_]:
    """The pixels of a mask: a PNG in base64, as large as the box of its two points, whose ends are within it."""
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except ValueError:
        data = b""
    if not data.startswith(PNG) or len(data) < len(PNG) + 16:
        raise InvalidInput(f"`mask` is {shown(text)}, not a PNG in base64")
    size = struct.unpack(">II", data[len(PNG) + 8 : len(PNG) + 16])
    sides = tuple(abs(end - start) + 1 for start, end in zip(*points[:2], strict=True))
    if any(abs(side - pixels) > SAME_SIDE for side, pixels in zip(sides, size, strict=True)):
        raise InvalidInput(f"the mask has {size[0]} x {size[1]} pixels, its box {sides[0]:g} x {sides[1]:g}")
    return read_mask(data, place) > 0


# --- What it says for a task ---


def labels_of_file(content: Content, options: Options) -> Labels:
    """What a file says about its image."""
    place = f"{content.file}:1"
    flags = [box(flag, place, WHOLE) for flag, value in content.flags.items() if value is True]
    shapes = [_shape_of(parts, content.size) for parts in _objects(content.drawn, options.task)]
    return labels_of(
        options,
        shapes,
        classes=flags or shapes,
        place=place,
        size=content.size,
        findings=content.findings,
        complete=not content.findings,
    )


def _objects(drawn: Sequence[Drawn], task: Task) -> list[list[Drawn]]:
    """The parts of each object: outlines of one class and group are of one, as labelme's converter to COCO has it.

    Where pixels are asked for, all shapes of the group are; boxes alone, which X-AnyLabeling groups for other reasons,
    are an object each.
    """
    joined = {Task.INSTANCE_SEGMENTATION: tuple(POINTS), Task.DETECTION: OUTLINED}.get(task, ())
    objects: dict[object, list[Drawn]] = defaultdict(list)
    for number, part in enumerate(drawn):
        objects[(part.name, part.group) if part.group and part.kind in joined else number].append(part)
    return list(objects.values())


def _shape_of(parts: Sequence[Drawn], size: Size | None) -> Shape:
    """An object of its parts; those with pixels say which it has."""
    shapes = [_shape(part, size) for part in [part for part in parts if part.kind in OUTLINED] or parts]
    first = shapes[0]
    corners = corners_of([shape.corners for shape in shapes])
    difficult = any(shape.difficult for shape in shapes)
    fault = next((shape.fault for shape in shapes if shape.pixels is None), "")
    regions = [shape.pixels for shape in shapes if shape.pixels is not None]
    try:
        pixels = None if fault else _joined(regions, size)
    except InvalidInput as error:
        pixels, fault = None, error.message
    pixels = pixels and replace(pixels, box=corners)
    return replace(first, corners=corners, pixels=pixels, fault=fault, difficult=difficult)


def _shape(part: Drawn, size: Size | None) -> Shape:
    points = [value for point in part.points for value in point]
    try:
        if part.kind in POLYGONS:
            shape = polygon(part.name, part.place, points)
        elif part.kind == "circle":
            radius = math.dist(*part.points[:2])
            shape = ellipse(part.name, part.place, part.points[0], (radius, radius), 0)
        elif part.mask is not None:
            shape = _masked(part, part.mask, size)
        else:
            shape = _box(part)
    except InvalidInput as error:
        shape = replace(_box(part), fault=error.message)
    return replace(shape, difficult=part.difficult)


def _box(part: Drawn) -> Shape:
    """The box around the points of a part that does not say which pixels are its own."""
    corners = corners_of([[value for point in part.points for value in point]])
    fault = f"a {part.kind} does not say which pixels are of the {part.name}"
    boxed = len(part.points) > 1 and part.kind != "points"
    return Shape(part.name, part.place, corners, fault=fault, boxed=boxed, difficult=part.difficult)


def _masked(part: Drawn, mask: NDArray[np.bool_], size: Size | None) -> Shape:
    """A mask, without what leaves its image; of an image of unknown size the box around it."""
    left, top = (round(value) for value in part.points[0])
    if size is None:
        x1, y1, x2, y2 = extent(mask)
        fault = "a mask needs `imageWidth` and `imageHeight`, which the file does not have"
        return Shape(part.name, part.place, (left + x1, top + y1, left + x2, top + y2), fault=fault)
    x, y = max(-left, 0), max(-top, 0)
    within = mask[y : size[1] - top, x : size[0] - left]
    return cropped(part.name, part.place, within, left + x, top + y, size)


def _joined(regions: Sequence[Region], size: Size | None) -> Region:
    """One region of several. Raises InvalidInput where one of them cannot be drawn."""
    if len(regions) == 1:
        return regions[0]
    if not any(region.runs for region in regions):
        return replace(regions[0], polygons=tuple(polygon for region in regions for polygon in region.polygons))
    assert size is not None, "regions of run lengths are of an image whose size is known"
    if fault := next(filter(None, (fault_of(region, *size) for region in regions)), ""):
        raise InvalidInput(fault)
    pixels = np.any([pixels_of(region, *size) for region in regions], axis=0)
    return region_of(pixels, regions[0].name, regions[0].place)
