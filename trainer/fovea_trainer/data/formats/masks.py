"""Masks: pictures whose pixel values are classes, beside images of the same name.

`images/` and one of `masks/`, `labels/` or `annotations/`, each with the same paths below, as they are or
under the folder of a split. Palette pictures count by index. The value 255 is
"ignore" unless `maskValues` uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree
from fovea_trainer.data.records import IGNORE, SPLIT_NAMES, FileImage, Found, Labels, MaskFile

IMAGE_FOLDERS = ("images", "image", "imgs", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentationclass")


@dataclass(frozen=True)
class Masks:
    """Reader of Masks."""

    tree: Tree
    lookup: bytes
    known: bytes

    def scan(self) -> Iterator[Found]:
        images: dict[str, str] = {}
        masks: dict[str, str] = {}
        for path in self.tree.images:
            folders = [part.lower() for part in PurePosixPath(path).parts[:-1]]
            roles = [(index, name) for index, name in enumerate(folders) if name in IMAGE_FOLDERS + MASK_FOLDERS]
            if not roles:
                continue
            index, role = roles[-1]
            parts = PurePosixPath(path).with_suffix("").parts
            key = "/".join((*parts[:index], *parts[index + 1 :]))
            kind = images if role in IMAGE_FOLDERS else masks
            if key in kind:
                raise InvalidInput(f"two files share the name {key}: {kind[key]}", path, "rename one")
            kind[key] = path
        if not images or not masks:
            raise InvalidInput(
                f"there are {len(images)} images and {len(masks)} masks",
                str(self.tree.root),
                "Masks has images/<name>.png and masks/<name>.png (or labels/)",
            )
        for key in sorted(images.keys() | masks.keys()):
            path = images.get(key, f"images/{key}")
            split = next(
                (SPLIT_NAMES[part.lower()] for part in key.split("/")[:-1] if part.lower() in SPLIT_NAMES),
                None,
            )
            if (mask := masks.get(key)) is not None:
                labels = Labels(mask=MaskFile(mask, self.lookup, self.known), place=mask)
            else:
                finding = Finding(FindingKind.UNLABELLED, path, "the image has no mask of the same name")
                labels = Labels(place=path, findings=(finding,))
            yield Found(path, FileImage(path), split, labels)

    def read(self, found: Found) -> Labels:
        raise AssertionError("scan gives all labels")


def open_reader(tree: Tree, options: Options) -> Reader:
    lookup, known = bytearray([IGNORE] * 256), bytearray(256)
    classes = list(options.classes) or sorted(
        {name for raw in options.mask_values if (name := options.class_map.get(raw, raw))}
    )
    if not classes:
        raise InvalidInput(
            "the classes of a Masks source are not known",
            "spec.classes",
            "list them in the order of their pixel values, or give the source maskValues: {<class>: <value>}",
        )
    values = dict(options.mask_values) or {name: value for value, name in enumerate(classes)}
    for raw, value in values.items():
        name = options.class_map.get(raw, raw)
        known[value] = 1
        if not name:
            continue
        if name not in classes:
            raise InvalidInput(
                f"the class {name!r} is not one of {', '.join(classes)}",
                "spec.sources.maskValues",
                "add it to classes",
            )
        lookup[value] = classes.index(name)
    known[IGNORE] = 1
    return Masks(tree, bytes(lookup), bytes(known))
