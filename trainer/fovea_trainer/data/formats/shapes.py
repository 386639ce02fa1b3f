"""Shapes that people draw round objects, and what an image's shapes say about a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

from fovea_trainer.data.checks import MAX_PIXELS
from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options
from fovea_trainer.data.records import Box, Labels, Region
from fovea_trainer.data.regions import corners_of, outlined_by_box

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""
WHOLE: Corners = (0.0, 0.0, math.inf, math.inf)
"""The box of a class that is the image's."""
MAX_NUMBER = 1e18
"""Coordinates are smaller; those that are not finite are none."""
BOX_ALONE = "the object has a box and no outline"
MAX_RADIUS = 1e6
REDRAW = 'draw a box, polygon, ellipse or mask, or drop the label on purpose: map it to "" in classMap'
SAGITTA = 0.05
"""Pixels that the polygon of an ellipse may lie inside of it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """An object as it is drawn."""

    name: str
    """The class; empty where it is not known: the pixels are ignored."""
    place: str
    corners: Corners
    """Of the box around it."""
    pixels: Region | None = None
    fault: str = BOX_ALONE
    """Why there are no pixels."""
    boxed: bool = True
    """Whether the box says where the object is; otherwise there is no object for who learns boxes."""
    difficult: bool = False


def box(name: str, place: str, corners: Corners) -> Shape:
    """An upright box, whose pixels nobody knows."""
    return Shape(name, place, corners)


def polygon(name: str, place: str, points: Sequence[float]) -> Shape:
    """A polygon x1, y1, x2, y2, …. Raises InvalidInput for one of less than three points."""
    if len(points) < 6 or len(points) % 2:
        raise InvalidInput("the polygon has less than three points, or half of one", place)
    outline = tuple(points)
    return Shape(name, place, corners_of([outline]), Region(name, (outline,), place=place))


def turned(points: Sequence[float], pivot: tuple[float, float], degrees: float) -> list[float]:
    """Points x1, y1, x2, y2, … turned clockwise, as a picture shows it, round a pivot."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    pairs = [(x - pivot[0], y - pivot[1]) for x, y in zip(points[0::2], points[1::2], strict=True)]
    return [side for x, y in pairs for side in (pivot[0] + x * cos - y * sin, pivot[1] + x * sin + y * cos)]


def ellipse(name: str, place: str, centre: tuple[float, float], radii: tuple[float, float], degrees: float) -> Shape:
    """An ellipse, turned clockwise: its polygon, and the box around the ellipse itself. Raises InvalidInput."""
    if not 0 < min(radii) <= max(radii) < MAX_RADIUS:
        raise InvalidInput(f"the ellipse has the radii {radii[0]:g} and {radii[1]:g}", place)
    count = max(12, math.ceil(math.pi / math.acos(max(0.0, 1 - SAGITTA / max(radii)))))
    angles = [2 * math.pi * number / count for number in range(count)]
    upright = [
        side
        for angle in angles
        for side in (centre[0] + radii[0] * math.cos(angle), centre[1] + radii[1] * math.sin(angle))
    ]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across = math.hypot(radii[0] * cos, radii[1] * sin)
    down = math.hypot(radii[0] * sin, radii[1] * cos)
    corners = (centre[0] - across, centre[1] - down, centre[0] + across, centre[1] + down)
    return Shape(name, place, corners, Region(name, (tuple(turned(upright, centre, degrees)),), place=place))


def unusable(options: Options, name: str, place: str, kind: str, points: Sequence[float]) -> Shape | None:
    """A shape that surrounds no object: the box around its points x1, y1, x2, y2, …; None where its class is dropped.

    Raises InvalidInput where there are no points.
    """
    if options.class_map.get(name) == "":
        return None
    message = f"{kind} surrounds no object"
    if len(points) < 2:
        raise InvalidInput(message, place, REDRAW)
    return Shape(name, place, corners_of([points]), fault=message, boxed=False)


def cropped(name: str, place: str, pixels: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> Shape:
    """The pixels `[h, w]` of a part of an image whose upper left corner is given; `size` is the image's width and
    height. Raises InvalidInput where the part leaves the image, or shows nothing."""
    (height, width), (across, down) = pixels.shape, size
    if min(left, top) < 0 or left + width > across or top + height > down:
        message = f"the mask of {width} x {height} pixels at {left}, {top} leaves its image of {across} x {down}"
        raise InvalidInput(message, place)
    edges = np.diff(np.pad(pixels.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    columns, rows = np.nonzero(edges)  # a column's run begins and ends within it
    if not len(rows):
        raise InvalidInput("the mask shows no pixel", place)
    ends = (columns + left) * down + rows + top
    runs = np.diff(np.concatenate([[0], ends, [across * down]]))
    corners = (left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max())
    x1, y1, x2, y2 = map(float, corners)
    region = Region(name, runs=tuple(runs.tolist()), size=(down, across), place=place)
    return Shape(name, place, (x1, y1, x2, y2), region)


def check_area(width: int, height: int, place: str) -> None:
    """Raises InvalidInput for the sides of a mask that no image can have."""
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise InvalidInput(f"the mask has {width} x {height} pixels; {MAX_PIXELS:,} are possible", place)


def labels_of(
    options: Options,
    shapes: Iterable[Shape],
    *,
    classes: Iterable[Shape] = (),
    place: str,
    size: tuple[int, int] | None = None,
    findings: Sequence[Finding] = (),
    complete: bool = True,
) -> Labels:
    """What is known of an image.

    A shape without pixels is neither learned from nor missed where a task asks for them, and reported.

    Args:
        options: Its task says which of the labels count.
        shapes: Objects, those behind first.
        classes: Classes of the image, each with the box WHOLE.
        place: Where the image's labels begin.
        size: Width and height that they claim.
        findings: What is wrong with them.
        complete: Whether all shapes could be read; a segmentation of only some of them is not used.
    """
    told = list(findings)
    if options.task == Task.CLASSIFICATION:
        shapes = classes
    segments = options.task == Task.SEMANTIC_SEGMENTATION
    boxes: list[Box] = []
    regions: list[Region] = []
    for shape in shapes:
        if not (shape.boxed or segments or options.outlines):
            told.append(Finding(FindingKind.DEGENERATE_BOX, shape.place, shape.fault, REDRAW))
            continue
        if shape.pixels is None and (segments or options.outlines):
            told.append(Finding(FindingKind.IGNORED_REGION, shape.place, shape.fault))
        if segments:
            regions.append(shape.pixels or Region(shape.name, place=shape.place, box=shape.corners))
            continue
        pixels = shape.pixels if options.outlines else None
        drawn = Box(shape.name, *shape.corners, shape.difficult, shape.place, pixels)
        boxes.append(outlined_by_box(drawn) if options.outlines and pixels is None else drawn)
    complete = complete or not segments
    return Labels(
        boxes=tuple(boxes),
        regions=tuple(regions) if complete else (),
        size=size,
        place=place,
        findings=tuple(told),
        complete=complete,
    )


def refuse_boxes(shapes: Iterable[Shape]) -> None:
    """Raises InvalidInput where objects have no outline at all."""
    first = None
    for shape in shapes:
        if shape.pixels is not None:
            return
        first = first or shape
    if first is not None:
        raise InvalidInput(
            f"no object has an outline: {first.fault}",
            first.place,
            "draw polygons or masks, or learn boxes by task: Detection",
        )
