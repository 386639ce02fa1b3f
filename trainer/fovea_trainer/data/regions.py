"""Regions of an image: polygons and COCO's run lengths, drawn as pycocotools draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.data.records import IGNORE, Box, Region

MAX_OUTLINE = 2_000_000
"""Pixels of all outlines of a region; drawing takes time and memory by them."""


def rectangle(x1: float, y1: float, x2: float, y2: float) -> tuple[float, ...]:
    """The polygon of a box."""
    return (x1, y1, x2, y1, x2, y2, x1, y2)


def fault_of(region: Region, width: int, height: int) -> str:
    """Why a region cannot be of an image of this size; empty where it can."""
    if region.runs and region.size != (height, width):
        return f"the region has {region.size[1]} x {region.size[0]} pixels, the image {width} x {height}"
    outline = 0.0
    for polygon in region.polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        if (points < (-width, -height)).any() or (points > (2 * width, 2 * height)).any():
            return f"the polygon leaves the image of {width} x {height} pixels by more than its own size"
        outline += float(np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum())
    return f"the outline has {outline:,.0f} pixels" if outline > MAX_OUTLINE else ""


def ignored(region: Region, width: int, height: int) -> Region:
    """The pixels that may be of a region that cannot be drawn: those of its box."""
    assert region.box is not None
    x1, y1, x2, y2 = (float(side) for side in np.clip(region.box, 0, [width, height, width, height]))
    return replace(region, name="", polygons=(rectangle(x1, y1, x2, y2),), runs=(), size=(0, 0), box=None)


def corners_of(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around polygons."""
    xs, ys = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
    return min(xs), min(ys), max(xs), max(ys)


def region_corners(region: Region) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around a region; of run lengths those of their whole image."""
    return corners_of(region.polygons) if region.polygons else (0.0, 0.0, float(region.size[1]), float(region.size[0]))


def scaled(region: Region, width: int, height: int) -> Region:
    """A region whose polygons are in shares of the image's sides, in pixels."""
    factor = (width, height)
    polygons = (tuple(value * factor[index % 2] for index, value in enumerate(polygon)) for polygon in region.polygons)
    return replace(region, polygons=tuple(polygons))


def region_of(pixels: NDArray[np.bool_], name: str, place: str) -> Region:
    """A region that is drawn already, from its pixels `[height, width]`."""
    flat = np.concatenate([[False], pixels.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges, [pixels.size]]))
    return Region(name, runs=tuple(runs.tolist()), size=(pixels.shape[0], pixels.shape[1]), place=place)


def extent(pixels: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels `[height, width]`; all 0 where there are none."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else (0, 0, 0, 0)


def outlined_by_box(box: Box) -> Box:
    """An object whose pixels nobody knows: one that is neither learned from nor missed; those of its box stand for
    it."""
    return replace(box, difficult=True, outline=Region(box.name, (rectangle(*box.corners),), place=box.place))


def draw(regions: Sequence[Region], classes: Sequence[str], width: int, height: int) -> NDArray[np.uint8]:
    """Class indices [height, width], later regions over earlier; IGNORE for regions without a name.

    Where a class is named `background`, pixels of no region are of that class, and IGNORE otherwise.
    """
    ground = classes.index("background") if "background" in classes else IGNORE
    indices = np.full((height, width), ground, np.uint8)
    for region in regions:
        indices[pixels_of(region, width, height)] = classes.index(region.name) if region.name else IGNORE
    return indices


def pixels_of(region: Region, width: int, height: int) -> NDArray[np.bool_]:
    """Which pixels `[height, width]` are of a region that has no fault."""
    if region.runs:
        flags = np.arange(len(region.runs)) % 2 == 1
        return np.repeat(flags, region.runs).reshape(width, height).T
    from faster_coco_eval.core import mask  # pycocotools' own drawing; takes a second to import

    drawn = mask.decode(mask.merge(mask.frPyObjects([list(polygon) for polygon in region.polygons], height, width)))
    return np.asarray(drawn, np.bool_)
