"""Checks of images and labels."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import decode_image, is_heic
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.near_duplicates import thumbnail
from fovea_trainer.data.records import IGNORE, Box

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
"""What is opened at all; Pillow's rarer decoders are attack surface."""
ORIENTATION = 0x0112
"""EXIF's tag."""
MAX_FILE_BYTES = 512 << 20
"""Largest image file."""
MAX_PIXELS = 268_435_456
"""Most pixels of an image: 16384 x 16384. A small file can claim more than any memory holds."""
MIN_BOX_SIDE = 2.0
"""Pixels; a smaller box shows nothing that could be learned."""
ROUNDING = 1.0
"""Pixels by which a box may leave its image unmentioned: tools count from 0 or from 1."""

ImageFile.LOAD_TRUNCATED_IMAGES = False
Image.MAX_IMAGE_PIXELS = None  # own limit, below, with an error that says what to do


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image's size as displayed, in pixels, and fingerprints for the search of duplicates."""

    width: int
    height: int
    thumbnail: bytes
    """For the search of near duplicates."""
    orientation: int = 1
    """How EXIF turns the picture, 1 to 8; from 5 on the file's own width and height are the other way round."""
    scaled_from: tuple[float, float] | None = None
    """Least and largest value of an image of more than 8 bits."""


def inspect_image(data: bytes, place: str) -> Inspection:
    """Decodes an image file whole. Raises InvalidInput where it is no image, is cut off, or is too large."""
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", place)
    formats = (*FORMATS, _heif()) if is_heic(data) else FORMATS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                size = image.size
                if size[0] * size[1] > MAX_PIXELS:
                    raise InvalidInput(f"the image has {size[0]} x {size[1]} pixels, more than {MAX_PIXELS:,}", place)
                orientation = image.getexif().get(ORIENTATION, 1)
                # Pillow finds damage that OpenCV fills up with grey. A JPEG is decoded at an eighth of its size where
                # that is enough: all bytes are still read.
                image.draft("L", (1, 1))
                image.load()
    except UnidentifiedImageError:
        raise InvalidInput("the file is no image of a known format", place) from None
    except InvalidInput:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        TypeError,
        IndexError,
        KeyError,
        ZeroDivisionError,
    ) as error:
        raise InvalidInput(f"the image cannot be decoded: {error}", place) from None
    except (MemoryError, OverflowError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"the image is too large: {error}", place) from None
    decoded = decode_image(data, place)
    height, width = decoded.pixels.shape[:2]
    if sorted(size) != sorted((width, height)):
        raise InvalidInput(f"decoders disagree about the size: {size[0]} x {size[1]} or {width} x {height}", place)
    seen = inspect_pixels(decoded.pixels)
    orientation = orientation if orientation in range(1, 9) else 1
    return replace(seen, orientation=orientation, scaled_from=decoded.scaled_from)


def _heif() -> str:
    """Pillow's name of HEIF, once it can read it."""
    from pi_heif import register_heif_opener  # loads libheif, which few data sets need

    register_heif_opener()
    return "HEIF"


def inspect_pixels(pixels: NDArray[np.uint8]) -> Inspection:
    """What is known of an image by its pixels in RGB [h, w, 3]."""
    height, width = pixels.shape[:2]
    return Inspection(width, height, thumbnail(pixels).tobytes())


def read_mask(data: bytes, place: str, colors: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Pixel values [h, w] of a mask; palette pictures by index. Raises InvalidInput for colours that are not expected.

    Args:
        data: The file.
        place: What errors call it.
        colors: Colours 0xRRGGBB; a pixel's value is the position of its colour, IGNORE for any other.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise InvalidInput(f"the mask has more than {MAX_PIXELS:,} pixels", place)
            image.load()
            if colors:
                return _positions(np.asarray(image.convert("RGB"), np.uint8), colors)
            if image.mode == "1":
                return np.asarray(image, np.uint8)
            values = np.asarray(image)
    except InvalidInput:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, MemoryError) as error:
        raise InvalidInput(f"the mask cannot be decoded: {error}", place) from None
    if values.ndim == 3 and (values[..., :1] == values[..., : min(3, values.shape[2])]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.max(initial=0) > 255:
        raise InvalidInput(
            f"the mask has pixels of kind {values.dtype}{list(values.shape[2:])}",
            place,
            "use one channel of 8 bits",
        )
    return values.astype(np.uint8)


def _positions(pixels: NDArray[np.uint8], colors: Sequence[int]) -> NDArray[np.uint8]:
    """The position [h, w] of each pixel's colour among some; IGNORE for others."""
    packed = (pixels.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2, dtype=np.uint32)
    order = np.argsort(colors)
    listed = np.asarray(colors, np.uint32)[order]
    nearest = np.searchsorted(listed, packed).clip(max=len(listed) - 1)
    return np.where(listed[nearest] == packed, order[nearest], IGNORE).astype(np.uint8)


def check_boxes(boxes: Iterable[Box], width: int, height: int) -> tuple[list[Box], list[Finding]]:
    """The boxes that are right, clipped to the image, and what was wrong with the others."""
    good: dict[tuple[object, ...], Box] = {}
    findings: list[Finding] = []

    def report(kind: FindingKind, box: Box, message: str) -> None:
        findings.append(Finding(kind, box.place, message))

    for box in boxes:
        corners = box.corners
        words = f"the {box.name} box {', '.join(f'{value:g}' for value in corners)}"
        if not all(math.isfinite(value) for value in corners):
            report(FindingKind.INVALID_LABEL, box, f"{words} has coordinates that are no finite numbers")
            continue
        if box.x2 - box.x1 < MIN_BOX_SIDE or box.y2 - box.y1 < MIN_BOX_SIDE:
            report(FindingKind.DEGENERATE_BOX, box, f"{words} is less than {MIN_BOX_SIDE:g} pixels wide or high")
            continue
        x1, y1, x2, y2 = max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height)
        if x2 - x1 < MIN_BOX_SIDE or y2 - y1 < MIN_BOX_SIDE:
            report(
                FindingKind.OUTSIDE_BOX,
                box,
                f"{words} lies outside of the image of {width} x {height} pixels",
            )
            continue
        over = max(x1 - box.x1, y1 - box.y1, box.x2 - x2, box.y2 - y2)
        if over > ROUNDING:
            report(
                FindingKind.CLIPPED_BOX,
                box,
                f"{words} leaves the image of {width} x {height} pixels; it is clipped",
            )
        # float32 is what a version stores: equal there is equal.
        x1, y1, x2, y2 = (float(np.float32(value)) for value in (x1, y1, x2, y2))
        outline = box.outline and (box.outline.polygons, box.outline.runs)
        key = (box.name, x1, y1, x2, y2, outline)
        if key in good:
            report(FindingKind.DUPLICATE_BOX, box, f"{words} is there twice")
            continue
        good[key] = Box(box.name, x1, y1, x2, y2, box.difficult, box.place, box.outline)
    return list(good.values()), findings
