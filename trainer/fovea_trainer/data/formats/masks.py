"""Masks: pictures whose pixel values or colours are classes, beside images of the same name.

`images/` and one of `masks/`, `labels/` or `annotations/`, each with the same paths below, as they are or under the
folder of a split; or pairs by `imagePattern` and `maskPattern`. Palette pictures count by index, unless `maskColors`
gives colours. The value 255 is "ignore" unless `maskValues` uses it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree, split_of
from fovea_trainer.data.records import IGNORE, FileImage, Labels, MaskFile, SourceImage, split_named
from fovea_trainer.data.text import composed

IMAGE_FOLDERS = ("images", "image", "imgs", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentationclass")
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".heic", ".heif", ".avif")
"""Suffixes of pictures that cannot be masks beside another: their values are not those that were stored."""
_PART = re.compile(r"[{]([a-z]+)[}]|[*][*]/?|[*]")

Key = tuple[str, ...]
"""What an image and its mask have in common."""


@dataclass(frozen=True)
class Masks:
    """Reader of Masks."""

    tree: Tree
    options: Options
    masks: MaskFile
    """The classes of pixels, of all masks; without a path."""

    def scan(self) -> Iterator[SourceImage | Finding]:
        images, masks = self._by_pattern() if self.options.image_pattern else self._by_folder()
        if not images or not masks:
            remedy = "Masks has images/<name>.png and masks/<name>.png (or labels/), or imagePattern and maskPattern"
            if self.options.image_pattern and self.tree.images:
                remedy = f"a path there is {self.tree.images[0]}; see imagePattern and maskPattern"
            raise InvalidInput(f"there are {len(images)} images and {len(masks)} masks", str(self.tree.root), remedy)
        for key in sorted(images.keys() | masks.keys()):
            chosen = masks.get(key, [])
            lossless = [path for path in chosen if not path.lower().endswith(LOSSY)]
            chosen = lossless if len(lossless) == 1 else chosen
            if not images.get(key):
                yield Finding(FindingKind.MISSING_IMAGE, chosen[0], f"the image of the mask {chosen[0]} is missing")
            elif len(images[key]) > 1 or len(chosen) > 1:
                several = [*images[key], *chosen]
                self.tree.opened.update(several)
                message = f"which belongs to which is not known: {', '.join(several[:4])}"
                yield Finding(FindingKind.LISTED_TWICE, images[key][0], message)
            else:
                yield self._found(images[key][0], chosen[0] if chosen else None)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")

    def _found(self, image: str, mask: str | None) -> SourceImage:
        split = split_of(image)
        if self.options.image_pattern and (match := compiled(self.options.image_pattern).fullmatch(image)):
            split = split_named(match.groupdict().get("split") or "") or split
        if mask is None:
            finding = Finding(FindingKind.UNLABELLED, image, "the image has no mask of the same name")
            return SourceImage(image, FileImage(image), split, Labels(place=image, findings=(finding,)))
        of_image = MaskFile(mask, self.masks.lookup, self.masks.known, colors=self.masks.colors)
        return SourceImage(image, FileImage(image), split, Labels(mask=of_image, place=mask))

    def _by_folder(self) -> tuple[Mapping[Key, list[str]], Mapping[Key, list[str]]]:
        images: dict[Key, list[str]] = defaultdict(list)
        masks: dict[Key, list[str]] = defaultdict(list)
        for path in self.tree.images:
            folders = [part.lower() for part in PurePosixPath(path).parts[:-1]]
            roles = [(index, name) for index, name in enumerate(folders) if name in IMAGE_FOLDERS + MASK_FOLDERS]
            if not roles:
                continue
            index, role = roles[-1]
            parts = PurePosixPath(composed(path)).with_suffix("").parts
            (images if role in IMAGE_FOLDERS else masks)[(*parts[:index], *parts[index + 1 :])].append(path)
        return images, masks

    def _by_pattern(self) -> tuple[Mapping[Key, list[str]], Mapping[Key, list[str]]]:
        images: dict[Key, list[str]] = defaultdict(list)
        masks: dict[Key, list[str]] = defaultdict(list)
        assert self.options.image_pattern is not None
        assert self.options.mask_pattern is not None
        roles = ((masks, compiled(self.options.mask_pattern)), (images, compiled(self.options.image_pattern)))
        for path in self.tree.images:
            for pairs, pattern in roles:
                if match := pattern.fullmatch(path):
                    named = match.groupdict()
                    pairs[tuple(composed(named[name] or "") for name in sorted(named))].append(path)
                    break
        return images, masks


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of paths as a regular expression, with a group for each placeholder and for `**`."""
    text, end, seen = "", 0, set()
    for part in _PART.finditer(pattern):
        text += re.escape(pattern[end : part.start()])
        name, end = part[1], part.end()
        if part[0] == "*":
            text += "[^/]*"
        elif (name := name or "ANY") in seen:
            text += f"(?P={name})"
        else:
            text += f"(?P<{name}>{'(?:[^/]+/)*' if name == 'ANY' else '[^/]+'})"
            seen.add(name)
    return re.compile(text + re.escape(pattern[end:]))


def open_reader(tree: Tree, options: Options) -> Reader:
    lookup, known = bytearray([IGNORE] * 256), bytearray(256)
    classes = options.mask_classes
    if not classes:
        raise InvalidInput(
            "the classes of a Masks source are not known",
            "spec.classes",
            "list them in the order of their pixel values, or give the source maskValues: {<class>: <value>}",
        )
    values = dict(options.mask_values) or {name: value for value, name in enumerate(classes)}
    colors = _colors(options.mask_colors)
    if colors:
        values = {name: position for position, name in enumerate(options.mask_colors)}
    for raw, value in values.items():
        name = options.class_map.get(raw, raw)
        known[value] = 1
        if not name:
            continue
        if name not in classes:
            raise InvalidInput(
                f"the class {name!r} is not one of {', '.join(classes)}",
                "spec.sources.maskColors" if colors else "spec.sources.maskValues",
                "add it to classes",
            )
        if lookup[value] not in (IGNORE, classes.index(name)):
            raise InvalidInput(
                f"the classes {classes[lookup[value]]} and {name} both have the pixel value {value}",
                "spec.sources.maskValues",
                "give each its own value, or make them one class by classMap",
            )
        lookup[value] = classes.index(name)
    known[IGNORE] = known[IGNORE] or not colors
    return Masks(tree, options, MaskFile("", bytes(lookup), bytes(known), colors=colors))


def _colors(given: Mapping[str, str]) -> tuple[int, ...]:
    colors = tuple(int(color[1:], 16) for color in given.values())
    twice = [name for name, color in zip(given, colors, strict=True) if colors.count(color) > 1]
    if twice:
        raise InvalidInput(
            f"the classes {' and '.join(twice[:3])} have one colour",
            "spec.sources.maskColors",
            "give each class a colour of its own; classMap makes one class of two",
        )
    return colors
