"""Format and size of an image file from its first bytes, before anything is decoded.

A few kilobytes can claim to be gigabytes of pixels; whoever reads images of strangers looks here first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fovea_serving.pipeline.decode import READABLE, InvalidImage

MAX_SIDE = 65_535
"""Longest side in pixels: JPEG's own limit. OpenCV cannot resize much longer ones."""
MAX_PARTS = 10_000
"""Segments, boxes or directory entries that are looked at: a file may not cost more time than its decoding."""


class UnsupportedImage(InvalidImage):
    """The bytes are of no format that is read."""


class ImageTooLarge(InvalidImage):
    """The image has more pixels than are decoded."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself: its format, and width and height in pixels, before any EXIF rotation."""

    format: str
    width: int
    height: int

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def check_header(data: bytes, max_megapixels: float, place: str | None = None) -> ImageHeader:
    """The header of an image that may be decoded.

    Raises UnsupportedImage, InvalidImage where the header is broken, ImageTooLarge.
    """
    header = read_header(data, place)
    if header.megapixels > max_megapixels:
        words = f"{header.width} x {header.height} are {header.megapixels:.1f} megapixels"
        raise ImageTooLarge(words, place, f"send at most {max_megapixels:g} megapixels")
    if max(header.width, header.height) > MAX_SIDE:
        raise ImageTooLarge(
            f"a side of {max(header.width, header.height):,} pixels", place, f"send sides of at most {MAX_SIDE:,}"
        )
    return header


def read_header(data: bytes, place: str | None = None) -> ImageHeader:
    """Format and size of a whole image file. Raises UnsupportedImage, InvalidImage."""
    if not data:
        raise InvalidImage("the image is empty", place, "give the bytes of a whole image file")
    for name, matches, size in _FORMATS:
        if not matches(data):
            continue
        try:
            width, height = size(data)
        except (struct.error, StopIteration, IndexError):
            width = height = 0
        if width < 1 or height < 1:
            raise InvalidImage(f"the header of the {name} file is broken", place, "copy the whole file again")
        return ImageHeader(name, width, height)
    raise UnsupportedImage("the bytes are no image of a known format", place, READABLE)


def _jpeg(data: bytes) -> tuple[int, int]:
    """From the frame header (SOFn): markers are ff xx, and all before the scan have a length."""
    position = 2
    for _ in range(MAX_PARTS):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + length
    return 0, 0


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return (width, height) if data[12:16] == b"IHDR" else (0, 0)


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    (length,) = struct.unpack_from("<I", data, 14)
    if length == 12:  # OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # negative: from top to bottom


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _tiff(data: bytes) -> tuple[int, int]:
    """From tags 256 and 257 of the first directory, which is the image that is decoded."""
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    sides = {256: 0, 257: 0}
    for entry in range(min(count, MAX_PARTS)):
        start = directory + 2 + 12 * entry
        tag, kind = struct.unpack_from(f"{order}HH", data, start)
        if tag in sides:
            (sides[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 8)
    return sides[256], sides[257]


def _heif(data: bytes) -> tuple[int, int]:
    """The largest of the sizes (ispe) of the images in the file: AVIF and HEIC hold tiles and thumbnails beside one."""
    sizes = []
    meta = next(body for kind, body in _boxes(data, 0, len(data)) if kind == b"meta")
    for kind, (start, end) in _boxes(data, meta[0] + 4, meta[1]):
        if kind != b"iprp":
            continue
        for inner, (first, last) in _boxes(data, start, end):
            if inner == b"ipco":
                for name, (position, _) in _boxes(data, first, last):
                    if name == b"ispe":
                        sizes.append(struct.unpack_from(">II", data, position + 4))
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Type, and start and end of the content, of each ISO base media box in a range."""
    for _ in range(MAX_PARTS):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if length == 0 else start + length
        if stop < content or stop > end:
            return
        yield kind, (content, stop)
        start = stop


_FORMATS: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes], tuple[int, int]]], ...] = (
    ("JPEG", lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    ("PNG", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    ("WebP", lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
    ("GIF", lambda data: data.startswith((b"GIF87a", b"GIF89a")), _gif),
    ("BMP", lambda data: data.startswith(b"BM"), _bmp),
    ("TIFF", lambda data: data.startswith((b"II*\0", b"MM\0*")), _tiff),
    ("HEIF", lambda data: data[4:8] == b"ftyp", _heif),
)
