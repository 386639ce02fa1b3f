"""Tiles cover an image, and what they say of it is what the image would say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fovea_api.common import Task
from fovea_serving.pipeline import Classification, Detection, Postprocess, SemanticSegmentation
from fovea_serving.pipeline.tiles import OVERLAP, Tile, tile_count, tiles_of
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = Postprocess(Task.DETECTION)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 2000))
def test_tiles_cover_the_image_and_overlap(width: int, height: int, side: int) -> None:
    tiles = tiles_of(width, height, side)
    assert len(tiles) == tile_count(width, height, side)
    for low, high, length in (("left", "right", width), ("top", "bottom", height)):
        spans = sorted({(getattr(tile, low), getattr(tile, high)) for tile in tiles})
        assert spans[0][0] == 0
        assert max(stop for _, stop in spans) == length
        for (_, stop), (start, end) in itertools.pairwise(spans):
            assert stop - start >= min(side, length) * OVERLAP - 1
            assert end - start == side


def seen(tile: Tile, boxes: list[list[float]]) -> tuple[Detection, Tile]:
    """What a perfect network says of a tile: what is visible of each object, in the tile's pixels."""
    clipped = [
        [max(x1, tile.left), max(y1, tile.top), min(x2, tile.right), min(y2, tile.bottom)] for x1, y1, x2, y2 in boxes
    ]
    visible = [box for box in clipped if box[2] - box[0] > 3 and box[3] - box[1] > 3]
    placed = np.array(visible, np.float32).reshape(-1, 4) - np.array([tile.left, tile.top] * 2, np.float32)
    scores = np.linspace(0.9, 0.8, len(placed), dtype=np.float32)
    return Detection(placed.astype(np.float32), np.zeros(len(placed), np.int64), scores), tile


def test_objects_on_seams_are_found_once_and_whole() -> None:
    random = np.random.default_rng(0)
    corners = [(x, y) for x in range(0, 940, 70) for y in range(0, 740, 70)]
    boxes = [
        [float(x), float(y), float(x + random.integers(20, 60)), float(y + random.integers(20, 60))] for x, y in corners
    ]
    parts = [seen(tile, boxes) for tile in tiles_of(1000, 800, 320)]
    merged = Detection.merge(parts, SETTINGS)
    assert sorted(map(tuple, merged.boxes.tolist())) == sorted(map(tuple, boxes))
    assert (np.diff(merged.scores) <= 0).all()


def test_an_object_larger_than_the_overlap_is_kept_in_parts_and_nothing_is_lost() -> None:
    parts = [seen(tile, [[10.0, 10.0, 900.0, 60.0]]) for tile in tiles_of(1000, 100, 320)]
    merged = Detection.merge(parts, SETTINGS)
    assert len(merged) >= 3
    assert merged.boxes[:, 0].min() == 10
    assert merged.boxes[:, 2].max() == 900


def test_nothing_in_any_tile_is_nothing() -> None:
    assert len(Detection.merge([seen(tile, []) for tile in tiles_of(500, 500, 200)], SETTINGS)) == 0


def test_a_pixel_has_the_class_that_the_tile_around_it_says() -> None:
    whole = np.random.default_rng(0).integers(0, 5, (90, 130), np.uint8)
    parts = []
    for tile in tiles_of(130, 90, 50):
        mask = whole[tile.top : tile.bottom, tile.left : tile.right].copy()
        left, top, right, bottom = tile.inner
        mask[:, : max(0, 3 + left - tile.left)] = 9  # at an inner edge the network sees too little
        mask[: max(0, 3 + top - tile.top)] = 9
        mask[:, right - tile.left - 3 :] = 9
        mask[bottom - tile.top - 3 :] = 9
        parts.append((SemanticSegmentation(mask), tile))
    assert (SemanticSegmentation.merge(parts, SETTINGS).mask == whole).all()


def test_a_class_of_the_image_is_not_made_of_parts() -> None:
    with pytest.raises(Exception, match="no meaning"):
        Classification.merge([], SETTINGS)
