"""ImageFolder: one folder a class, as `<class>/…`, `<split>/<class>/…` or `<class>/<split>/…`.

One folder around all others is looked through. A folder that is called as a split is one, and never a class; but
`train` beside other classes, which no split lies beside, is the vehicle. Images in no class's folder have no label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, splits_in
from fovea_trainer.data.records import FileImage, Labels, SourceImage, split_named
from fovea_trainer.data.text import composed

LAYOUT = "ImageFolder has <class>/<image> or <split>/<class>/<image>"


@dataclass(frozen=True)
class ImageFolder:
    """Reader of ImageFolder."""

    tree: Tree
    classes: frozenset[str]
    """Names that are classes, whatever they are called."""

    def scan(self) -> Iterator[SourceImage | Finding]:
        paths = self.tree.images
        if not paths:
            raise InvalidInput("there are no images", str(self.tree.root), LAYOUT)
        folders = [tuple(composed(part) for part in path.split("/")[:-1]) for path in paths]
        around = _around(folders)
        inner = [parts[around:] if len(parts) >= around else () for parts in folders]
        layout = _Layout.of(inner, self.classes)
        placed = [layout.place(parts) for parts in inner]
        if not any(name for name, _ in placed):
            tops = ", ".join(sorted({parts[0] for parts in inner if parts})[:10])
            message = f"the folders {tops} name splits, and no class" if tops else "no image lies in a class's folder"
            raise InvalidInput(message, str(self.tree.root), LAYOUT)
        yield from _nearly_splits({name for name, _ in placed if name} - self.classes)
        for path, (name, split) in zip(paths, placed, strict=True):
            if name is None:
                finding = Finding(FindingKind.UNLABELLED, path, "the image lies in no class's folder")
                yield SourceImage(path, FileImage(path), split, Labels(place=path, findings=(finding,)))
            else:
                yield SourceImage(path, FileImage(path), split, Labels(name=name, place=path))

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")


def open_reader(tree: Tree, options: Options) -> Reader:
    return ImageFolder(tree, frozenset(options.classes) | frozenset(options.class_map))


def _nearly_splits(names: Set[str]) -> Iterator[Finding]:
    """Folders such as `seg_train` and `seg_test`, which are taken for classes."""
    splits = {name: splits_in(name) for name in names}
    if {"train", "test"} <= {split for each in splits.values() for split in each}:
        for name in sorted(name for name in names if splits[name]):
            message = f"the folder {name} is taken for a class, and is called nearly as a split"
            remedy = "call folders of splits train, validation and test; list it in classes if it is one"
            yield Finding(FindingKind.MISSING_SPLIT, name, message, remedy)


def _around(folders: Sequence[Sequence[str]]) -> int:
    """Number of folders around all others, as archives have them; a few stray images beside the others do not count."""
    depth = 0
    while True:
        tops = {parts[depth] for parts in folders if len(parts) > depth}
        deeper = sum(len(parts) > depth + 1 for parts in folders)
        if len(tops) != 1 or split_named(next(iter(tops))) or 2 * deeper <= len(folders):
            return depth
        depth += 1


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the folders of a source mean."""

    classes: frozenset[str]
    """Top folders that are classes although they are called as a split."""
    splits_within: bool
    """Whether the folders in those of the classes are splits."""

    @classmethod
    def of(cls, folders: Sequence[Sequence[str]], classes: frozenset[str]) -> _Layout:
        within: dict[str, set[str]] = defaultdict(set)
        for parts in folders:
            if parts:
                within[parts[0]].add(parts[1] if len(parts) > 1 else "")
        splits = {name for name in within if split_named(name) and name not in classes}
        vehicle = {
            name
            for name in splits
            if split_named(name) == "train" and within[name] == {""} and len(splits) == 1 and len(within) > 1
        }
        inside = {name for top in within.keys() - splits | vehicle for name in within[top]}
        return cls(
            frozenset(classes & within.keys()) | vehicle,
            bool(inside) and all(name and split_named(name) for name in inside),
        )

    def place(self, folders: Sequence[str]) -> tuple[str | None, str | None]:
        """Class and split of an image that lies in these folders."""
        split: str | None = None
        for position, name in enumerate(folders):
            if name not in self.classes and (named := split_named(name)):
                split = named
                continue
            if self.splits_within and len(folders) > position + 1:
                split = split_named(folders[position + 1])
            return name, split
        return None, split
