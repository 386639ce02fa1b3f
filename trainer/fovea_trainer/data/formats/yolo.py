"""YOLO: `images/…` with `labels/…` of the same name, a line an object: `class x y width height`, relative.

A description (`data.yaml`, darknet's `obj.data`) or a list of names (`classes.txt`, `obj.names`) holds for its folder
and what lies below, so that several exports can lie side by side. What the columns after the class mean is said by
the description (`kpt_shape`: keypoints) or, where it is silent, by all lines together: see yolo_columns.
The split is what the description says (folders, lists of images), or the innermost folder that names one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of
from fovea_trainer.data.formats.yolo_columns import Columns, columns_of, numbers
from fovea_trainer.data.formats.yolo_description import NAME_FILES, Description, Names, descriptions, name_lists
from fovea_trainer.data.records import RELATIVE, Box, FileImage, Labels, NamedClass, Region, SourceImage, split_named
from fovea_trainer.data.regions import outlined_by_box

SAMPLE = 100
"""Label files of a description that are looked at to learn what the columns mean."""
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Scope:
    """What holds for the label files of a folder and below."""

    names: Names = field(default_factory=Names)
    columns: Columns = Columns.BOXES
    keypoints: tuple[int, int] | None = None


@dataclass(frozen=True)
class YOLO:
    """Reader of YOLO."""

    tree: Tree
    names: Names
    """What classes are called where no file names them."""
    outlines: bool = False
    """Whether objects are learned by their pixels."""
    scopes: dict[str, Scope] = field(default_factory=dict)
    """By folder; filled by `scan`, and sent to the workers with it."""

    def scan(self) -> Iterator[SourceImage | Finding | NamedClass]:
        images = self.tree.images
        if not images:
            raise InvalidInput("there are no images", str(self.tree.root), "YOLO has images/ and labels/")
        described, findings = descriptions(self.tree)
        yield from findings
        listed, findings = name_lists(self.tree)
        yield from findings
        labels = {path: self._labels_of(path) for path in images}
        yield from self._scopes(described, listed, {path for path in labels.values() if path})
        for names in {scope.names.place: scope.names for scope in self.scopes.values() if scope.names.place}.values():
            yield from (NamedClass(name, names.place) for name in names.by_number.values())
        splitting = [each for each in described.values() if each.splits] or _lists(self.tree, set(labels.values()))
        splits, findings = _splits(self.tree, splitting)
        yield from findings
        yield from _shared(labels)
        for path in images:
            # No file of labels means an image that shows no object: so YOLO writes it, and so tools lose labels.
            missing = Finding(FindingKind.NO_LABEL_FILE, path, "the image has no label file")
            empty = None if labels[path] else Labels(place=path, findings=(missing,))
            yield SourceImage(path, FileImage(path), splits.get(path, split_of(path)), empty, labels[path])

    def read(self, item: SourceImage) -> Labels:
        assert item.labels_path is not None
        path = item.labels_path
        scope = self.scopes[str(PurePosixPath(path).parent)]
        boxes: list[Box] = []
        findings: list[Finding] = []
        text, _ = self.tree.read_text(path)
        for number, line in enumerate(text.splitlines(), 1):
            place = f"{path}:{number}"
            try:
                if line.strip():
                    boxes.append(_object(line, place, scope) if not self.outlines else _outlined(line, place, scope))
                    if boxes[-1].difficult:
                        message = "the object has a box and no outline"
                        findings.append(Finding(FindingKind.IGNORED_REGION, place, message))
            except InvalidInput as error:
                kind = FindingKind.UNKNOWN_CLASS if isinstance(error, NoSuchClass) else FindingKind.INVALID_LABEL
                findings.append(Finding(kind, place, error.message, error.remedy or ""))
        return Labels(boxes=tuple(boxes), size=RELATIVE, place=f"{path}:1", findings=tuple(findings))

    def _labels_of(self, image: str) -> str | None:
        return next((path for each in _labels_paths(image) if (path := self.tree.find(each)) is not None), None)

    def _scopes(
        self, described: Mapping[str, Description], listed: Mapping[str, Names], labels: set[str]
    ) -> Iterator[Finding]:
        """Fills `scopes` with what holds for each folder of labels."""
        files: dict[tuple[str | None, str | None], list[str]] = defaultdict(list)
        for path in sorted(labels):
            files[_holding(described, path), _holding(listed, path)].append(path)
        for (by_description, by_list), paths in files.items():
            description = described[by_description] if by_description is not None else Description("")
            names = listed[by_list] if by_list is not None else self.names
            if description.names:
                if by_list is not None and names.by_number != description.names.by_number:
                    message = f"{names.place} has other names than {description.place}, which holds"
                    yield Finding(FindingKind.NAMES_DIFFER, names.place, message)
                names = description.names
            rows = [row for path in _spread(paths, SAMPLE) for row in self._rows(path)]
            _refuse_shifted({row[0] for row in rows}, names, paths[0])
            columns = columns_of([row[1:] for row in rows], description.keypoints)
            if self.outlines:
                _refuse_boxes(columns, rows, paths[0])
            if columns == Columns.SCORED:
                message = "the lines have a confidence or a track number behind the box, as predictions have"
                yield Finding(FindingKind.PREDICTED_LABELS, paths[0], message)
            scope = Scope(names, columns, description.keypoints)
            self.scopes.update({str(PurePosixPath(path).parent): scope for path in paths})

    def _rows(self, path: str) -> Iterator[list[float]]:
        try:
            text, _ = self.tree.read_text(path)
        except InvalidInput:
            return  # a finding, once it is read for its image
        for line in text.splitlines():
            with suppress(ValueError):
                if words := line.split():
                    yield numbers(words)


class NoSuchClass(InvalidInput):
    """A line names a class that no file names."""


def open_reader(tree: Tree, options: Options) -> Reader:
    numbered = all(name.isdecimal() for name in options.classes)
    names = {} if numbered else dict(enumerate(options.classes))
    return YOLO(tree, Names(names, "spec.classes"), options.outlines)


def _refuse_boxes(columns: Columns, rows: Sequence[Sequence[float]], place: str) -> None:
    """Raises InvalidInput where lines are boxes, of which no outline is learned."""
    if rows and columns in (Columns.BOXES, Columns.SCORED, Columns.KEYPOINTS):
        raise InvalidInput(
            f"no object has an outline: the lines are {columns}",
            place,
            "export polygons (`class x1 y1 x2 y2 x3 y3 …`), or learn boxes by task: Detection",
        )


def _outlined(line: str, place: str, scope: Scope) -> Box:
    """An object with its polygon; one that is a box is not learned from."""
    box = _object(line, place, scope)
    polygon = scope.columns.outline(numbers(line.split()[1:]))
    if polygon is None:
        return outlined_by_box(box)
    return replace(box, outline=Region(box.name, (polygon,), place=place))


def _object(line: str, place: str, scope: Scope) -> Box:
    words = line.split()
    # Classes are numbers; a tool that writes their names means the same.
    named = words[0] in scope.names.by_number.values() and not words[0].isdecimal()
    try:
        values = numbers(words[1:])
        index = -1 if named else float(words[0].rstrip(","))
    except ValueError:
        raise InvalidInput(f"{line.strip()[:60]!r} holds something that is no number", place) from None
    if not named and (not 0 <= index < MAX_CLASSES or index != int(index)):
        raise InvalidInput(f"{words[0][:20]!r} is not the number of a class", place)
    corners = scope.columns.corners(values, scope.keypoints)
    name = words[0] if named else scope.names.of(int(index))
    if name is None:
        raise NoSuchClass(
            f"the class {int(index)} has no name in {scope.names.place}, which names {scope.names.known}", place
        )
    if max(map(abs, corners)) > 2:
        raise InvalidInput(
            f"{line.strip()[:60]!r} are no shares of the image's sides, from 0 to 1",
            place,
            "divide pixels by the image's width and height",
        )
    return Box(name, *corners, place=place)


def _labels_paths(image: str) -> Iterator[str]:
    """Where the labels of an image may lie: `images` (darknet: or `JPEGImages`) is `labels` in the path, the last such
    folder first; or beside the image."""
    full = PurePosixPath(image)
    for name in (full.with_suffix(".txt").name, f"{full.name}.txt"):
        parts = full.parts[:-1]
        for index in reversed(range(len(parts))):
            if parts[index].lower() in ("images", "jpegimages"):
                yield "/".join((*parts[:index], "labels", *parts[index + 1 :], name))
        if name not in NAME_FILES:
            yield "/".join((*parts, name))


def _holding(files: Mapping[str, object], path: str) -> str | None:
    """The description or list that holds for a label file: of the nearest folder above it; else the only one."""
    above = [str(folder) for folder in PurePosixPath(path).parents]
    near = next((folder for folder in above if folder in files), None)
    return near if near is not None or len(files) != 1 else next(iter(files))


def _refuse_shifted(classes: set[float], names: Names, labels: str) -> None:
    """Raises InvalidInput where names and labels do not count from the same number: each name would be another's."""
    if not classes or not names:
        return
    first, last = min(names.by_number), max(names.by_number)
    for off, start in ((1, 0), (0, 1)):
        if first == off and min(classes) == start and max(classes) == last + start - off:
            raise InvalidInput(
                f"the labels count the classes from {start} to {last + start - off} ({labels}), "
                f"the names from {first} to {last}",
                names.place,
                "number the names as the labels do: names: {1: cat, 2: dog}",
            )


def _spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` items, from everywhere."""
    step = max(1, len(items) // count)
    return list(items[::step][:count])


def _shared(labels: Mapping[str, str | None]) -> Iterator[Finding]:
    """Label files that belong to more than one image, of the same name and another suffix."""
    images: dict[str, list[str]] = defaultdict(list)
    for image, path in labels.items():
        if path is not None:
            images[path].append(image)
    for path, several in images.items():
        if len(several) > 1:
            yield Finding(FindingKind.SHARED_LABELS, path, f"the labels belong to {' and to '.join(several[:3])}")


# --- Splits -------------------------------------------------------------------------------------------------


def _lists(tree: Tree, labels: set[str | None]) -> list[Description]:
    """Lists that name a split by what they are called (`train.txt`), where no description names any."""
    named = {path: split_named(PurePosixPath(path).stem) for path in tree.with_suffix(".txt") if path not in labels}
    return [Description(path, splits=((split, PurePosixPath(path).name),)) for path, split in named.items() if split]


def _splits(tree: Tree, described: Iterable[Description]) -> tuple[dict[str, str | None], list[Finding]]:
    """The split of each image that a description or a list puts somewhere; None where two splits have it."""
    splits: dict[str, str | None] = {}
    findings: list[Finding] = []
    for description in described:
        for split, folder_or_list in description.splits:
            for path, place in _members(tree, description, folder_or_list, findings):
                earlier = splits.setdefault(path, split)
                if earlier not in (split, None):
                    splits[path] = None
                    message = f"{path} is in the splits {earlier} and {split}; it is shared out by splits.ratios"
                    findings.append(Finding(FindingKind.SPLIT_CONFLICT, place, message))
    return splits, findings


def _members(tree: Tree, description: Description, named: str, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """The images of a folder or list that a description names, and where each is named."""
    if (file := description.file(tree, named)) is not None and file not in tree.images:
        text, _ = tree.read_text(file)
        for number, line in enumerate(text.splitlines(), 1):
            place = f"{file}:{number}"
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                located = tree.locate(line.strip(), file)
            except InvalidInput as error:
                findings.append(Finding(FindingKind.MISSING_SPLIT, place, error.message))
                continue
            if located is None:
                findings.append(Finding(FindingKind.MISSING_SPLIT, place, f"there is no image {line.strip()}"))
            else:
                yield located.path, place
    elif (folder := description.folder(tree, named)) is not None:
        below = f"{folder}/" if folder else ""
        yield from ((path, description.place) for path in tree.images if path.startswith(below))
    else:
        message = f"{named} is no folder and no list of images in this source"
        findings.append(Finding(FindingKind.MISSING_SPLIT, description.place, message))
