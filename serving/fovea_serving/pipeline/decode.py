"""From the bytes of an image file to pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
MAX_BRANDS = 256
"""Bytes of the list of brands that are looked at."""
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


READABLE = "give JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or HEIC"


class InvalidImage(InvalidInput):
    """The bytes are not a whole image of a known format."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image's pixels, and what was done to its values."""

    pixels: NDArray[np.uint8]
    """RGB `[height, width, 3]`, upright as the EXIF orientation says."""
    scaled_from: tuple[float, float] | None = None
    """Least and largest value of an image with more than 8 bits, which became 0 and 255."""


def decode(data: bytes, place: str | None = None) -> NDArray[np.uint8]:
    """RGB pixels `[height, width, 3]`, upright as the EXIF orientation says; see `decode_image`."""
    return decode_image(data, place).pixels


def decode_image(data: bytes, place: str | None = None) -> DecodedImage:
    """The one way from a file to pixels, of checks, training and serving.

    Grey becomes three equal channels, alpha is dropped, CMYK is converted to RGB. Values of more than 8 bits (12 bits
    in 16, temperatures, floating point) are scaled linearly from the image's own range: what a sensor or a tool takes
    for white is not known, and by the type's range most of them would be black.

    Args:
        data: A whole file: JPEG, PNG, WebP, BMP, TIFF, GIF (the first frame), AVIF, or whatever else the OpenCV build
            reads; HEIC, as phones write it.
        place: Where the bytes come from, for the error message.

    Raises:
        InvalidImage: the bytes are empty, cut off or no image.
    """
    _check_whole(data, place)
    if is_heic(data):
        return DecodedImage(_decode_heic(data, place))
    if not _may_be_deep(data):
        return DecodedImage(np.asarray(_imdecode(data, cv2.IMREAD_COLOR_RGB, place), np.uint8))
    values = _imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR, place)
    pixels, scaled_from = (np.asarray(values, np.uint8), None) if values.dtype == np.uint8 else _scaled(values)
    code = cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB
    return DecodedImage(np.asarray(cv2.cvtColor(pixels, code), np.uint8), scaled_from)


def is_heic(data: bytes) -> bool:
    """Whether the file is HEIF with a codec other than AVIF's, which OpenCV reads."""
    if data[4:8] != b"ftyp":
        return False
    length = int.from_bytes(data[:4], "big")
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, min(length, MAX_BRANDS), 4))}
    return bool(brands & HEIC_BRANDS) and not brands & AVIF_BRANDS


def _decode_heic(data: bytes, place: str | None) -> NDArray[np.uint8]:
    """RGB pixels of the primary image, rotated as the file says; 10 bits become 8."""
    from pi_heif import open_heif  # loads libheif, which few data sets need

    try:
        image = open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
        pixels = np.asarray(image)
    except (ValueError, RuntimeError, EOFError, OSError) as error:
        raise InvalidImage(f"the image cannot be decoded: {error}", place, "copy the whole file again") from error
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3], np.uint8)


def _may_be_deep(data: bytes) -> bool:
    """Whether the file can hold more than 8 bits a channel: TIFF, or PNG that says so in its header."""
    return data.startswith((b"II", b"MM")) or (data.startswith(PNG_START) and data[24:25] == b"\x10")


def _scaled(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Values of any type as 0 to 255, from the least to the largest finite one. One value alone becomes 0."""
    wide = np.asarray(values, np.float64)
    finite = wide[np.isfinite(wide)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    shares = (np.nan_to_num(wide, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return np.rint(shares * 255).astype(np.uint8), (low, high)


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


def _imdecode(data: bytes, flags: int, place: str | None) -> NDArray[np.generic]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InvalidImage(f"the image cannot be decoded: {error}", place, READABLE) from error
    if image is None:
        raise InvalidImage("the bytes are no image that can be decoded", place, READABLE)
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
