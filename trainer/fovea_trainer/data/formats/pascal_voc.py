"""PascalVOC: one XML file an image in Annotations/, images in JPEGImages/, splits in ImageSets/Main/*.txt.

Coordinates are taken as they are written: labelling tools disagree on counting pixels from 0 or from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from xml.parsers import expat

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import ANNOTATION_BYTES, Options, Reader, Tree, split_of
from fovea_trainer.data.records import SPLIT_NAMES, Box, FileImage, Found, Labels
from fovea_trainer.store import StorePath

MAX_DEPTH = 32
"""Nesting of elements; a real annotation has 4."""


@dataclass(slots=True)
class Element:
    """An XML element with the line that it starts on."""

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        return next((child for child in self.children if child.tag == tag), None)


@dataclass(frozen=True)
class PascalVOC:
    """Reader of PascalVOC."""

    tree: Tree

    def scan(self) -> Iterator[Found]:
        images: dict[str, str] = {}
        for path in self.tree.images:
            stem = PurePosixPath(path).stem
            if "/SegmentationClass/" in f"/{path}" or "/SegmentationObject/" in f"/{path}":
                continue
            if stem in images:
                raise InvalidInput(
                    f"two images share the name {stem}: {images[stem]} and {path}",
                    str(self.tree.root),
                    "rename one",
                )
            images[stem] = path
        annotations = {PurePosixPath(path).stem: path for path in self.tree.with_suffix(".xml")}
        if not annotations:
            raise InvalidInput(
                "there are no XML files",
                str(self.tree.root),
                "PascalVOC has Annotations/*.xml and JPEGImages/*.jpg",
            )
        splits = self._splits()
        for stem in sorted(images.keys() | annotations.keys()):
            # An annotation without an image is found by the worker, which cannot open the image.
            path = images.get(stem, f"JPEGImages/{stem}.jpg")
            yield Found(path, FileImage(path), splits.get(stem) or split_of(path), labels_path=annotations.get(stem))

    def read(self, found: Found) -> Labels:
        if found.labels_path is None:
            message = "the image has no annotation file"
            return Labels(findings=(Finding(FindingKind.UNLABELLED, found.name, message),), place=found.name)
        return parse_annotation(self.tree / found.labels_path, found.labels_path)

    def _splits(self) -> dict[str, str]:
        """The split of each image's stem, from ImageSets/Main/{train,val,test}.txt."""
        splits: dict[str, str] = {}
        for path in self.tree.with_suffix(".txt"):
            parts = PurePosixPath(path).parts
            split = SPLIT_NAMES.get(PurePosixPath(path).stem.lower())
            if split is None or parts[-3:-1] != ("ImageSets", "Main"):
                continue
            lines = (self.tree / path).read_text(ANNOTATION_BYTES).splitlines()
            for number, line in enumerate(lines, 1):
                if not (words := line.split()):
                    continue
                earlier = splits.setdefault(words[0], split)
                if earlier != split:
                    raise InvalidInput(
                        f"{words[0]} is in the splits {earlier} and {split}",
                        f"{path}:{number}",
                        "list each image in one split",
                    )
        return splits


def open_reader(tree: Tree, options: Options) -> Reader:
    return PascalVOC(tree)


def parse_annotation(file: StorePath, path: str) -> Labels:
    """The boxes of an annotation file. Raises InvalidInput with `path:line`; bad objects become findings."""
    root = parse_xml(file.read_bytes(ANNOTATION_BYTES), path)
    if root.tag != "annotation":
        raise InvalidInput(
            f"the root element is <{root.tag}>", f"{path}:{root.line}", "PascalVOC has <annotation> there"
        )
    boxes: list[Box] = []
    findings: list[Finding] = []
    for element in root.children:
        if element.tag != "object":
            continue
        try:
            boxes.append(_object(element, path))
        except InvalidInput as error:
            findings.append(Finding(FindingKind.INVALID_LABEL, error.place or path, error.message))
    return Labels(boxes=tuple(boxes), size=_size(root), place=f"{path}:{root.line}", findings=tuple(findings))


def _object(element: Element, path: str) -> Box:
    name = element.find("name")
    if name is None or not name.text.strip():
        raise InvalidInput("the object has no <name>", f"{path}:{element.line}")
    bounds = element.find("bndbox")
    if bounds is None:
        raise InvalidInput("the object has no <bndbox>", f"{path}:{element.line}")
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        value = bounds.find(side)
        if value is None:
            raise InvalidInput(f"<bndbox> has no <{side}>", f"{path}:{bounds.line}")
        try:
            corners.append(float(value.text))
        except ValueError:
            raise InvalidInput(
                f"<{side}> is {value.text.strip()[:40]!r}, not a number", f"{path}:{value.line}"
            ) from None
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


def _size(root: Element) -> tuple[int, int] | None:
    size = root.find("size")
    sides = [size.find(side) for side in ("width", "height")] if size is not None else []
    texts = [side.text.strip() for side in sides if side is not None]
    if len(texts) != 2 or not all(text.isdecimal() and len(text) < 10 for text in texts):
        return None
    width, height = map(int, texts)
    return (width, height) if width and height else None


def parse_xml(data: bytes, path: str) -> Element:
    """A small XML document as a tree. Entities and document types, which bombs are made of, are refused."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    stack = [Element("", 0)]

    def refuse(*_: object) -> int:
        raise InvalidInput(
            "the file declares a document type or entities",
            f"{path}:{parser.CurrentLineNumber}",
            "remove <!DOCTYPE …>: annotations need none, and it can be used for attacks",
        )

    def start(tag: str, _: dict[str, str]) -> None:
        if len(stack) > MAX_DEPTH:
            raise InvalidInput(f"elements are nested more than {MAX_DEPTH} deep", f"{path}:{parser.CurrentLineNumber}")
        element = Element(tag, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InvalidInput(
            f"the XML is broken: {expat.ErrorString(error.code)}",
            f"{path}:{error.lineno}",
            "repair or remove the file",
        ) from None
    return stack[0].children[0]
