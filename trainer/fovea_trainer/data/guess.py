"""Which format and splits a folder has, for looking at it before anybody has written a manifest."""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fovea_api.common import Task
from fovea_api.dataset import SUPPORTED_FORMATS, Format, Recipe, Splits
from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import FindingKind
from fovea_trainer.data.formats import Options, Tree, open_reader
from fovea_trainer.data.formats.csv import read_rows
from fovea_trainer.data.formats.csv_columns import columns_of
from fovea_trainer.data.formats.masks import IMAGE_FOLDERS, MASK_FOLDERS
from fovea_trainer.data.records import Labels, SourceImage
from fovea_trainer.data.sources import open_source
from fovea_trainer.data.text import decode_text, encoding_of
from fovea_trainer.data.unused import LINE

LOOKED_INTO = 20
"""Label files whose beginning is read."""
HEAD_BYTES = 4096
CAPTURED = re.compile(r"^\d{4}-\d\d-\d\d/[^/]+~label\.json$")
"""The label of a captured request."""
VALIDATION_SHARE = 0.15
"""Of the train images, where a source has a test split and no validation split."""


def guess_format(tree: Tree) -> Format:
    """The format whose files are there. Raises InvalidInput where the files are of none."""
    if any("ubyte" in PurePosixPath(path).name for path in tree.files):
        return Format.IDX
    if any(CAPTURED.search(path) for path in tree.files):
        return Format.CAPTURES
    texts = list(tree.with_suffix(".txt"))
    if any(PurePosixPath(path).name in ("data.yaml", "data.yml", "obj.data") for path in tree.files):
        return Format.YOLO
    if any(LINE.match(_head(tree, path)) for path in texts[:: max(1, len(texts) // LOOKED_INTO)]):
        return Format.YOLO
    documents = [_head(tree, path) for path in list(tree.with_suffix(".xml"))[:LOOKED_INTO]]
    if any(b"<annotations" in head for head in documents):
        return Format.CVAT
    if any(b"<annotation" in head for head in documents):
        return Format.PASCAL_VOC
    heads = [_head(tree, path) for path in list(tree.with_suffix(".json"))[:LOOKED_INTO]]
    for format, fits in JSON:
        if any(map(fits, heads)):
            return format
    if any(_lists_images(tree, path) for path in list(tree.with_suffix(".csv", ".tsv"))[:LOOKED_INTO]):
        return Format.CSV
    folders = {part.lower() for path in tree.images for part in PurePosixPath(path).parts[:-1]}
    if folders & set(IMAGE_FOLDERS) and folders & set(MASK_FOLDERS):
        return Format.MASKS
    if any("/" in path for path in tree.images):
        return Format.IMAGE_FOLDER
    raise InvalidInput(
        f"the files look like no format that can be read: {len(tree.images)} images, and no labels that are known",
        str(tree.root),
        "put the images of each class into a folder of its name, or add labels; --format says a format by its name",
    )


def guess_task(format: Format, tree: Tree) -> Task:
    """What the labels are for: instance segmentation where most objects have outlines, classification where images have
    a class and no object, else what the format is mostly used for."""
    if format in SUPPORTED_FORMATS[Task.INSTANCE_SEGMENTATION] and _has_outlines(format, tree):
        return Task.INSTANCE_SEGMENTATION
    order = (Task.DETECTION, Task.CLASSIFICATION, Task.SEMANTIC_SEGMENTATION)
    possible = [task for task in order if format in SUPPORTED_FORMATS[task]]
    if len(possible) == 1:
        return possible[0]
    shown = (task for task in possible if any(each.boxes or each.name for each in _first(format, tree, task)))
    return next(shown, possible[0])


def _has_outlines(format: Format, tree: Tree) -> bool:
    """Whether most objects of the first images are labelled pixel by pixel."""
    objects = outlined = 0
    for labels in _first(format, tree, Task.INSTANCE_SEGMENTATION):
        objects += len(labels.boxes) or any(one.kind == FindingKind.UNLABELLED for one in labels.findings)
        outlined += sum(not box.difficult for box in labels.boxes)
    return outlined > objects / 2


def _first(format: Format, tree: Tree, task: Task) -> list[Labels]:
    """The labels of the first images, of those that can be read."""
    reader = open_reader(format, tree, Options(task))
    found: list[Labels] = []
    try:
        images = (each for each in reader.scan() if isinstance(each, SourceImage))
        for each in itertools.islice(images, LOOKED_INTO):
            with suppress(InvalidInput):  # a finding, once it is read
                found.append(each.labels or reader.read(each))
    except InvalidInput:
        return []  # nothing can be read, or not for this task: a build says why
    return found


def given_splits(recipe: Recipe, work: Path) -> Mapping[str | None, int]:
    """How many images the sources put into each split, None for those of no split; no image is read.

    Args:
        recipe: The Dataset's.
        work: Local folder for what must be unpacked.

    Raises InvalidInput where a source cannot be opened.
    """
    counts: Counter[str | None] = Counter()
    for source in recipe.sources:
        if source.format is not None:
            tree = open_source(source, work / source.name)
            items = open_reader(source.format, tree, Options.of(recipe, source)).scan()
            counts.update(each.split for each in items if isinstance(each, SourceImage))
    return counts


def suited_splits(given: Mapping[str | None, int]) -> Splits:
    """How images are shared out where the sources put so many into each split: as they say where
    they have a train split and another, with a validation split out of train where they have none; else by the default
    ratios."""
    named = {split for split, count in given.items() if split and count}
    if "train" not in named or len(named) == 1:
        return Splits()
    if "validation" in named:
        return Splits(method="FromSource")
    return Splits(method="FromSource", validation_from_train=VALIDATION_SHARE)


def _is_coco(head: bytes) -> bool:
    return head.lstrip().startswith(b"{") and any(
        key in head for key in (b'"images"', b'"annotations"', b'"categories"')
    )


def _is_label_studio(head: bytes) -> bool:
    return head.lstrip().startswith(b"[") and (b'"data"' in head or b'"result"' in head)


def _is_label_me(head: bytes) -> bool:
    return head.lstrip().startswith(b"{") and any(key in head for key in (b'"shapes"', b'"imagePath"'))


def _is_create_ml(head: bytes) -> bool:
    image, labels = (b'"image"', b'"imagefilename"', b'"filename"'), (b'"annotation', b'"label"')
    return head.lstrip().startswith(b"[") and all(any(key in head for key in keys) for keys in (image, labels))


JSON = (
    *((Format.COCO, _is_coco), (Format.LABEL_STUDIO, _is_label_studio)),
    *((Format.LABEL_ME, _is_label_me), (Format.CREATE_ML, _is_create_ml)),
)


def _lists_images(tree: Tree, path: str) -> bool:
    """Whether a table lists images with classes or boxes."""
    with suppress(InvalidInput):
        rows = read_rows(io.StringIO(decode_text(_head(tree, path))[0].rpartition("\n")[0]), path)
        first = [cells for cells, _ in itertools.islice(rows, LOOKED_INTO)]
        return bool(first) and bool(columns_of(first, boxes=False))
    return False


def _head(tree: Tree, path: str) -> bytes:
    """The beginning of a file, in UTF-8 without a byte order mark where it has one."""
    with (tree.root / path).open() as file:
        head = bytes(file.read(HEAD_BYTES))
    encoding = encoding_of(head[:4])
    return head if encoding == "utf-8" else head.decode(encoding, errors="replace").encode()
