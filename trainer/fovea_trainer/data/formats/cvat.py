"""CVAT: its own XML, "CVAT for images 1.1" and "CVAT for video 1.1" (https://docs.cvat.ai/docs/other/xml_format).

A file is one task's, one job's or one project's; its images are in images/ beside it, those of a project in
images/<subset>/. Every image that a file lists has been looked at: one without shapes shows no object. A file about a
video lists tracks by numbers of frames, and its images are all of images/frame_<number>.PNG.

A turned box is the box around it, and an outline where the task asks for one, as in CVAT's export to COCO. Polygons of
one image, one label and one `group_id` are parts of one object, as there.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of
from fovea_trainer.data.formats.annotation_files import Entry, listed_once, read_each
from fovea_trainer.data.formats.coco import unnamed_rest
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
from fovea_trainer.data.formats.xml_tree import Element, stream_xml
from fovea_trainer.data.records import Labels, NamedClass, SourceImage, split_named
from fovea_trainer.data.regions import corners_of, rectangle

LAYOUT = "CVAT has annotations.xml and images/; export it as CVAT for images 1.1, with images"
UNUSABLE = ("polyline", "points", "cuboid", "skeleton")
"""Shapes that surround no object."""
CORNER = re.compile("[xy][tb][lr][12]")
"""Attributes of a cuboid: of its front, then of its back."""
FRAME = re.compile(r"frame_(?P<number>\d{1,9})\.\w+", re.IGNORECASE)
SUFFIXES = ("", ".png", ".jpg")
"""What a file can have behind the name of its frame."""
TAG = "tag"
"""The type of labels that images alone have; those of no type, or of `any`, can be drawn as well."""
DEFAULT = "default"
"""What CVAT calls the subset of a project's tasks that are in none."""


@dataclass(slots=True)
class Image:
    """An image, or a frame, with what is drawn on it."""

    name: str
    subset: str
    place: str
    size: tuple[int, int] | None
    shapes: list[tuple[int, str, Shape]] = field(default_factory=list)
    """Each with its height above the others, and the number of the group that it is a part of; 0: of none."""
    tags: list[Shape] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    complete: bool = True

    def objects(self) -> list[Shape]:
        """The shapes from the one at the back on; polygons of a group are one."""
        objects: list[Shape] = []
        parts: dict[tuple[str, str], int] = {}  # a group of a label, and where its object is
        for _, group, shape in sorted(self.shapes, key=lambda each: each[0]):
            index = parts.setdefault((group, shape.name), len(objects)) if group != "0" else len(objects)
            if index < len(objects):
                objects[index] = _joined(objects[index], shape)
            else:
                objects.append(shape)
        return objects


@dataclass(slots=True)
class Content:
    """A file of CVAT."""

    file: str
    names: list[str] = field(default_factory=list)
    """Of the labels that can be the task's."""
    tasks: list[tuple[str, tuple[int, int] | None]] = field(default_factory=list)
    """Each task's subset, empty where it is not a project's, and the size of its frames."""
    video: bool = False
    images: list[Image] = field(default_factory=list)
    frames: dict[tuple[str, int], Image] = field(default_factory=dict)
    """Those that a track is on, by subset and number."""
    gaps: dict[str, list[tuple[int, int, str]]] = field(default_factory=lambda: defaultdict(list))
    """By subset: two frames between which a track is where the file does not say, and its place in the file."""
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with the file itself."""


@dataclass(frozen=True)
class CVAT:
    """Reader of CVAT."""

    tree: Tree
    options: Options

    def scan(self) -> Iterator[SourceImage | Finding | NamedClass]:
        files = list(self.tree.with_suffix(".xml"))
        if not files:
            raise InvalidInput("there are no XML files", str(self.tree.root), LAYOUT)
        contents, unreadable = read_each(files, self._read_file)
        yield from unreadable
        names = [NamedClass(name, content.file) for content in contents for name in content.names]
        if self.options.task == Task.SEMANTIC_SEGMENTATION:
            yield from unnamed_rest(self.options, {each.name for each in names}, contents[0].file)
        if self.options.outlines:
            refuse_boxes(shape for content in contents for image in content.images for _, _, shape in image.shapes)
        yield from names
        entries: list[Entry] = []
        for content in contents:
            yield from content.findings
            for image in content.images:
                try:
                    entries.append(self._entry(image, content.file))
                except InvalidInput as error:
                    yield Finding(FindingKind.MISSING_IMAGE, image.place, error.message, error.remedy or "")
        yield from listed_once(self.tree, entries)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")

    def _entry(self, image: Image, file: str) -> Entry:
        """An image with its path. Raises InvalidInput where it is not in the source, or could be two."""
        path = self._path(image, file)
        labels = labels_of(
            self.options,
            image.objects(),
            classes=image.tags,
            place=image.place,
            size=image.size,
            findings=image.findings,
            complete=image.complete,
        )
        return Entry(path, image.place, split_named(image.subset) or split_of(path) or split_of(file), labels)

    def _path(self, image: Image, file: str) -> str:
        folders = (f"images/{image.subset}", image.subset, "images") if image.subset else ("images",)
        for suffix in SUFFIXES if not PurePosixPath(image.name).suffix else SUFFIXES[:1]:
            if (place := self.tree.locate(image.name + suffix, file, *folders)) is not None:
                return place.path
        raise InvalidInput(f"the image {image.name[:60]!r} is not in the source", image.place)

    # --- One file ---

    def _read_file(self, file: str) -> Content:
        content = Content(file)
        tracks = 0
        with (self.tree / file).open() as raw:
            for element in stream_xml(raw, file, "annotations"):
                if element.tag == "meta":
                    self._add_meta(content, element)
                elif element.tag == "image":
                    content.images.append(self._image(content, element))
                elif element.tag == "track":
                    tracks += 1
                    self._add_track(content, element)
        if not content.images and (tracks or content.video):
            content.images = self._frames(content)
        if not content.images:
            raise InvalidInput("the file lists no images", f"{file}:1", "it is not CVAT's; move it away")
        return content

    def _add_meta(self, content: Content, meta: Element) -> None:
        """What is said of a task, a job or a project."""
        frames = meta.find("original_size")  # of a job; a task has its own
        for about in (child for child in meta.children if child.tag in ("task", "job", "project")):
            labels, tasks = about.find("labels"), about.find("tasks")
            content.names += [label.value("name") for label in labels.children if self._counts(label)] if labels else []
            for task in [about] if tasks is None else tasks.children:
                subset = "" if tasks is None else task.value("subset") or DEFAULT
                size = task.find("original_size") or frames
                sides = {child.tag: child.text for child in size.children} if size else {}
                content.tasks.append((subset, _size(sides)))
                content.video = content.video or task.value("mode") == "interpolation"

    def _counts(self, label: Element) -> bool:
        """Whether a label can be the task's: a tag for images, something with an area for objects."""
        kind = label.value("type")
        if not label.value("name") or label.value("parent"):
            return False
        return kind in ("", "any", TAG) if self.options.task == Task.CLASSIFICATION else kind not in (TAG, *UNUSABLE)

    def _image(self, content: Content, element: Element) -> Image:
        attributes, place = element.attributes, f"{content.file}:{element.line}"
        image = Image(attributes.get("name", "").strip(), attributes.get("subset", ""), place, _size(attributes))
        for child in element.children:
            self._add_shape(image, child, child.attributes, f"{content.file}:{child.line}")
        return image

    def _add_shape(self, image: Image, element: Element, attributes: Mapping[str, str], place: str) -> None:
        """Adds a shape or a tag to an image; one that cannot be read is a finding."""
        tagged = element.tag == TAG
        if tagged != (self.options.task == Task.CLASSIFICATION) or attributes.get("outside") == "1":
            return
        try:
            name = attributes.get("label", "").strip()
            if not name and (tagged or element.tag in SHAPES):
                raise InvalidInput(f"the <{element.tag}> has no label", place)
            if tagged:
                image.tags.append(box(name, place, WHOLE))
            elif element.tag in SHAPES:
                shape = SHAPES[element.tag](name, place, attributes, image.size)
                group = attributes.get("group_id", "0") if element.tag == "polygon" else "0"
                image.shapes.append((_whole(attributes, "z_order", place, "0"), group, shape))
            elif element.tag in UNUSABLE:
                points = [side for part in (element, *element.children) for side in _points(part.attributes, place)]
                if (line := unusable(self.options, name, place, f"a <{element.tag}>", points)) is not None:
                    image.shapes.append((0, "0", line))
        except InvalidInput as error:
            image.findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message, error.remedy or ""))
            image.complete = False

    # --- Video ---

    def _add_track(self, content: Content, track: Element) -> None:
        """Adds the shapes of a track to their frames.

        CVAT writes a shape for each frame that the object is on, and one that is outside where it is gone.
        """
        subset, name = track.attributes.get("subset", ""), track.attributes.get("label", "")
        sizes = dict(content.tasks)
        last: tuple[int, bool] | None = None
        for element in (child for child in track.children if child.tag != "track"):  # that of a skeleton's part
            place = f"{content.file}:{element.line}"
            try:
                number = _whole(element.attributes, "frame", place)
            except InvalidInput as error:
                content.findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message))
                continue
            if last is not None and not last[1]:
                content.gaps[subset].append((last[0], number, place))
            last = number, element.attributes.get("outside") == "1"
            image = content.frames.setdefault((subset, number), Image("", subset, place, sizes.get(subset)))
            self._add_shape(image, element, {**element.attributes, "label": name}, place)

    def _frames(self, content: Content) -> list[Image]:
        """The frames of a video that are in the source, and those that a track is on.

        Raises InvalidInput where none is there, or where it is not known which video's they are.
        """
        subsets = [subset for subset, _ in content.tasks] or list(dict.fromkeys(subset for subset, _ in content.frames))
        remedy = "export each task, or as CVAT for images 1.1"
        if len(set(subsets)) < len(subsets):
            message = "two videos are in one subset: whose frames the images are is not known"
            raise InvalidInput(message, f"{content.file}:1", remedy)
        images: list[Image] = []
        for subset in subsets:
            size = dict(content.tasks).get(subset)
            paths = self._frame_files(content.file, subset)
            unknown = _between(sorted(paths), content.gaps[subset])
            for number in sorted(paths):
                image = content.frames.pop((subset, number), None) or Image("", subset, content.file, size)
                image.name = paths[number]
                if number in unknown:
                    message = "a track is on frames before and behind this one, and the file does not say where on it"
                    image.findings.append(Finding(FindingKind.UNLABELLED, unknown[number], message, remedy))
                images.append(image)
        if not images:
            message = "the labels are a video's, by numbers of frames: images/frame_000000.PNG and so on are not there"
            raise InvalidInput(message, f"{content.file}:1", "export with images, or as CVAT for images 1.1")
        for (_, number), image in content.frames.items():
            if image.shapes:
                message = f"the frame {number} is not in the source"
                content.findings.append(Finding(FindingKind.MISSING_IMAGE, image.place, message))
        return images

    def _frame_files(self, file: str, subset: str) -> Mapping[int, str]:
        """The paths of a video's frames by their numbers: those in the folder that CVAT has them in."""
        here = PurePosixPath(file).parent
        folders: dict[PurePosixPath, dict[int, str]] = defaultdict(dict)
        for path in self.tree.images:
            if (match := FRAME.fullmatch(PurePosixPath(path).name)) is not None:
                folders[PurePosixPath(path).parent][int(match["number"])] = path
        likely = (here / "images" / subset, here / subset, here / "images", here)
        return next((folders[folder] for folder in likely if folder in folders), {})


def open_reader(tree: Tree, options: Options) -> Reader:
    return CVAT(tree, options)


def _between(numbers: Sequence[int], gaps: Sequence[tuple[int, int, str]]) -> Mapping[int, str]:
    """The numbers, which are sorted, that lie within a gap, with the place of one."""
    begins: dict[int, list[str]] = defaultdict(list)
    depth = [0] * (len(numbers) + 1)
    for first, last, place in gaps:
        begin, end = bisect.bisect_right(numbers, first), bisect.bisect_left(numbers, last)
        if begin < end:
            begins[begin].append(place)
            depth[begin] += 1
            depth[end] -= 1
    within: dict[int, str] = {}
    place = ""
    for index, (number, count) in enumerate(zip(numbers, itertools.accumulate(depth), strict=False)):
        place = begins[index][0] if index in begins else place
        if count:
            within[number] = place
    return within


# --- Shapes -------------------------------------------------------------------------------------------------


def _joined(one: Shape, other: Shape) -> Shape:
    """Two polygons as one object."""
    assert one.pixels is not None
    assert other.pixels is not None
    polygons = (*one.pixels.polygons, *other.pixels.polygons)
    return replace(one, corners=corners_of(polygons), pixels=replace(one.pixels, polygons=polygons))


def _box(name: str, place: str, attributes: Mapping[str, str], _: object) -> Shape:
    x1, y1, x2, y2 = (_number(attributes, edge, place) for edge in ("xtl", "ytl", "xbr", "ybr"))
    degrees = _number(attributes, "rotation", place, "0")
    if not degrees:
        return box(name, place, (x1, y1, x2, y2))
    return polygon(name, place, turned(rectangle(x1, y1, x2, y2), ((x1 + x2) / 2, (y1 + y2) / 2), degrees))


def _polygon(name: str, place: str, attributes: Mapping[str, str], _: object) -> Shape:
    return polygon(name, place, _points(attributes, place))


def _ellipse(name: str, place: str, attributes: Mapping[str, str], _: object) -> Shape:
    x, y, across, down = (_number(attributes, key, place) for key in ("cx", "cy", "rx", "ry"))
    return ellipse(name, place, (x, y), (across, down), _number(attributes, "rotation", place, "0"))


def _mask(name: str, place: str, attributes: Mapping[str, str], size: tuple[int, int] | None) -> Shape:
    """A mask: lengths of runs along the rows of a part of the image, that of the background first."""
    if size is None:
        raise InvalidInput("the size of the mask's image is not known", place)
    left, top, width, height = (_whole(attributes, key, place) for key in ("left", "top", "width", "height"))
    check_area(width, height, place)
    try:
        runs = [int(run) for run in attributes.get("rle", "").split(",")]
    except ValueError:
        raise InvalidInput("`rle` is no list of run lengths", place) from None
    if min(runs) < 0 or sum(runs) != width * height:
        raise InvalidInput(f"the run lengths sum to {sum(runs)}, not to {width} x {height}", place)
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return cropped(name, place, pixels, left, top, size)


SHAPES: Mapping[str, Callable[[str, str, Mapping[str, str], tuple[int, int] | None], Shape]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
}
"""By their elements: how a shape is made of its label's name, its place, its attributes and the size of its image."""


def _points(attributes: Mapping[str, str], place: str) -> list[float]:
    """x1, y1, x2, y2, … of `points`, or of a cuboid's corners."""
    corners = [attributes[key] for key in attributes if CORNER.fullmatch(key)]
    written = attributes.get("points", "").replace(",", ";").split(";") if "points" in attributes else corners
    return [_finite(value, "a point", place) for value in written]


def _number(attributes: Mapping[str, str], key: str, place: str, default: str = "") -> float:
    return _finite(attributes.get(key, default), f"`{key}`", place)


def _finite(text: str, what: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < MAX_NUMBER:
        raise InvalidInput(f"{what} is {text[:40]!r}, not a number", place)
    return value


def _whole(attributes: Mapping[str, str], key: str, place: str, default: str = "") -> int:
    text = attributes.get(key, default)
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"`{key}` is {text[:40]!r}, not a whole number", place) from None


def _size(attributes: Mapping[str, str]) -> tuple[int, int] | None:
    """Width and height; None where there is nothing that is a size."""
    try:
        width, height = (int(attributes.get(side, "")) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if 0 < width < 1 << 20 and 0 < height < 1 << 20 else None
