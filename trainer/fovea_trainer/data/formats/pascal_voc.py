"""PascalVOC: one XML file an image in Annotations/, images in JPEGImages/, splits in ImageSets/Main/*.txt.

An XML file is of the image that its <filename> names, in the same folder or in one that stands for it (JPEGImages for
Annotations); where it names none that is there, of the image of its own name. Coordinates are taken as they are
written: labelling tools disagree on counting pixels from 0 or from 1.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from fovea_api.errors import InvalidInput
from fovea_store import StorePath

from fovea_trainer.data.checks import MAX_FILE_BYTES, read_mask
from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import ANNOTATION_BYTES, Options, Reader, Tree, split_of
from fovea_trainer.data.formats.pairs import READERS, Images, paired, stem_of
from fovea_trainer.data.formats.xml_tree import UNREADABLE, Element, parse_xml, xml_text
from fovea_trainer.data.image_files import IMAGE_SUFFIXES
from fovea_trainer.data.records import IGNORE, SPLIT_NAMES, Box, FileImage, Labels, Region, SourceImage
from fovea_trainer.data.regions import extent, outlined_by_box, pixels_of, region_of
from fovea_trainer.data.text import composed

SEGMENTATIONS = ("segmentationclass", "segmentationobject")
OBJECTS = "SegmentationObject"
LISTED, SEGMENTED = ("ImageSets", "Main"), ("ImageSets", "Segmentation")
"""Folders with the lists of the splits: of all images, and of those whose pixels are labelled."""
SAME_PLACE = 0.3
"""Intersection over union of an object's box with that around its pixels, from which both are of one object."""
_NAME = re.compile(r"<filename>([^<]*)</filename>")
_SIGN = re.compile(r"\s+-?[01]$")
"""What lists of one class have behind a name."""


@dataclass(frozen=True)
class PascalVOC:
    """Reader of PascalVOC."""

    tree: Tree
    outlines: bool = False
    """Whether objects are learned by their pixels: those of SegmentationObject/*.png, whose values count the objects of
    the XML file from 1."""

    def scan(self) -> Iterator[SourceImage | Finding]:
        annotations = list(self.tree.with_suffix(".xml"))
        if not annotations:
            raise InvalidInput(
                "there are no XML files",
                str(self.tree.root),
                "PascalVOC has Annotations/*.xml and JPEGImages/*.jpg",
            )
        if self.outlines and not any("SegmentationObject" in path.split("/") for path in self.tree.images):
            raise InvalidInput(
                "no object has an outline: there is no SegmentationObject/*.png",
                str(self.tree.root),
                "add these pictures, or learn boxes by task: Detection",
            )
        splits, findings = self._splits()
        yield from findings
        for each in paired(self.tree, self._images.paths, self._pairs(annotations)):
            if isinstance(each, Finding):
                yield each
                continue
            path, annotation = each
            split = splits.get(path, split_of(path))
            yield SourceImage(path, FileImage(path), split, None, annotation, self._outlines_of(annotation))

    def read(self, item: SourceImage) -> Labels:
        if item.labels_path is None:
            message = "the image has no annotation file"
            return Labels(findings=(Finding(FindingKind.UNLABELLED, item.name, message),), place=item.name)
        if not self.outlines:
            return parse_annotation(self.tree / item.labels_path, item.labels_path)
        pictured = item.outlines_path and read_outlines(self.tree, item.outlines_path)
        labels = parse_annotation(self.tree / item.labels_path, item.labels_path, pictured or {})
        if labels.boxes and not pictured:
            message = "the image has objects and no picture of them in SegmentationObject"
            return Labels(findings=(Finding(FindingKind.UNLABELLED, item.labels_path, message),), place=labels.place)
        return labels

    def _outlines_of(self, annotation: str | None) -> str | None:
        """The picture of the objects of an annotation file, in the folder beside its own."""
        if annotation is None or not self.outlines:
            return None
        return self.tree.find(str(PurePosixPath(annotation).parent.parent / OBJECTS / f"{stem_of(annotation)}.png"))

    @cached_property
    def _images(self) -> Images:
        paths = [
            path for path in self.tree.images if not any(part.lower() in SEGMENTATIONS for part in path.split("/"))
        ]
        return Images(paths)

    # --- Which annotation is of which image ---

    def _pairs(self, annotations: Sequence[str]) -> dict[str, str | None]:
        """The image of each annotation file."""
        with ThreadPoolExecutor(READERS) as readers:
            named = dict(zip(annotations, readers.map(self._named, annotations), strict=True))
        same = {path: self._images.near(path, stem_of(path)) for path in annotations}
        pairs = {path: same[path] or named[path] for path in annotations}
        # Copies keep the <filename> of what they were copied from: who has the name itself goes first.
        certain = {image for path, image in pairs.items() if image is not None and named[path] in (None, image)}
        other = [path for path in annotations if None not in (named[path], same[path]) and named[path] != same[path]]
        for path in other:
            if named[path] not in certain and sum(named[path] == named[each] for each in other) == 1:
                pairs[path] = named[path]
        return pairs

    def _named(self, annotation: str) -> str | None:
        """The image that an annotation file names in <filename>; None where it names none that is there."""
        try:
            text = xml_text((self.tree / annotation).read_bytes(ANNOTATION_BYTES))
        except InvalidInput:
            return None  # a finding, once it is read for its image
        match = _NAME.search(text)
        name = html.unescape(match[1]).strip().replace("\\", "/") if match else ""
        return self._images.near(annotation, stem_of(name), name) if name else None

    # --- Splits ---

    def _splits(self) -> tuple[dict[str, str | None], list[Finding]]:
        """The split of each image that ImageSets/Main/{train,val,test}.txt list; None where two lists have it.

        What only trainval.txt lists is in train.
        """
        splits: dict[str, str | None] = {}
        findings: list[Finding] = []
        both = set(self.tree.with_suffix("/trainval.txt"))
        folders = {PurePosixPath(path).parts[-3:-1] for path in self.tree.with_suffix(".txt")}
        lists = SEGMENTED if self.outlines and SEGMENTED in folders else LISTED
        for path in sorted(self.tree.with_suffix(".txt"), key=lambda path: (path in both, path)):
            parts = PurePosixPath(path).parts
            split = "train" if path in both else SPLIT_NAMES.get(PurePosixPath(path).stem.lower())
            if split is None or parts[-3:-1] != lists:
                continue
            for number, line in enumerate(self.tree.read_text(path)[0].splitlines(), 1):
                place = f"{path}:{number}"
                images = self._listed(line.strip())
                if line.strip() and len(images) != 1:
                    count = f"{len(images)} images" if images else "no image"
                    findings.append(Finding(FindingKind.MISSING_SPLIT, place, f"{line.strip()!r} names {count}"))
                for image in images if len(images) == 1 else ():
                    earlier = splits.setdefault(image, split)
                    if earlier not in (split, None) and path not in both:
                        splits[image] = None
                        message = f"{image} is in the splits {earlier} and {split}; it is shared out by splits.ratios"
                        findings.append(Finding(FindingKind.SPLIT_CONFLICT, place, message))
        return splits, findings

    def _listed(self, line: str) -> Sequence[str]:
        """The images that a line of an image set can mean: a name that may hold blanks, with or without a sign."""
        for text in dict.fromkeys((line, _SIGN.sub("", line))):
            for stem in dict.fromkeys((composed(text), _without_suffix(composed(text)))):
                images = self._images.by_stem.get(stem.rpartition("/")[2], ())
                below = [path for path in images if f"/{_without_suffix(composed(path))}".endswith(f"/{stem}")]
                if below:
                    return below
        return ()


def open_reader(tree: Tree, options: Options) -> Reader:
    return PascalVOC(tree, options.outlines)


def _without_suffix(path: str) -> str:
    return path[: -len(suffix)] if (suffix := PurePosixPath(path).suffix).lower() in IMAGE_SUFFIXES else path


def read_outlines(tree: Tree, path: str) -> dict[int, Region]:
    """The pixels of each object by its number, from 1 on; 255 is of none. Raises InvalidInput."""
    values = read_mask((tree / path).read_bytes(MAX_FILE_BYTES), path)
    numbers = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return {int(number): region_of(values == number, "", path) for number in numbers if number not in (0, IGNORE)}


def parse_annotation(file: StorePath, path: str, outlines: Mapping[int, Region] | None = None) -> Labels:
    """The boxes of an annotation file. Raises InvalidInput with `path:line`; bad objects become findings.

    Args:
        file: The file.
        path: What errors call it.
        outlines: The pixels of the objects by their number; None: boxes are asked for.
    """
    root = parse_xml(file.read_bytes(ANNOTATION_BYTES), path)
    if root.tag != "annotation":
        raise InvalidInput(
            f"the root element is <{root.tag}>", f"{path}:{root.line}", "PascalVOC has <annotation> there"
        )
    boxes: list[Box] = []
    findings: list[Finding] = []
    objects = [element for element in root.children if element.tag == "object"]
    for number, element in enumerate(objects, 1):
        try:
            box = _object(element, path)
            boxes.append(box if outlines is None else _outlined(box, number, outlines, findings))
        except InvalidInput as error:
            findings.append(Finding(FindingKind.INVALID_LABEL, error.location or path, error.message))
    for number in sorted(outlines or {}):
        if number > len(objects):
            message = f"the value {number} is of no object: {path} has {len(objects)}"
            findings.append(Finding(FindingKind.INVALID_LABEL, (outlines or {})[number].place, message))
    return Labels(boxes=tuple(boxes), size=_size(root), place=f"{path}:{root.line}", findings=tuple(findings))


def _outlined(box: Box, number: int, outlines: Mapping[int, Region], findings: list[Finding]) -> Box:
    """An object with its pixels; one without, or with those of another place, is not learned from."""
    region, message = outlines.get(number), f"no pixel of {OBJECTS} has the object's number {number}"
    if region is not None:
        left, top, right, bottom = map(float, extent(pixels_of(region, *region.size[::-1])))
        if _overlap(box, Box("", left, top, right, bottom)) >= SAME_PLACE:
            return replace(box, outline=replace(region, name=box.name, place=box.place))
        message = f"the pixels of the value {number} in {region.place} lie elsewhere than the object's box"
    findings.append(Finding(FindingKind.IGNORED_REGION, box.place, message))
    return outlined_by_box(box)


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union; 0 of boxes without an area."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    both = max(width, 0) * max(height, 0)
    union = sum((box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other)) - both
    return both / union if union > 0 else 0.0


def _object(element: Element, path: str) -> Box:
    name = element.find("name")
    if name is None or not name.text.strip():
        raise InvalidInput("the object has no <name>", f"{path}:{element.line}")
    if UNREADABLE in name.text:
        raise InvalidInput(
            "the class's name is not in the encoding of the file", f"{path}:{name.line}", "save it as UTF-8"
        )
    corners = _corners(element, path)
    difficult = element.find("difficult")
    return Box(
        name.text.strip(),
        corners[0],
        corners[1],
        corners[2],
        corners[3],
        difficult=difficult is not None and difficult.text.strip() == "1",
        place=f"{path}:{element.line}",
    )


def _corners(element: Element, path: str) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of an object: of <bndbox>, else around roLabelImg's <robndbox> or Roboflow's <polygon>."""
    if (bounds := element.find("bndbox")) is not None:
        x1, y1, x2, y2 = _numbers(bounds, ("xmin", "ymin", "xmax", "ymax"), path)
        return x1, y1, x2, y2
    if (rotated := element.find("robndbox")) is not None:
        x, y, width, height, angle = _numbers(rotated, ("cx", "cy", "w", "h", "angle"), path)
        if math.isfinite(angle):
            cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
            width, height = width * cos + height * sin, width * sin + height * cos
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if (polygon := element.find("polygon")) is not None and (sides := [child.tag for child in polygon.children]):
        xs, ys = (_numbers(polygon, [side for side in sides if side.startswith(axis)], path) for axis in "xy")
        if xs and ys:
            return min(xs), min(ys), max(xs), max(ys)
    raise InvalidInput("the object has no <bndbox>", f"{path}:{element.line}")


def _numbers(element: Element, tags: Sequence[str], path: str) -> list[float]:
    values = []
    for tag in tags:
        value = element.find(tag)
        if value is None:
            raise InvalidInput(f"<{element.tag}> has no <{tag}>", f"{path}:{element.line}")
        try:
            values.append(float(value.text))
        except ValueError:
            message = f"<{tag}> is {value.text.strip()[:40]!r}, not a number"
            raise InvalidInput(message, f"{path}:{value.line}") from None
    return values


def _size(root: Element) -> tuple[int, int] | None:
    """Width and height that the annotation claims; None where it claims nothing that is a size."""
    size = root.find("size")
    if size is None:
        return None
    try:
        width, height = (float(size.value(side)) for side in ("width", "height"))
    except ValueError:
        return None
    return (int(width), int(height)) if 0 < width < 1 << 20 and 0 < height < 1 << 20 else None
