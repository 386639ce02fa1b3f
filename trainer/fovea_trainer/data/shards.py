"""The Parquet shards of a version, written by worker processes."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
from fovea_api.common import Task
from fovea_api.errors import Retryable
from fovea_api.version import Shard
from fovea_store import StorePath

from fovea_trainer.data.draft import Draft
from fovea_trainer.data.index import Index, Row, rows
from fovea_trainer.data.progress import ProgressMeter
from fovea_trainer.data.read import OpenSource, class_mask, image_bytes, mask_png
from fovea_trainer.data.splits import SPLITS
from fovea_trainer.data.version import write_shard
from fovea_trainer.data.workers import Workers

SHARD_IMAGES = 4096
SHARD_PIXELS = 1 << 30
"""A shard ends at SHARD_IMAGES images or SHARD_PIXELS pixels; about 300 MB of JPEG."""


@dataclass(frozen=True)
class ShardOrder:
    """A shard to be written by a worker: the rows of a split from one digest to another."""

    index: Path
    sources: tuple[OpenSource, ...]
    classes: tuple[str, ...]
    split: str
    first: str
    last: str
    file: Path
    target: StorePath


def write_shards(
    draft: Draft,
    sources: Sequence[OpenSource],
    index: Index,
    pool: Workers,
    target: StorePath,
    staging: Path,
    meter: ProgressMeter,
) -> tuple[Shard, ...]:
    """Writes all shards of a version to its folder in the store."""
    orders = [
        ShardOrder(
            index.file,
            tuple(sources),
            draft.classes,
            split,
            first,
            last,
            staging / file,
            target / f"shards/{file}",
        )
        for split in SPLITS
        for number, (first, last) in enumerate(_ranges(index.db, split))
        for file in [f"{split}-{number:05}.parquet"]
    ]
    shards: list[Shard] = []
    written = 0
    for shard in pool.map(_write_shard, ((order,) for order in orders)):
        shards.append(shard)
        written += shard.rows
        meter.images("Writing", written, draft.statistics.images, 60, 95)
    return tuple(shards)


def _ranges(db: sqlite3.Connection, split: str) -> Iterator[tuple[str, str]]:
    """First and last digest of each shard of a split."""
    first, last, images, pixels = "", "", 0, 0
    for digest, size in db.execute(
        "SELECT digest, width * height FROM items WHERE split = ? ORDER BY digest", (split,)
    ).fetchall():
        first, last, images, pixels = first or digest, digest, images + 1, pixels + size
        if images >= SHARD_IMAGES or pixels >= SHARD_PIXELS:
            yield first, last
            first, images, pixels = "", 0, 0
    if first:
        yield first, last


def _write_shard(order: ShardOrder) -> Shard:
    """Writes a shard to the store (in a worker)."""
    cv2.setNumThreads(1)
    with closing(sqlite3.connect(order.index)) as db:
        selected = rows(db, "split = ? AND digest BETWEEN ? AND ?", (order.split, order.first, order.last))
        count = write_shard((record(row, order.sources, order.classes) for row in selected), order.file)
    with order.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    order.target.upload(order.file)
    order.file.unlink()
    return Shard(path=f"shards/{order.file.name}", split=order.split, rows=count, digest=digest)


def record(row: Row, sources: Sequence[OpenSource], classes: tuple[str, ...]) -> dict[str, object]:
    """The row of a shard. Raises Retryable where the image is no longer the one that was checked."""
    source = sources[row.source]
    data = image_bytes(source.tree, row.image)
    if hashlib.sha256(data).hexdigest() != row.digest:
        raise Retryable("the image changed while the dataset was built", f"{source.name}: {row.name}", "build again")
    segments = source.options.task == Task.SEMANTIC_SEGMENTATION
    mask = class_mask(source.tree, row.content, classes, row.width, row.height) if segments else None
    return {
        "digest": row.digest,
        "name": row.name,
        "source": source.name,
        "group": row.group,
        "width": row.width,
        "height": row.height,
        "image": data,
        "label": classes.index(row.content.label) if row.content.label is not None else -1,
        "boxes": row.boxes(),
        "labels": row.labels(classes) if row.content.boxes else [],
        "difficult": [box[5] for box in row.content.boxes],
        "mask": mask_png(mask) if mask is not None else None,
        "masks": [counts.encode() for counts in row.content.masks],
    }
