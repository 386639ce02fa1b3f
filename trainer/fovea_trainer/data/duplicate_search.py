"""The search for near duplicates among the images of a build, in bounded memory and by all workers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
from fovea_serving.pipeline import decode
from numpy.typing import NDArray

from fovea_trainer.data.index import Index
from fovea_trainer.data.near_duplicates import (
    BYTES,
    SIDE,
    Comparison,
    Pairs,
    candidates,
    compare,
    copies,
    likely_copies,
    reduced,
)
from fovea_trainer.data.read import OpenSource, image_bytes, raw_pixels, rgb
from fovea_trainer.data.records import FileImage, ImageRef, RawImage
from fovea_trainer.data.workers import Workers

CHUNK = 32
"""Pairs that a worker compares at once."""
REMEMBERED = 4
"""Decoded images that are kept, as pairs follow each other by their first image."""

Located = tuple[int, ImageRef, str]
"""Where an image is: number of its source, place in it, name."""
Task = tuple[Located, Located, int, NDArray[np.float64]]
"""Two images, the second's orientation and its pose."""


def near_duplicate_pairs(
    index: Index, ids: Sequence[int], sources: Sequence[OpenSource], pool: Workers
) -> NDArray[np.int64]:
    """Pairs [M, 2] of positions in `ids` whose images are near duplicates, each once, sorted.

    The thumbnails lie in a file of BYTES an image beside the index.
    """
    file = index.file.with_suffix(".thumbnails")
    thumbnails: NDArray[np.uint8] = np.memmap(file, np.uint8, "w+", shape=(max(1, len(ids)), SIDE, SIDE))
    position = {number: row for row, number in enumerate(ids)}
    for number, thumbnail in index.db.execute("SELECT id, thumbnail FROM items"):
        if (row := position.get(number)) is not None:
            thumbnails[row] = np.frombuffer(thumbnail, np.uint8, BYTES).reshape(SIDE, SIDE)
    thumbnails = thumbnails[: len(ids)]
    likely = likely_copies(thumbnails, candidates(thumbnails))
    del thumbnails
    file.unlink()
    work = ((sources, chunk) for chunk in _chunks(index, ids, likely))
    comparisons = np.empty((len(likely), 3), np.float32)
    for number, chunk in enumerate(pool.map(_compare_chunk, work)):
        comparisons[number * CHUNK : (number + 1) * CHUNK] = chunk
    pairs = np.sort(likely.rows[copies(likely.rows, comparisons)], axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def _chunks(index: Index, ids: Sequence[int], likely: Pairs) -> Iterator[list[Task]]:
    for start in range(0, len(likely), CHUNK):
        some = likely[start : start + CHUNK]
        refs = _references(index, sorted({ids[row] for row in some.rows.ravel().tolist()}))
        yield [
            (refs[ids[first]], refs[ids[second]], int(orientation), pose)
            for (first, second), orientation, pose in zip(
                some.rows.tolist(), some.orientations, some.poses, strict=True
            )
        ]


def _references(index: Index, numbers: Sequence[int]) -> Mapping[int, Located]:
    """Where images are, by their ids."""
    marks = ",".join("?" * len(numbers))
    rows = index.db.execute(f"SELECT id, source, image, name FROM items WHERE id IN ({marks})", numbers)
    pairs: dict[int, Located] = {}
    for number, source, image, name in rows:
        ref = json.loads(image)
        pairs[number] = (source, FileImage(*ref) if len(ref) == 1 else RawImage(*ref), name)
    return pairs


def _compare_chunk(
    sources: Sequence[OpenSource],
    chunk: Sequence[Task],
) -> list[Comparison]:
    """What is left between the images of each pair (in a worker)."""
    cv2.setNumThreads(1)

    @lru_cache(REMEMBERED)
    def pixels(source: int, image: ImageRef, name: str) -> NDArray[np.uint8]:
        tree = sources[source].tree
        if isinstance(image, RawImage):
            return rgb(raw_pixels(tree, image))
        return reduced(decode(image_bytes(tree, image), name))

    return [compare(pixels(*first), pixels(*second), orientation, pose) for first, second, orientation, pose in chunk]
