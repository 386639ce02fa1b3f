"""From the bytes of an image file to pixels."""

from __future__ import annotations

import cv2
import numpy as np
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


class InvalidImage(InvalidInput):
    """The bytes are not a whole image of a known format."""


def decode(data: bytes, place: str | None = None) -> NDArray[np.uint8]:
    """RGB pixels `[height, width, 3]`, upright as the EXIF orientation says.

    Grey becomes three equal channels, alpha is dropped, 16 bits are scaled to 8, CMYK is converted to RGB.

    Args:
        data: A whole file: JPEG, PNG, WebP, BMP, TIFF or whatever else the OpenCV build reads.
        place: Where the bytes come from, for the error message.

    Raises:
        InvalidImage: the bytes are empty, cut off or no image.
    """
    _check_whole(data, place)
    return np.asarray(_imdecode(data, cv2.IMREAD_COLOR_RGB, place), np.uint8)


def decode_mask(data: bytes, place: str | None = None) -> NDArray[np.uint8]:
    """Class indices `[height, width]` of a single-channel 8-bit PNG. Raises InvalidImage for any other."""
    _check_whole(data, place)
    mask = _imdecode(data, cv2.IMREAD_UNCHANGED, place)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise InvalidImage(
            f"mask has shape {mask.shape} and type {mask.dtype}",
            place,
            "store one 8-bit channel of class indices",
        )
    return np.asarray(mask, np.uint8)


def _imdecode(data: bytes, flags: int, place: str | None) -> NDArray[np.integer]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InvalidImage(
            f"the image cannot be decoded: {error}", place, "give JPEG, PNG, WebP, BMP or TIFF"
        ) from error
    if image is None:
        raise InvalidImage("the bytes are no image that can be decoded", place, "give JPEG, PNG, WebP, BMP or TIFF")
    return np.asarray(image)


def _check_whole(data: bytes, place: str | None) -> None:
    """Refuses cut-off files, which OpenCV fills up with grey without a word."""
    if not data:
        raise InvalidImage("the image is empty", place, "give the bytes of a whole image file")
    # Inside a JPEG's compressed scan 0xff is always escaped, so these markers cannot occur in it by chance.
    cut_jpeg = data.startswith(JPEG_START) and data.rfind(JPEG_END) < data.rfind(JPEG_SCAN)
    cut_png = data.startswith(PNG_START) and PNG_END not in data[-64:] and PNG_END not in data
    if cut_jpeg or cut_png:
        raise InvalidImage("the image file is cut off", place, "copy the whole file again")
