"""YOLO: `images/…` with `labels/…` of the same name, a line an object: `class x y width height`, relative.

A line of more numbers is a polygon, of which the bounding box is taken. Classes are named by `data.yaml`
(or `classes.txt`, `obj.names`); the split is a folder's name or the list that data.yaml refers to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import yaml
from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import ANNOTATION_BYTES, Options, Reader, Tree
from fovea_trainer.data.records import IMAGE_SUFFIXES, SPLIT_NAMES, Box, FileImage, Found, Labels

NAME_FILES = ("classes.txt", "obj.names")
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class YOLO:
    """Reader of YOLO."""

    tree: Tree
    names: tuple[str, ...]

    def scan(self) -> Iterator[Found]:
        texts = {path for path in self.tree.files if path.endswith(".txt")}
        images = list(self.tree.with_suffix(*IMAGE_SUFFIXES))
        if not images:
            raise InvalidInput("there are no images", str(self.tree.root), "YOLO has images/ and labels/")
        for path in images:
            labels = next((text for text in _labels_paths(path) if text in texts), None)
            folders = PurePosixPath(path).parts[:-1]
            split = next((SPLIT_NAMES[part.lower()] for part in folders if part.lower() in SPLIT_NAMES), None)
            # No file of labels means an image that shows no object: so YOLO writes it.
            empty = None if labels else Labels(place=path)
            yield Found(path, FileImage(path), split, empty, labels)

    def read(self, found: Found) -> Labels:
        assert found.labels_path is not None
        path = found.labels_path
        boxes: list[Box] = []
        findings: list[Finding] = []
        for number, line in enumerate((self.tree / path).read_text(ANNOTATION_BYTES).splitlines(), 1):
            if not line.strip():
                continue
            try:
                boxes.append(self._line(line, f"{path}:{number}"))
            except InvalidInput as error:
                findings.append(Finding(FindingKind.INVALID_LABEL, f"{path}:{number}", error.message))
        return Labels(boxes=tuple(boxes), size=RELATIVE, place=f"{path}:1", findings=tuple(findings))

    def _line(self, line: str, place: str) -> Box:
        words = line.split()
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise InvalidInput(f"{line.strip()[:60]!r} holds something that is no number", place) from None
        if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0):
            raise InvalidInput(f"the line has {len(values)} numbers instead of 5 (class x y width height)", place)
        if not 0 <= values[0] < MAX_CLASSES or values[0] != int(values[0]):
            raise InvalidInput(f"{words[0][:20]!r} is not the number of a class", place)
        index = int(values[0])
        name = self.names[index] if index < len(self.names) else str(index)
        if len(values) == 5:
            x, y, width, height = values[1:]
            return Box(name, x - width / 2, y - height / 2, x + width / 2, y + height / 2, place=place)
        xs, ys = values[1::2], values[2::2]
        return Box(name, min(xs), min(ys), max(xs), max(ys), place=place)


RELATIVE = (-1, -1)
"""Size that marks boxes as shares of the image's sides, from 0 to 1."""


def open_reader(tree: Tree, options: Options) -> Reader:
    names = _names(tree)
    if not names and not all(name.isdecimal() for name in options.classes):
        names = tuple(options.classes)
    return YOLO(tree, names)


def _labels_paths(image: str) -> Iterator[str]:
    stem = str(PurePosixPath(image).with_suffix(".txt"))
    parts = stem.split("/")
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            yield "/".join((*parts[:index], "labels", *parts[index + 1 :]))
    if PurePosixPath(stem).name not in NAME_FILES:
        yield stem


def _names(tree: Tree) -> tuple[str, ...]:
    """Names of the classes by index, from data.yaml or a list; empty where there is neither."""
    by_depth = sorted(tree.files, key=lambda path: (path.count("/"), path))
    for path in by_depth:
        if PurePosixPath(path).name in ("data.yaml", "data.yml", "dataset.yaml"):
            return _yaml_names(tree, path)
    for path in by_depth:
        if PurePosixPath(path).name in NAME_FILES:
            lines = (tree / path).read_text(ANNOTATION_BYTES).splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return ()


def _yaml_names(tree: Tree, path: str) -> tuple[str, ...]:
    text = (tree / path).read_text(ANNOTATION_BYTES)
    try:
        # Aliases are what YAML bombs are made of; lists of names need none.
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):
                line = token.start_mark.line + 1
                raise InvalidInput("the file uses YAML aliases", f"{path}:{line}", "write the values out")
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidInput(f"the YAML is broken: {error.problem}", f"{path}:{line}", "repair the file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the YAML is broken: {error}", f"{path}:1", "repair the file") from None
    names = content.get("names") if isinstance(content, dict) else None
    line = next((number for number, text in enumerate(text.splitlines(), 1) if text.startswith("names")), 1)
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise InvalidInput("`names` is not a list of class names", f"{path}:{line}", "names: [cat, dog]")
    return tuple(str(name) for name in names)
