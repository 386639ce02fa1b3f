"""Labels of a picture that EXIF turns: of the raster as the file holds it, or of the picture as it is displayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.data.records import Box, Labels, Region
from fovea_trainer.data.regions import pixels_of, region_of

TRANSPOSED = range(5, 9)
"""EXIF orientations that exchange width and height."""


def turn_points(points: NDArray[np.float64], orientation: int, width: int, height: int) -> NDArray[np.float64]:
    """Points [N, 2] of the raster as points of the displayed picture of `width` x `height` pixels."""
    x, y = points[:, 0], points[:, 1]
    match orientation:
        case 5:
            moved = (y, x)
        case 6:
            moved = (width - y, x)
        case 7:
            moved = (width - y, height - x)
        case 8:
            moved = (y, height - x)
        case _:
            raise ValueError(f"the orientation {orientation} exchanges no sides")
    return np.stack(moved, 1)


def turn_pixels(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels [h, w] of the raster as EXIF displays them."""
    match orientation:
        case 5:
            return pixels.T
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return np.rot90(pixels, 2).T
        case 8:
            return np.rot90(pixels)
    raise ValueError(f"the orientation {orientation} exchanges no sides")


def turn_labels(labels: Labels, orientation: int, width: int, height: int) -> Labels:
    """Boxes, polygons and run lengths of the raster as those of the displayed picture of `width` x `height` pixels."""

    def rotated(values: Sequence[float]) -> NDArray[np.float64]:
        return turn_points(np.asarray(values, np.float64).reshape(-1, 2), orientation, width, height)

    def corners(values: Sequence[float]) -> tuple[float, float, float, float]:
        (x1, y1), (x2, y2) = rotated(values).tolist()
        return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))

    def region(of: Region) -> Region:
        box = of.box and corners(of.box)
        if of.runs and of.size == (width, height):  # height and width of the raster
            pixels = turn_pixels(pixels_of(of, height, width).astype(np.uint8), orientation)
            return replace(region_of(pixels.astype(np.bool_), of.name, of.place), box=box)
        polygons = tuple(tuple(rotated(polygon).ravel().tolist()) for polygon in of.polygons)
        return replace(of, polygons=polygons, box=box)

    def moved(box: Box) -> Box:
        outline = None if box.outline is None else region(box.outline)
        return Box(box.name, *corners(box.corners), box.difficult, box.place, outline)

    boxes = tuple(map(moved, labels.boxes))
    return replace(labels, boxes=boxes, regions=tuple(map(region, labels.regions)), size=(width, height))
