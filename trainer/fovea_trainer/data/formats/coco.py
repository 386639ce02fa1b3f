"""COCO: JSON files of images, annotations and categories (https://cocodataset.org/#format-data).

All files of a source are read, as COCO's own download has several about the same images: their labels are joined, and
an image is left out of which they say different things.
The split is in a file's name, as in `annotations/instances_train2017.json`, or in that of its folder. Ids are only
ids: numbers or texts. What a file says about an image that it lists twice is in doubt, and is left out.
"""

from __future__ import annotations

import io
import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline.run_lengths import decode_runs
from pydantic import JsonValue

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of_file
from fovea_trainer.data.formats.annotation_files import contradiction, read_each
from fovea_trainer.data.formats.json_stream import shown, stream_arrays
from fovea_trainer.data.formats.listed import located_entries
from fovea_trainer.data.records import Box, FileImage, Labels, NamedClass, Region, SourceImage
from fovea_trainer.data.regions import corners_of, outlined_by_box, region_corners
from fovea_trainer.data.text import encoding_of

MAX_POINTS = 1_000_000
"""Numbers of one annotation's polygons."""
NO_CROWDS = (
    "if each is one object, set its iscrowd to 0; from CVAT, which gives 1 to masks, export as CVAT for images 1.1"
)
OTHER_TASKS = ("caption", "segments_info")
"""Keys of annotations that describe no object of their own: captions, and panoptic segmentations."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object of an image."""

    category: str
    place: str
    crowd: bool
    box: tuple[float, float, float, float] | None
    """x, y, width, height."""
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)
    fault: str = ""
    """Why its segmentation cannot be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that a file lists."""

    id: str
    name: str
    place: str
    size: tuple[int, int] | None


@dataclass(slots=True)
class Content:
    """A COCO file."""

    file: str
    labelled: bool = True
    """Whether it has annotations at all, which may be none: else its images are not labelled."""
    categories: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    """Ids of categories that stand for no name, and why."""
    scored: int = 0
    """Annotations with a score."""
    crowds: int = 0
    objects: int = 0
    """Annotations that are crowds, and all of them."""
    entries: list[Entry] = field(default_factory=list)
    annotations: dict[str, list[Annotation]] = field(default_factory=lambda: defaultdict(list))
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with the file itself."""
    wrong: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    """What is wrong with the labels of an image, by its id."""


@dataclass(frozen=True)
class COCO:
    """Reader of COCO."""

    tree: Tree
    options: Options

    def scan(self) -> Iterator[SourceImage | Finding | NamedClass]:
        files = list(self.tree.with_suffix(".json"))
        if not files:
            raise InvalidInput("there is no JSON file", str(self.tree.root), "COCO has annotations/*.json and images")
        contents, unreadable = read_each(files, self._read_file)
        yield from unreadable
        if self.options.task == Task.SEMANTIC_SEGMENTATION:
            names = {name for content in contents for name in content.categories.values()}
            yield from unnamed_rest(self.options, names, contents[0].file)
        if self.options.outlines:
            _refuse_boxes(contents)
        located: dict[str, list[tuple[Content, Entry]]] = defaultdict(list)
        for content in contents:
            yield from content.findings
            yield from (NamedClass(name, content.file) for name in content.categories.values())
            yield from self._locate(content, located)
        for path, several in located.items():
            yield self._image(path, several)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")

    def _locate(self, content: Content, located: dict[str, list[tuple[Content, Entry]]]) -> Iterator[Finding]:
        """Adds the file's images by their paths; those that are listed twice or not there are findings."""
        exact, missing = located_entries(self.tree, content.entries, content.file)
        yield from missing
        for path, entries in exact.items():
            if len(entries) > 1:
                listed = " and ".join(f"{entry.place} (id {entry.id})" for entry in entries[:3])
                message = f"{path} is listed {len(entries)} times, at {listed}: which labels are its own is not known"
                self.tree.opened.add(path)  # a finding already
                yield Finding(FindingKind.LISTED_TWICE, entries[0].place, message)
            else:
                located[path].append((content, entries[0]))

    def _image(self, path: str, several: Sequence[tuple[Content, Entry]]) -> SourceImage | Finding:
        """An image with the labels of all files that list it; a finding where they contradict each other."""
        objects = [(entry.place, _objects(content, entry)) for content, entry in several]
        if (finding := contradiction(path, objects)) is not None:
            self.tree.opened.add(path)  # a finding already
            return finding
        boxes: list[Box] = []
        regions: list[Region] = []
        findings: list[Finding] = []
        segments = self.options.task == Task.SEMANTIC_SEGMENTATION
        # Which pixels an annotation has that cannot be read at all, nobody knows.
        complete = not (segments and any(content.wrong.get(entry.id) for content, entry in several))
        splits = {}
        for content, entry in several:
            findings.extend(content.wrong.get(entry.id, ()))
            splits[split_of_file(content.file)] = entry.place
            for annotation in content.annotations.get(entry.id, ()):
                name = content.categories.get(annotation.category, "")
                if not name:
                    why = content.unclear.get(annotation.category, f"there is no category of id {annotation.category}")
                    findings.append(Finding(FindingKind.UNKNOWN_CLASS, annotation.place, why))
                if segments and annotation.fault:
                    kind = FindingKind.IGNORED_REGION if annotation.box else FindingKind.INVALID_LABEL
                    findings.append(Finding(kind, annotation.place, annotation.fault))
                if segments:
                    complete = complete and (annotation.box is not None or not annotation.fault)
                    regions.append(_region(annotation, name))
                elif name and self.options.outlines:
                    boxes.extend(_outlined(annotation, name, findings))
                elif name and annotation.box is not None:
                    boxes.append(_box(annotation, name, annotation.box))
        named = {split: place for split, place in splits.items() if split is not None}
        if len(named) > 1:
            message = f"{path} is in the splits {' and '.join(f'{split} ({place})' for split, place in named.items())}"
            findings.append(Finding(FindingKind.SPLIT_CONFLICT, next(iter(named.values())), message))
        place = several[0][1].place
        if not any(content.labelled for content, _ in several):
            findings.append(Finding(FindingKind.UNLABELLED, place, f"no file has annotations of {path}"))
        labels = Labels(
            boxes=tuple(boxes),
            regions=tuple(regions) if complete else (),
            size=next((entry.size for _, entry in several if entry.size), None),
            place=place,
            findings=tuple(findings),
            complete=complete,
        )
        return SourceImage(path, FileImage(path), next(iter(named)) if len(named) == 1 else None, labels)

    # --- One file ---

    def _read_file(self, file: str) -> Content:
        content = Content(file)
        arrays: set[str] = set()
        with (self.tree / file).open() as raw:
            encoding = encoding_of(raw.read(4))
            raw.seek(0)
            # What is no text in the encoding is reported where it matters: in names.
            with io.TextIOWrapper(raw, encoding, errors="replace") as stream:
                for section, item, place in stream_arrays(stream, file, arrays):
                    try:
                        if section == "categories":
                            _add_category(content, _dict(item, place), place)
                        elif section == "images":
                            _add_entry(content, _dict(item, place), place)
                        elif section == "annotations":
                            self._add_annotation(content, _dict(item, place), place)
                    except InvalidInput as error:
                        content.findings.append(Finding(FindingKind.INVALID_LABEL, place, error.message))
        if "images" not in arrays:
            raise InvalidInput("the file lists no images", f"{file}:1", "it is not COCO; move it away")
        content.labelled = "annotations" in arrays
        if content.scored:
            message = f"{content.scored} annotations have a score, as predictions have"
            content.findings.append(Finding(FindingKind.PREDICTED_LABELS, file, message))
        if 2 * content.crowds > content.objects and self.options.task in (Task.DETECTION, Task.INSTANCE_SEGMENTATION):
            message = f"{content.crowds} of {content.objects} objects are crowds (`iscrowd`: 1), and not learned from"
            content.findings.append(Finding(FindingKind.IGNORED_REGION, file, message, NO_CROWDS))
        _refuse_shared_ids(content)
        known = {entry.id for entry in content.entries}
        for number in [number for number in (*content.annotations, *content.wrong) if number not in known]:
            for annotation in content.annotations.pop(number, ()):
                message = f"there is no image of id {number}"
                content.findings.append(Finding(FindingKind.ORPHAN_LABEL, annotation.place, message))
            content.findings.extend(content.wrong.pop(number, ()))
        return content

    def _add_annotation(self, content: Content, item: Mapping[str, JsonValue], place: str) -> None:
        if "category_id" not in item and any(key in item for key in OTHER_TASKS):
            return
        image = _identity(item, "image_id")
        content.scored += item.get("score") is not None
        try:
            content.annotations[image].append(annotation := self._annotation(item, place))
            content.objects, content.crowds = content.objects + 1, content.crowds + annotation.crowd
        except InvalidInput as error:
            content.wrong[image].append(Finding(FindingKind.INVALID_LABEL, place, error.message))

    def _annotation(self, item: Mapping[str, JsonValue], place: str) -> Annotation:
        category = _identity(item, "category_id")
        crowd = str(item.get("iscrowd")).lower() in ("1", "1.0", "true")
        segmentation = item.get("segmentation")
        if self.options.task == Task.SEMANTIC_SEGMENTATION or self.options.outlines:
            try:
                box = _four(item.get("bbox"))
            except InvalidInput:
                box = None
            try:
                polygons, runs, size = read_segmentation(segmentation)
            except InvalidInput as error:
                return Annotation(category, place, crowd, box, fault=error.message)
            return Annotation(category, place, crowd, box, polygons, runs, size)
        if self.options.task == Task.CLASSIFICATION:
            return Annotation(category, place, crowd, (0.0, 0.0, math.inf, math.inf))
        if not item.get("bbox") and segmentation:
            polygons, runs, (height, _) = read_segmentation(segmentation)
            x1, y1, x2, y2 = _around(runs, height) if runs else corners_of(polygons)
            return Annotation(category, place, crowd, (x1, y1, x2 - x1, y2 - y1))
        return Annotation(category, place, crowd, _four(item.get("bbox")))


def open_reader(tree: Tree, options: Options) -> Reader:
    return COCO(tree, options)


def unnamed_rest(options: Options, named: Set[str], place: str) -> Iterator[Finding]:
    """Formats of regions name objects only: what lies between them has a class where one is called background."""
    classes = options.classes or named
    if "background" not in {options.class_map.get(name, name) for name in classes}:
        yield Finding(
            FindingKind.UNNAMED_REST,
            place,
            "no class is called background: the pixels of no region are ignored, and nothing is learned from them",
        )


def _refuse_boxes(contents: Sequence[Content]) -> None:
    """Raises InvalidInput where objects have boxes alone."""
    of_file = {content.file: [one for image in content.annotations.values() for one in image] for content in contents}
    every = [annotation for annotations in of_file.values() for annotation in annotations]
    if every and all(annotation.fault for annotation in every):
        raise InvalidInput(
            f"no object has an outline: {every[0].fault}",
            every[0].place,
            "give each a `segmentation` of polygons or run lengths, or learn boxes by task: Detection",
        )


def _objects(content: Content, entry: Entry) -> Iterator[tuple[str, Hashable]]:
    """Class and outline of what a file has on an image."""
    for each in content.annotations.get(entry.id, ()):
        yield content.categories.get(each.category, ""), each.box or (each.polygons, each.runs)


def _box(annotation: Annotation, name: str, box: tuple[float, float, float, float]) -> Box:
    x, y, width, height = box
    return Box(name, x, y, x + width, y + height, annotation.crowd, annotation.place)


def _outlined(annotation: Annotation, name: str, findings: list[Finding]) -> Iterator[Box]:
    """The object with its outline; one whose outline cannot be read is not learned from."""
    region = _region(annotation, name)
    if annotation.fault:
        kind = FindingKind.IGNORED_REGION if annotation.box else FindingKind.INVALID_LABEL
        findings.append(Finding(kind, annotation.place, annotation.fault))
        if annotation.box is not None:
            yield outlined_by_box(_box(annotation, name, annotation.box))
        return
    corners = region_corners(region)
    if annotation.box is not None and min(annotation.box[2:]) > 0:
        corners = _box(annotation, name, annotation.box).corners
    yield Box(name, *corners, annotation.crowd, annotation.place, region)


def _region(annotation: Annotation, name: str) -> Region:
    box = None
    if annotation.box is not None:
        x, y, width, height = annotation.box
        box = (x, y, x + width, y + height)
    return Region(name, annotation.polygons, annotation.runs, annotation.size, annotation.place, box)


def _add_category(content: Content, item: Mapping[str, JsonValue], place: str) -> None:
    identity = _identity(item, "id")
    name = item.get("name")
    name = str(name).strip() if isinstance(name, str | int | float) and not isinstance(name, bool) else ""
    earlier = content.categories.get(identity)
    if not name or "\ufffd" in name:
        content.unclear[identity] = f"the category {identity} has {'an unreadable' if name else 'no'} name ({place})"
    elif earlier not in (None, name):
        content.unclear[identity] = f"two categories have the id {identity}: {earlier} and {name} ({place})"
    else:
        content.categories[identity] = name
        return
    content.categories.pop(identity, None)
    content.findings.append(Finding(FindingKind.NAMES_DIFFER, place, content.unclear[identity]))


def _add_entry(content: Content, item: Mapping[str, JsonValue], place: str) -> None:
    name = item.get("file_name") or item.get("coco_url") or item.get("path")
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"`file_name` is {shown(item.get('file_name'))}, not a text")
    width, height = (_side(item.get(side)) for side in ("width", "height"))
    content.entries.append(
        Entry(_identity(item, "id"), name.strip(), place, (width, height) if width * height else None)
    )


def _refuse_shared_ids(content: Content) -> None:
    """Leaves out the images that share an id: whose labels theirs are, is not known."""
    by_id: dict[str, list[Entry]] = defaultdict(list)
    for entry in content.entries:
        by_id[entry.id].append(entry)
    for identity, entries in by_id.items():
        names = list(dict.fromkeys(entry.name for entry in entries))
        if len(names) == 1:
            continue
        listed = " and ".join(f"{entry.name} ({entry.place})" for entry in entries[:3])
        for entry in entries:
            content.findings.append(
                Finding(FindingKind.LISTED_TWICE, entry.place, f"the images {listed} have one id, {identity}")
            )
        content.annotations.pop(identity, None)
        content.wrong.pop(identity, None)
    content.entries = [entries[0] for entries in by_id.values() if len({entry.name for entry in entries}) == 1]


# --- Values -------------------------------------------------------------------------------------------------


def _dict(item: JsonValue, place: str) -> Mapping[str, JsonValue]:
    if not isinstance(item, dict):
        raise InvalidInput(f"the item is {shown(item)}, not an object", place)
    return item


def _identity(item: Mapping[str, JsonValue], key: str) -> str:
    """An id as a text: 1, 1.0 and "1" are one."""
    value = item.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or str(value).strip() == "":
        raise InvalidInput(f"`{key}` is {shown(value)}, not a number or a text")
    return str(value).strip()


def _side(value: JsonValue) -> int:
    """A width or height; 0 where it is none."""
    try:
        side = float(value) if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return 0
    return int(side) if 0 < side < 1 << 20 else 0


def _four(value: JsonValue) -> tuple[float, float, float, float]:
    if isinstance(value, list) and len(value) == 4 and all(_is_number(side) for side in value):
        x, y, width, height = (float(side) for side in value if isinstance(side, int | float | str))
        return (x, y, width, height)
    raise InvalidInput(f"`bbox` is {shown(value)}, not [x, y, width, height]")


def _around(runs: Sequence[int], height: int) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around run lengths down the columns of an image, which may be too large to be drawn."""
    ends = list(itertools.accumulate(runs))
    inside = [(start, end - 1) for start, end in zip(ends[0::2], ends[1::2], strict=False) if end > start]
    if not inside:
        raise InvalidInput("the run lengths show no pixel")
    columns = [place // height for run in inside for place in run]
    # A run that goes on in the next column reaches the lower edge in its own, and the upper one there.
    rows = [place % height for run in inside for place in (run if run[0] // height == run[1] // height else (0, -1))]
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def read_segmentation(value: JsonValue) -> tuple[tuple[tuple[float, ...], ...], tuple[int, ...], tuple[int, int]]:
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            raise InvalidInput(f"`segmentation.size` is {shown(size)}, not [height, width]")
        height, width = (side for side in size if isinstance(side, int))
        runs = decode_runs(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
            raise InvalidInput("`segmentation.counts` is no list of run lengths")
        whole = tuple(run for run in runs if isinstance(run, int))
        if sum(whole) != height * width:
            raise InvalidInput(f"the run lengths sum to {sum(whole)}, not to {height} x {width}")
        return (), whole, (height, width)
    if not value or not isinstance(value, list):
        raise InvalidInput("there is no `segmentation`")
    polygons: list[tuple[float, ...]] = []
    for part in value:
        if isinstance(part, list) and len(part) in (2, 4) and len(value) > 1 and all(map(_is_number, part)):
            continue  # contours of one or two points, which have no area
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or len(part) > MAX_POINTS:
            raise InvalidInput(f"`segmentation` has {shown(part)}, not polygons [[x1, y1, x2, y2, x3, y3, …], …]")
        if not all(_is_number(number) for number in part):
            raise InvalidInput("a polygon holds something that is no finite number")
        polygons.append(tuple(float(number) for number in part if isinstance(number, int | float | str)))
    if not polygons:
        raise InvalidInput(f"`segmentation` has {shown(value)}, in which no polygon has three points")
    return tuple(polygons), (), (0, 0)


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return False
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
