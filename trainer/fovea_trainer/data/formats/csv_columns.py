"""What the columns of a CSV file mean: by their names, or by what the first rows hold where they have none.

Names count without case, signs and blanks: `Image_ID` is `imageid`. Of several columns that could be meant, the one
whose name comes first below is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fovea_api.errors import InvalidInput
from pydantic import JsonValue

from fovea_trainer.data.formats.json_stream import shown
from fovea_trainer.data.formats.shapes import MAX_NUMBER, Corners, ellipse
from fovea_trainer.data.image_files import image_by_name
from fovea_trainer.data.regions import corners_of

IMAGE = (
    *("filename", "filepath", "imagefilename", "imagename", "imagepath", "imagefile", "file", "path", "image", "img"),
    *("imgname", "imgpath", "images", "imageuri", "gcsuri", "uri", "url", "imageid", "imgid", "idcode", "patientid"),
    *("frame", "id"),
)
NAME = (
    *("classname", "labelname", "categoryname", "class", "label", "category", "target", "tag", "object", "name"),
    *("classid", "labelid", "categoryid"),
)
SPLIT = ("split", "set", "subset", "partition", "mluse")
DIFFICULT = ("difficult", "iscrowd", "isgroupof")
CONFIDENCE = ("confidence", "score")
"""Columns of how sure a label is, from 0 to 1. Where people have verified, 0 says that the image does not show it."""
VIA = ("regionshapeattributes", "regionattributes")
"""Columns of the VGG Image Annotator, each with a JSON object."""
SIZES = (("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("width", "height"))


class Sides(StrEnum):
    """What the numbers of a box are."""

    CORNERS = "left, top, right, bottom"
    TOP_LEFT = "left, top, width, height"
    CENTER = "x and y of the centre, width, height"
    VERTICES = "x and y of four corners, of which two opposite ones are enough"

    def corners(self, values: Sequence[float | None]) -> Corners:
        """x1, y1, x2, y2 of a box. None stands for an empty cell. Raises InvalidInput where one is needed."""
        if self is Sides.VERTICES:
            points = [pair for pair in zip(values[0::2], values[1::2], strict=True) if pair != (None, None)]
            values = [value for pair in points for value in pair] if len(points) > 1 else [None]
        numbers = [value for value in values if value is not None]
        if len(numbers) != len(values):
            raise InvalidInput(f"a number of the box is missing, which has {self}")
        match self:
            case Sides.CORNERS:
                x1, y1, x2, y2 = numbers
            case Sides.TOP_LEFT:
                x1, y1, x2, y2 = numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3]
            case Sides.CENTER:
                x, y, width, height = numbers
                x1, y1, x2, y2 = x - width / 2, y - height / 2, x + width / 2, y + height / 2
            case Sides.VERTICES:
                x1, y1, x2, y2 = corners_of([numbers])
        return x1, y1, x2, y2


BOXES = (
    (Sides.CORNERS, ("xmin", "ymin", "xmax", "ymax")),
    (Sides.CORNERS, ("x1", "y1", "x2", "y2")),
    (Sides.CORNERS, ("x0", "y0", "x1", "y1")),
    (Sides.CORNERS, ("left", "top", "right", "bottom")),
    *((Sides.CENTER, (*center, *sides)) for center in (("xcenter", "ycenter"), ("cx", "cy"))
      for sides in (("w", "h"), ("width", "height"))),
    *((Sides.TOP_LEFT, (*corner, *sides)) for corner in (("x", "y"), ("xmin", "ymin"), ("left", "top"))
      for sides in (("w", "h"), ("width", "height"))),
)  # fmt: skip
"""The names of a box's columns; `bbox_` or `box_` may stand before them."""
HEADER = "filename, width, height, class, xmin, ymin, xmax, ymax (with or without width, height)"
KNOWN = {*IMAGE, *NAME, *SPLIT, *DIFFICULT, *CONFIDENCE, *VIA, *(name for names in SIZES for name in names),
         *(name for _, names in BOXES for name in names)}  # fmt: skip
EMPTY = ("", "nan", "none", "null", "na", "n/a")
YES = ("1", "1.0", "true", "yes")

Label = tuple[str, Corners | None]
"""A class, with the box of the object in a file of boxes."""


class Meaning(Protocol):
    """What a row says."""

    def labels(self, cells: Sequence[str]) -> list[Label]:
        """The objects of a row, or the classes of its image; empty where there is none. Raises InvalidInput."""
        ...


@dataclass(frozen=True)
class Columns:
    """What the columns mean, by their positions."""

    image: int
    meaning: Meaning
    split: int | None = None
    difficult: int | None = None
    size: tuple[int, int] | None = None
    """Width and height of the image."""
    header: tuple[str, ...] = ()
    """The names; empty where the file has none."""
    confidence: int | None = None

    @property
    def classes(self) -> Sequence[str]:
        """Classes that the names are."""
        return tuple(self.meaning.names.values()) if isinstance(self.meaning, OneHot) else ()

    @property
    def relative(self) -> bool:
        """Whether boxes are shares of the image's sides, whatever their numbers are: so Vertex AI has it."""
        return isinstance(self.meaning, Named) and self.meaning.sides is Sides.VERTICES


@dataclass(frozen=True)
class Named:
    """Rows with a class: of the box of an object, or of the image."""

    names: Sequence[int]
    """Columns of classes: one, or several of an image."""
    sides: Sides | None = None
    box: Sequence[int] = ()

    def labels(self, cells: Sequence[str]) -> list[Label]:
        names = [name for at in self.names if (name := cell_of(cells, at)) not in ("", "nan", "NaN")]
        if tool := next((name for name in names if name.startswith(('{"', '[{"'))), None):
            raise InvalidInput(f"{tool[:40]!r} is the JSON of a tool, not the name of a class")
        if self.sides is None:
            return [(name, None) for name in names]
        written = [cell_of(cells, position) for position in self.box]
        if all(text.lower() in EMPTY for text in written):
            return []  # so files say that an image shows no object, whatever they call that
        if not names:
            raise InvalidInput("the box has no class")
        return [(names[0], self.sides.corners([number_of(text) for text in written]))]


@dataclass(frozen=True)
class OneHot:
    """A column a class, with 1 for the class of the image, and 0 for the others."""

    names: dict[int, str]

    def labels(self, cells: Sequence[str]) -> list[Label]:
        values = {name: cell_of(cells, position) for position, name in self.names.items()}
        for name, value in values.items():
            if value not in ("0", "1", "0.0", "1.0"):
                raise InvalidInput(f"the column {name!r} has {value[:40]!r}, not 0 or 1")
        return [(name, None) for name, value in values.items() if value in YES]


@dataclass(frozen=True)
class Region:
    """Rows of the VGG Image Annotator: a JSON object of the shape, and one of its attributes."""

    shape: int
    attributes: int

    def labels(self, cells: Sequence[str]) -> list[Label]:
        shape = _object(cell_of(cells, self.shape))
        if not shape:
            return []
        return [(_class(_object(cell_of(cells, self.attributes))), _around(shape))]


def columns_of(rows: Sequence[Sequence[str]], boxes: bool) -> Columns:
    """What the columns of a file mean. Raises InvalidInput where that is not clear.

    Args:
        rows: The first rows, from the first.
        boxes: Whether objects are asked for, not classes of images.
    """
    first = [cell.strip() for cell in rows[0]]
    if any(map(_is_image, first)):
        return _unnamed(rows, boxes)
    columns = _by_names(first, [_plain(cell) for cell in first], boxes)
    if isinstance(columns.meaning, OneHot):
        for row in rows[1:]:
            try:
                columns.meaning.labels(row)
            except InvalidInput as error:
                message = f"no column of {_list(first)} says the class, and they are not one a class: {error.message}"
                raise InvalidInput(message, None, "call the column of the class `class` or `label`") from None
    return columns


def classes_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """The classes of a file that lists no images but names with their numbers, as RetinaNet's do; else empty."""
    numbered = all(len(row) == 2 and row[1].strip().isdecimal() and not _is_image(row[0]) for row in rows)
    return [row[0].strip() for row in rows] if numbered else []


def _by_names(header: Sequence[str], names: Sequence[str], boxes: bool) -> Columns:
    image, name = _find(names, IMAGE), _find(names, NAME)
    if image is None:
        raise InvalidInput(f"no column of {_list(header)} names the images", None, f"have a header: {HEADER}")
    split, difficult, confidence = (_find(names, wanted) for wanted in (SPLIT, DIFFICULT, CONFIDENCE))
    sides, box = next(((kind, found) for kind, wanted in BOXES if (found := _all(names, wanted))), (None, ()))
    size = next((found for wanted in SIZES if (found := _all(names, wanted)) and not set(found) & set(box)), ())
    meaning: Meaning
    if via := _all(names, VIA):
        meaning = Region(*via)
    elif boxes:
        if sides is None or name is None:
            what = "a box" if sides is None else "the class of a box"
            raise InvalidInput(f"no columns of {_list(header)} say {what}", None, f"have a header: {HEADER}")
        meaning = Named((name,), sides, box)
    else:
        others = [at for at, plain in enumerate(names) if plain and plain not in KNOWN]
        if name is None and not others:
            raise InvalidInput(f"no column of {_list(header)} says the class", None, "call it class or label")
        if name is None and len(others) > 1:
            meaning = OneHot({at: header[at] for at in others})
        else:
            meaning = Named((others[0] if name is None else name,))
    sides_of_image = (size[0], size[1]) if size else None
    return Columns(image, meaning, split, difficult, sides_of_image, tuple(header), confidence)


def _unnamed(rows: Sequence[Sequence[str]], boxes: bool) -> Columns:
    """Rows without a header: those of Vertex AI (split, image, label, eight numbers), of RetinaNet (image, four
    numbers, class) and of SKU-110K (the same, with the image's width and height), and of classes (image, class)."""
    image = next(at for at, cell in enumerate(rows[0]) if _is_image(cell))
    count = max(len(row) for row in rows) - image - 1
    split = image - 1 if image else None
    after = range(image + 1, image + 1 + count)
    if image < 2 and count == 9:
        return Columns(image, Named(after[:1], Sides.VERTICES if boxes else None, after[1:]), split)
    if image < 2 and count in (5, 7):
        size = (after[5], after[6]) if count == 7 else None
        return Columns(image, Named((after[4],), Sides.CORNERS if boxes else None, after[:4]), split, size=size)
    if image < 2 and count and not boxes:
        return Columns(image, Named(after), split)
    raise InvalidInput(
        f"the file has no header, and it is not clear what the columns of {_list(rows[0])} are",
        None,
        f"have a header: {HEADER}; or rows of image, x1, y1, x2, y2, class",
    )


def _is_image(cell: str) -> bool:
    return image_by_name(cell.strip()) or "://" in cell


def _plain(name: str) -> str:
    """A column's name as it is looked up; empty for one that numbers the rows."""
    plain = re.sub(r"[^\w]+|_", "", name.casefold())
    short = re.sub(r"^(bbox|bndbox|box)", "", plain)
    plain = short if any(short in names for _, names in BOXES) else plain
    return "" if plain.startswith("unnamed") or plain == "index" else plain


def _find(names: Sequence[str], wanted: Iterable[str]) -> int | None:
    """The position of the first name that is there. Raises InvalidInput where it is there twice."""
    for name in wanted:
        if names.count(name) > 1:
            raise InvalidInput(f"{names.count(name)} columns are called {name}", None, "rename one of them")
        if name in names:
            return names.index(name)
    return None


def _all(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """The positions of all names; empty where one is missing."""
    found = [_find(names, (name,)) for name in wanted]
    return tuple(at for at in found if at is not None) if None not in found else ()


def _list(header: Sequence[str]) -> str:
    cells = [cell.strip()[:40] for cell in header[:20]]
    return f"{', '.join(cells)}{', …' if len(header) > 20 else ''}"


def cell_of(cells: Sequence[str], position: int) -> str:
    """A cell without the blanks around it; empty where the row is too short."""
    return cells[position].strip() if position < len(cells) else ""


def number_of(text: str) -> float | None:
    """The number of a cell; None of an empty one."""
    if text.lower() in EMPTY:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < MAX_NUMBER:
        raise InvalidInput(f"{text[:40]!r} is not a number")
    return value


# --- VGG Image Annotator ---


def _object(text: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput(f"{text[:40]!r} is not a JSON object")
    return value


def _class(attributes: dict[str, JsonValue]) -> str:
    """The class of a region: the attribute that is called as one, or the only one; a text, or what is checked."""
    names = [_plain(name) for name in attributes]
    at = _find(names, NAME)
    value = list(attributes.values())[at or 0] if at is not None or len(names) == 1 else None
    checked = [name for name, on in value.items() if on is True] if isinstance(value, dict) else [value]
    if len(checked) == 1 and isinstance(checked[0], str) and checked[0].strip():
        return checked[0].strip()
    raise InvalidInput(f"the attributes {shown(attributes)} name no class")


def _around(shape: dict[str, JsonValue]) -> Corners:
    """x1, y1, x2, y2 around a region."""

    def numbers(*keys: str) -> list[float]:
        return [_json_number(shape.get(key), shape) for key in keys]

    if "all_points_x" in shape:
        lists = [shape.get(key) for key in ("all_points_x", "all_points_y")]
        across, down = ([_json_number(each, shape) for each in one] if isinstance(one, list) else [] for one in lists)
        if not across or len(across) != len(down):
            raise InvalidInput(f"{shown(shape)} has no points")
        return min(across), min(down), max(across), max(down)
    if "rx" in shape or "r" in shape:
        x, y = numbers("cx", "cy")
        rx, ry = numbers("rx", "ry") if "rx" in shape else numbers("r", "r")
        turned = numbers("theta")[0] if "theta" in shape else 0.0
        return ellipse("", "", (x, y), (rx, ry), math.degrees(turned)).corners
    return Sides.TOP_LEFT.corners(numbers("x", "y", "width", "height"))


def _json_number(value: JsonValue, shape: dict[str, JsonValue]) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER:
        return float(value)
    raise InvalidInput(f"{shown(shape)} has {shown(value)} where a number belongs")
