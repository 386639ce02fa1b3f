"""Readers of label formats: one file each, registered by name.

A reader is made once per source, scans it in the parent process, and is sent to the workers, which read the
labels that lie in files of their own. It must survive hostile input: every error names file and line.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput

from fovea_trainer.data.records import Found, Labels
from fovea_trainer.store import Entry, StorePath

ANNOTATION_BYTES = 16 << 20
"""Largest annotation file of one image; real ones are a thousandth of that."""

_MODULES: Mapping[Format, str] = {
    Format.PASCAL_VOC: "pascal_voc",
    Format.COCO: "coco",
    Format.YOLO: "yolo",
    Format.IMAGE_FOLDER: "image_folder",
    Format.MASKS: "masks",
    Format.IDX: "idx",
}


@dataclass(frozen=True)
class Tree:
    """The files of a source. `files` stays in the parent process: it can be long."""

    root: StorePath
    files: Mapping[str, int] = field(default_factory=dict)
    """Size in bytes by path relative to the root."""

    @classmethod
    def of(cls, root: StorePath) -> Tree:
        """Lists a folder. Folders of the system (`.git`, `__MACOSX`) and hidden files are left out."""
        return cls(root, {entry.path: entry.size for entry in root.files() if not _hidden(entry)})

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "files": {}}

    def __truediv__(self, path: str) -> StorePath:
        return self.root / path

    def with_suffix(self, *suffixes: str) -> Iterator[str]:
        """Paths that end with one of the suffixes (lower case), in order."""
        return (path for path in sorted(self.files) if path.lower().endswith(suffixes))


def _hidden(entry: Entry) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in entry.path.split("/"))


@dataclass(frozen=True, slots=True)
class Options:
    """What the recipe says about reading."""

    task: Task
    classes: Sequence[str] = ()
    class_map: Mapping[str, str] = field(default_factory=dict)
    mask_values: Mapping[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one source in one format."""

    def scan(self) -> Iterator[Found]:
        """All images of the source, each name once. Raises InvalidInput where the layout is another."""
        ...

    def read(self, found: Found) -> Labels:
        """The labels of an image that `scan` left to be read. Raises InvalidInput with file and line."""
        ...


def open_reader(format: Format, tree: Tree, options: Options) -> Reader:
    """The reader of a format for a source. Raises InvalidInput for a format that cannot be read yet."""
    if format not in _MODULES:
        near = difflib.get_close_matches(format, _MODULES, 1, 0)
        raise InvalidInput(
            f"the format {format} cannot be read yet",
            "spec.sources.format",
            f"convert to one of {', '.join(sorted(_MODULES))}; the nearest is {near[0]}",
        )
    module = importlib.import_module(f"fovea_trainer.data.formats.{_MODULES[format]}")
    make: Callable[[Tree, Options], Reader] = module.open_reader
    return make(tree, options)
