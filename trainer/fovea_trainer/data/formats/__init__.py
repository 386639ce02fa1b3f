"""Readers of label formats: one file each, which has the format's name in lower case and an `open_reader`.

A reader is made once per source, scans it in the parent process, and is sent to the workers, which read the
labels that lie in files of their own. It survives hostile input: a wrong entry is a finding with file, line and
entry, and the rest is read. Only what makes all of a source ambiguous is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from fovea_api.common import Task
from fovea_api.dataset import Format, Recipe, Source
from fovea_api.errors import InvalidInput
from fovea_store import Entry, NotFound, StorePath

from fovea_trainer.data.findings import Finding
from fovea_trainer.data.image_files import HEAD_BYTES, image_by_name, is_image, may_be_image
from fovea_trainer.data.records import SPLIT_NAMES, Labels, NamedClass, SourceImage, split_named
from fovea_trainer.data.text import composed, decode_text

ANNOTATION_BYTES = 16 << 20
"""Largest annotation file of one image; real ones are a thousandth of that."""
BATCH = ".fovea-exported.json"
"""Lies beside images that went out for review, and says which they are and in which file they were labelled beforehand.
Hidden, so that it is no label file itself."""


@dataclass(frozen=True, slots=True)
class Located:
    """A file that an annotation refers to."""

    path: str
    exact: bool
    """Whether it lies where the annotation says; otherwise the ends of the two paths agree, and nothing else fits."""


@dataclass(frozen=True)
class Tree:
    """The files of a source. `files` stays in the parent process: it can be long."""

    root: StorePath
    files: Mapping[str, int] = field(default_factory=dict)
    """Size in bytes by path relative to the root."""
    opened: set[str] = field(default_factory=set, compare=False)
    """Paths that were opened in this process."""
    unreviewed: frozenset[str] = frozenset()
    """Files of predictions that nobody has changed; they are not among the files."""

    @classmethod
    def of(cls, root: StorePath) -> Tree:
        """Lists a folder. Folders of the system (`.git`, `__MACOSX`), hidden files, and predictions that went out for
        review and that nobody has changed are left out."""
        entries = list(root.files())
        there = {entry.path for entry in entries}
        unreviewed = frozenset(path for entry in entries for path in _unreviewed(root, entry.path, there))
        files = {each.path: each.size for each in entries if not _hidden(each) and each.path not in unreviewed}
        return cls(root, files, unreviewed=unreviewed)

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "files": {}, "opened": set(), "unreviewed": self.unreviewed}

    def __truediv__(self, path: str) -> StorePath:
        self.opened.add(path)
        return self.root / path

    def with_suffix(self, *suffixes: str) -> Iterator[str]:
        """Paths that end with one of the suffixes (lower case), in order."""
        return (path for path in sorted(self.files) if path.lower().endswith(suffixes))

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Paths of the images, in order: by suffix, and those without a known one that start as an image does."""
        return tuple(path for path in sorted(self.files) if image_by_name(path) or self._starts_as_image(path))

    def _starts_as_image(self, path: str) -> bool:
        if not may_be_image(path):
            return False
        try:
            with (self.root / path).open() as file:
                return is_image(file.read(HEAD_BYTES))
        except InvalidInput:  # such as a name that is no UTF-8
            return False

    def read_text(self, path: str) -> tuple[str, str]:
        """The text of a label file and its encoding. Raises InvalidInput where it is too long to be one."""
        return decode_text((self / path).read_bytes(ANNOTATION_BYTES))

    def find(self, path: str) -> str | None:
        """The file at a path, however its letters are composed; of another case where only one such file is there."""
        if path in self.files:
            return path
        same = [each for each in self._by_name.get(_key(path.rpartition("/")[2]), ()) if _key(each) == _key(path)]
        closest = [each for each in same if composed(each) == composed(path)] or same
        return closest[0] if len(closest) == 1 else None

    def has_folder(self, path: str) -> bool:
        """Whether there are files in or below a folder; that of the root is ''."""
        return path in self._folders

    def locate(self, written: str, beside: str, *folders: str) -> Located | None:
        """The file that an annotation file means by a path.

        Backslashes are slashes; absolute paths, drives and URLs are of the machine where the labels were made, of
        which only the end of the path counts. Where several files have the same end, those near the annotation file
        are meant, then those of its split.

        Args:
            written: The path as it is written.
            beside: The annotation file.
            folders: Where the format keeps such files, relative to the annotation file or the root.

        Raises InvalidInput where two files could be meant.
        """
        here = beside.rpartition("/")[0]
        for text in dict.fromkeys((written, unquote(written))):
            parts, foreign = _parts(text)
            if not parts:
                continue
            if not foreign:
                for base in dict.fromkeys((here, "", *(_join(here, each) for each in folders), *folders)):
                    if (path := self.find(_join(base, *parts))) is not None:
                        return Located(path, True)
            if (path := self._by_end(parts, beside, written)) is not None:
                return Located(path, False)
        return None

    def _by_end(self, parts: Sequence[str], beside: str, written: str) -> str | None:
        here = beside.rpartition("/")[0]
        same_name = self._by_name.get(_key(parts[-1]), ())
        for count in range(len(parts), 0, -1):
            end = "/" + _key("/".join(parts[-count:]))
            matching = [path for path in same_name if f"/{_key(path)}".endswith(end)]
            near = [path for path in matching if path.startswith(f"{here}/")] if here else matching
            matching = in_split_of(beside, near or matching)
            if len(matching) > 1:
                raise InvalidInput(f"{written!r} could be {' or '.join(matching[:3])}", None, "write more of the path")
            if matching:
                return matching[0]
            if count > 1 and any(f"/{_key(folder)}".endswith(end.rpartition("/")[0]) for folder in self._folders):
                return None  # the folder is there, and the file is not in it
        return None

    @cached_property
    def _by_name(self) -> Mapping[str, list[str]]:
        names: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            names[_key(path.rpartition("/")[2])].append(path)
        return names

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset("" if str(folder) == "." else str(folder) for path in self.files
                         for folder in PurePosixPath(path).parents)  # fmt: skip


def _unreviewed(root: StorePath, path: str, there: Container[str]) -> Iterator[str]:
    """The annotation file of a batch for review, by the batch's marker, if it is as it was written.

    `there`: paths of the files; anything else that a marker names, such as a pipe, is not opened.
    """
    folder, _, name = path.rpartition("/")
    if name != BATCH:
        return
    try:
        written = json.loads((root / path).read_bytes())["annotations"]
        file = _join(folder, written["file"])
        if file in there and hashlib.sha256((root / file).read_bytes()).hexdigest() == written["sha256"]:
            yield file
    except (NotFound, ValueError, KeyError, TypeError):
        return  # it was written by somebody else, or its labels went elsewhere


def _hidden(entry: Entry) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in entry.path.split("/"))


def _key(path: str) -> str:
    return composed(path).casefold()


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _parts(written: str) -> tuple[list[str], bool]:
    """The parts of a path as it is written in a label file, and whether it is one of another machine."""
    text = written.strip().replace("\\", "/")
    foreign = text.startswith("/") or text[1:3] == ":/" or "://" in text
    if "://" in text or text.startswith("/data/local-files/"):
        try:
            url = urlsplit(text)
        except ValueError:
            return [], True
        text = next(iter(parse_qs(url.query).get("d", ())), url.path)
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == "..":
            foreign = True
        elif part not in ("", "."):
            parts.append(part)
    return parts, foreign


def split_of(path: str) -> str | None:
    """The split that the innermost folder of a path names; None where no folder names one."""
    named = (split_named(folder) for folder in reversed(path.split("/")[:-1]))
    return next((split for split in named if split), None)


def splits_in(name: str) -> list[str]:
    """The splits that a name has among its words, in their order."""
    return [SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES]


def split_of_file(file: str) -> str | None:
    """The split that a file's name has among its words, or its innermost folder that names one."""
    return next(iter(splits_in(PurePosixPath(file).stem)), None) or split_of(file)


def in_split_of(file: str, paths: Sequence[str]) -> list[str]:
    """Of the paths that a label file may mean the one in its own split; all where that is not one."""
    split = split_of_file(file) if len(paths) > 1 else None
    same = [path for path in paths if split is not None and split_of(path) == split]
    return same if len(same) == 1 else list(paths)


@dataclass(frozen=True, slots=True)
class Options:
    """What the recipe says about reading."""

    task: Task
    classes: Sequence[str] = ()
    class_map: Mapping[str, str] = field(default_factory=dict)
    mask_values: Mapping[str, int] = field(default_factory=dict)
    mask_colors: Mapping[str, str] = field(default_factory=dict)
    image_pattern: str | None = None
    mask_pattern: str | None = None

    @classmethod
    def of(cls, recipe: Recipe, source: Source) -> Options:
        """What a recipe says about reading one of its sources."""
        return cls(
            recipe.task,
            recipe.classes,
            recipe.class_map,
            source.mask_values,
            source.mask_colors,
            source.image_pattern,
            source.mask_pattern,
        )

    @property
    def outlines(self) -> bool:
        """Whether an object is learned by its pixels, so that a box alone does not show it."""
        return self.task == Task.INSTANCE_SEGMENTATION

    @property
    def mask_classes(self) -> list[str]:
        """The classes of masks: those of the recipe, else those that have a value or a colour."""
        named = {self.class_map.get(raw, raw) for raw in (*self.mask_values, *self.mask_colors)}
        return list(self.classes) or sorted(name for name in named if name)


class Reader(Protocol):
    """Reads one source in one format."""

    def scan(self) -> Iterator[SourceImage | Finding | NamedClass]:
        """All images of the source, each name once, what is wrong with the source itself, and the classes it names.

        Raises InvalidInput where nothing can be read: another layout, or one that is ambiguous as a whole.
        """
        ...

    def read(self, item: SourceImage) -> Labels:
        """The labels of an image that `scan` left to be read. Raises InvalidInput with file and line."""
        ...


class OpenReader(Protocol):
    """What a format's module has under the name `open_reader`."""

    def __call__(self, tree: Tree, options: Options) -> Reader: ...


def open_reader(format: Format, tree: Tree, options: Options) -> Reader:
    """The reader of a format for a source. Raises InvalidInput for videos, which have no labels to read."""
    if format == Format.VIDEO:
        raise InvalidInput("videos have no labels", "spec.sources.format", "give them as video: {uri: …}")
    make: OpenReader = importlib.import_module(f"{__name__}.{format.name.lower()}").open_reader
    return make(tree, options)
