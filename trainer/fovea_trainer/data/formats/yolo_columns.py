"""What the numbers behind the class of a YOLO label line mean.

Nothing in a line says it, so all lines of a data set are looked at together:

| numbers behind the class | meaning |
|---|---|
| 4 | box: x, y of the centre, width, height |
| 5 | box and confidence, or box and track number |
| 6, the last above 1 and whole | box, confidence, track number |
| 4 + n d, with `kpt_shape: [n, d]` | box and keypoints; every third number 0, 1 or 2 is a keypoint's visibility |
| 8, opposite sides equal (9 with a confidence) | oriented box: its four corners |
| 6 and more, even (odd with a confidence) | polygon |

Lines of one length that can be read as box and keypoints, but need not be, are in doubt and are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from fovea_api.errors import InvalidInput

SLACK = 0.02
"""Shares of the image by which a keypoint may leave its box, and by which an oriented box may be no rectangle."""

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2, relative."""


class Columns(StrEnum):
    """What all lines of a data set are, beside plain boxes, which may always be among them."""

    BOXES = "boxes"
    SCORED = "boxes with confidence or track number"
    KEYPOINTS = "boxes with keypoints"
    ORIENTED = "oriented boxes"
    POLYGONS = "polygons"
    SCORED_POLYGONS = "polygons with a confidence"
    DOUBT = "boxes with keypoints, or polygons"

    def corners(self, values: Sequence[float], keypoints: tuple[int, int] | None) -> Corners:
        """The box around an object. Raises InvalidInput where the numbers are not what all lines are."""
        count = len(values)
        if count < 4:
            raise InvalidInput(f"the line has {count + 1} numbers instead of 5 (class x y width height)")
        if count == 4 or (count == 5 and self != Columns.KEYPOINTS):
            return _box(values)
        match self:
            case Columns.KEYPOINTS:
                points = keypoints[0] * keypoints[1] if keypoints else (count - 4) // 3 * 3
                if count - 4 in (points, points + (keypoints is not None)):
                    return _box(values)
                raise InvalidInput(f"the line has {count + 1} numbers; box and keypoints are {5 + points}")
            case Columns.DOUBT:
                raise InvalidInput(
                    f"the {count + 1} numbers of the line can be a box with keypoints, or a polygon",
                    None,
                    "give data.yaml kpt_shape: [number, dimensions] if they are keypoints; else write boxes",
                )
            case Columns.SCORED if count == 6:
                return _box(values)
            case Columns.ORIENTED if count in (8, 9):
                return _around(values[:8])
            case Columns.POLYGONS if count >= 6 and count % 2 == 0:
                return _around(values)
            case Columns.SCORED_POLYGONS if count >= 7 and count % 2 == 1:
                return _around(values[:-1])
        raise InvalidInput(f"the line has {count + 1} numbers, where the others are {self}")

    def outline(self, values: Sequence[float]) -> tuple[float, ...] | None:
        """The polygon x1, y1, x2, y2, … of a line that `corners` takes; None of one that is a box."""
        match self:
            case Columns.ORIENTED if len(values) in (8, 9):
                return tuple(values[:8])
            case Columns.POLYGONS if len(values) > 5:
                return tuple(values)
            case Columns.SCORED_POLYGONS if len(values) > 5:
                return tuple(values[:-1])
        return None


def columns_of(rows: Sequence[Sequence[float]], keypoints: tuple[int, int] | None) -> Columns:
    """What the lines of a data set are.

    Args:
        rows: The numbers behind the class, of many lines.
        keypoints: Number and dimensions of the keypoints, where the data set is described as one of poses.
    """
    if keypoints is not None:
        return Columns.KEYPOINTS
    long = [row for row in rows if len(row) > 4]
    if not long:
        return Columns.BOXES
    counts = {len(row) for row in long}
    if counts == {5} or (counts <= {5, 6} and all(_is_track(row[5]) for row in long if len(row) == 6)):
        return Columns.SCORED
    if all(_has_visibility(row) for row in long) and len(counts) == 1:
        return Columns.KEYPOINTS
    if counts <= {8, 9} and all(_is_oriented(row[:8]) for row in long):
        return Columns.ORIENTED
    if len(counts) == 1 and all(_can_be_pose(row) for row in long):
        return Columns.DOUBT
    return Columns.SCORED_POLYGONS if all(count % 2 for count in counts) else Columns.POLYGONS


def numbers(words: Sequence[str]) -> list[float]:
    """The words as numbers; commas may divide them. Raises ValueError."""
    return [float(word.rstrip(",")) for word in words]


def _box(values: Sequence[float]) -> Corners:
    x, y, width, height = values[:4]
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _around(values: Sequence[float]) -> Corners:
    xs, ys = values[0::2], values[1::2]
    return (min(xs), min(ys), max(xs), max(ys))


def _is_track(value: float) -> bool:
    return value > 1 and value == int(value)


def _has_visibility(row: Sequence[float]) -> bool:
    rest = row[4:]
    return len(rest) % 3 == 0 and len(rest) > 0 and set(rest[2::3]) <= {0.0, 1.0, 2.0} and _inside(row, 3)


def _can_be_pose(row: Sequence[float]) -> bool:
    return len(row) > 5 and (len(row) % 2 == 0) and _inside(row, 2)


def _inside(row: Sequence[float], dimensions: int) -> bool:
    """Whether the row can be a box in the image with points in it; a point that is not seen is 0, 0."""
    x1, y1, x2, y2 = _box(row)
    if row[2] <= 0 or row[3] <= 0 or min(x1, y1) < -SLACK or max(x2, y2) > 1 + SLACK:
        return False
    xs, ys = row[4::dimensions], row[5::dimensions]
    return all(
        (x == 0 and y == 0) or (x1 - SLACK <= x <= x2 + SLACK and y1 - SLACK <= y <= y2 + SLACK)
        for x, y in zip(xs, ys, strict=True)
    )


def _is_oriented(row: Sequence[float]) -> bool:
    """Whether four corners are those of a parallelogram: what a rotated rectangle is in shares of the sides."""
    return (
        len(row) == 8
        and abs(row[0] + row[4] - row[2] - row[6]) <= SLACK
        and abs(row[1] + row[5] - row[3] - row[7]) <= SLACK
    )
