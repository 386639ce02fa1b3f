"""ImageFolder: one folder a class, `<class>/…` or `<split>/<class>/…`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fovea_api.errors import InvalidInput

from fovea_trainer.data.formats import Options, Reader, Tree
from fovea_trainer.data.records import IMAGE_SUFFIXES, SPLIT_NAMES, FileImage, Found, Labels


@dataclass(frozen=True)
class ImageFolder:
    """Reader of ImageFolder."""

    tree: Tree

    def scan(self) -> Iterator[Found]:
        paths = list(self.tree.with_suffix(*IMAGE_SUFFIXES))
        if not paths:
            raise InvalidInput("there are no images", str(self.tree.root), "ImageFolder has <class>/<image>")
        # One top folder holding all others (as archives have it) is looked through.
        skip = 0
        while all(len(path.split("/")) > skip + 2 for path in paths):
            tops = {path.split("/")[skip].lower() for path in paths}
            if len(tops) > 1 or tops <= SPLIT_NAMES.keys():
                break
            skip += 1
        parts = [path.split("/")[skip:] for path in paths]
        by_split = all(len(part) >= 3 and part[0].lower() in SPLIT_NAMES for part in parts)
        for path, part in zip(paths, parts, strict=True):
            if len(part) < 2:
                raise InvalidInput("the image lies in no class's folder", path, "move it into the folder of its class")
            split = SPLIT_NAMES[part[0].lower()] if by_split else None
            name = part[1] if by_split else part[0]
            yield Found(path, FileImage(path), split, Labels(name=name, place=path))

    def read(self, found: Found) -> Labels:
        raise AssertionError("scan gives all labels")


def open_reader(tree: Tree, options: Options) -> Reader:
    return ImageFolder(tree)
