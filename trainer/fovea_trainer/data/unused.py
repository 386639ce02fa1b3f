"""The files of a source that were not used: labels of no image, images that no label file lists, and the like."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fovea_api.errors import InvalidInput
from fovea_store import StoreUnavailable

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.image_files import HEAD_BYTES, VIDEO_SUFFIXES, image_by_name, is_image

LOOKED_INTO = 500
"""Files whose first bytes are read to say what they are; of the others the suffix says it."""
EXAMPLES = 3

BESIDE = re.compile(
    r"(^|/)(thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r|readme[^/]*|licen[cs]e[^/]*|changelog[^/]*|citation[^/]*"
    r"|requirements[^/]*|dockerfile|makefile|[^/]*\.(md|rst|pdf|html?|css|py|pyc|ipynb|sh|bat|log|cache|lock|toml|cfg|pt"
    r"|pth|onnx|weights))$",
    re.IGNORECASE,
)
"""What lies beside data sets and is no data."""
LINE = re.compile(rb"\s*\d+([ \t]+[-+.\deE]+){4,}\s*($|\r|\n)")
"""A line of a YOLO label file."""


@dataclass(frozen=True, slots=True)
class Unused:
    """Files of one kind that were not used."""

    words: str
    paths: tuple[str, ...]
    harmless: bool = False
    """Whether no image or label is lost by it."""

    def __str__(self) -> str:
        examples = ", ".join(self.paths[:EXAMPLES]) + (", …" if len(self.paths) > EXAMPLES else "")
        return f"{self.words}: {len(self.paths):,} ({examples})"


def unused_files(tree: Tree, used: set[str]) -> list[Unused]:
    """The files that were not used, by kind, those first whose loss is worst.

    Args:
        tree: All files of a source, after its reader has scanned it.
        used: Paths of images, and of files with their labels.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    looked_into = 0
    for path in sorted(tree.files.keys() - used - tree.opened):
        if BESIDE.search(path):
            continue
        head = b""
        if looked_into < LOOKED_INTO:
            looked_into += 1
            head = _head(tree, path)
        kinds[_kind(path, head)].append(path)
    return [Unused(words, tuple(kinds[words]), words in HARMLESS) for words in WORDS if kinds[words]]


LABELS, IMAGES, HIDDEN_IMAGES = "label files of no image", "images that no label file lists", "images by another name"
MASKS, YAML, ARCHIVES, VIDEOS, OTHER = "masks", "other YAML files", "archives", "videos", "other files"
WORDS = (LABELS, IMAGES, HIDDEN_IMAGES, ARCHIVES, VIDEOS, YAML, MASKS, OTHER)
HARMLESS = (MASKS, YAML, OTHER)


def unused_finding(unused: Sequence[Unused]) -> Finding:
    """One finding about all unused files of a source; there is at least one."""
    total = sum(len(each.paths) for each in unused)
    message = f"{total:,} file{'s' if total > 1 else ''} not used: {', '.join(map(str, unused))}"
    kind = FindingKind.OTHER_FILES if all(each.harmless for each in unused) else FindingKind.UNUSED_FILES
    return Finding(kind, _common_folder([path for each in unused for path in each.paths]), message)


def _kind(path: str, head: bytes) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    folders = {part.lower() for part in PurePosixPath(path).parts[:-1]}
    if image_by_name(path) or is_image(head):
        if folders & {"segmentationclass", "segmentationobject", "masks", "mask", "annotations", "labels"}:
            return MASKS
        return IMAGES if image_by_name(path) else HIDDEN_IMAGES
    if suffix == ".xml" or LINE.match(head) or (suffix == ".txt" and folders & {"labels", "label", "annotations"}):
        return LABELS
    if suffix == ".json" and (not head or b'"annotations"' in head or b'"shapes"' in head or b'"imagePath"' in head):
        return LABELS
    if suffix in (".yaml", ".yml"):
        return YAML
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".rar"):
        return ARCHIVES
    if suffix in VIDEO_SUFFIXES:
        return VIDEOS
    return OTHER


def _head(tree: Tree, path: str) -> bytes:
    try:
        with (tree.root / path).open() as file:
            return bytes(file.read(HEAD_BYTES))
    except (OSError, InvalidInput, StoreUnavailable):  # such as a name that is no UTF-8
        return b""  # what nobody needs stops no build


def _common_folder(paths: list[str]) -> str:
    parents = [PurePosixPath(path).parts[:-1] for path in paths]
    common: list[str] = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "/".join(common) or "."
