"""Format and size before decoding, held against Pillow, and on input that nobody would write."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from fovea_serving.pipeline.decode import InvalidImage, decode
from fovea_serving.pipeline.header import ImageTooLarge, UnsupportedImage, check_header, read_header
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

SIZE = (61, 37)


def pillow(format: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, SIZE, 100 if mode in ("L", "I;16") else None).save(buffer, format, **options)
    return buffer.getvalue()


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", SIZE, (shade, 0, 0)) for shade in (200, 100, 50)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


FILES = {
    "JPEG": pillow("JPEG"),
    "JPEG, progressive": pillow("JPEG", progressive=True, comment=b"x" * 300),
    "JPEG, CMYK": pillow("JPEG", "CMYK"),
    "JPEG with EXIF": pillow("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "PNG": pillow("PNG"),
    "PNG, 16 bits": pillow("PNG", "I;16"),
    "PNG, alpha": pillow("PNG", "RGBA"),
    "WebP": pillow("WEBP"),
    "WebP, lossless": pillow("WEBP", lossless=True),
    "WebP, alpha": pillow("WEBP", "RGBA"),
    "WebP, animated": animated("WEBP"),
    "GIF": pillow("GIF", "P"),
    "GIF, animated": animated("GIF"),
    "BMP": pillow("BMP"),
    "TIFF": pillow("TIFF"),
    "TIFF, big-endian": cv2.imencode(".tiff", np.zeros((SIZE[1], SIZE[0], 3), np.uint16))[1].tobytes(),
    "AVIF": pillow("AVIF"),
}


@pytest.mark.parametrize("name", FILES)
def test_format_and_size_are_those_that_are_decoded(name: str) -> None:
    header = read_header(FILES[name])
    assert header.format in (name.partition(",")[0].partition(" ")[0], "HEIF")
    assert (header.width, header.height) == SIZE
    assert decode(FILES[name]).shape == (SIZE[1], SIZE[0], 3), "the first frame, three channels"


def test_heic_from_a_phone_says_its_size() -> None:
    data = (Path(__file__).parent / "images" / "quadrants.heic").read_bytes()
    header = read_header(data)
    assert (header.height, header.width) == decode(data).shape[:2]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    content = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", content), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        file += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return file


def test_a_bomb_is_refused_by_what_it_claims() -> None:
    with pytest.raises(ImageTooLarge, match=r"100000 x 100000 are 10000.0 megapixels .send at most 50 megapixels"):
        check_header(bomb(100_000, 100_000), 50)
    with pytest.raises(ImageTooLarge, match="side"):
        check_header(bomb(100_000, 10), 50)
    assert check_header(bomb(50_000, 1_000), 50).megapixels == 50


@pytest.mark.parametrize("data", [b"%PDF-1.7", b"<svg/>", b"PK\3\4", b"\x80\x04pickle", b"x"])
def test_another_type_is_named_as_such_whatever_the_file_is_called(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="JPEG, PNG"):
        read_header(data)


@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=300)
def test_a_broken_header_is_an_error_in_words(name: str, data: st.DataObject) -> None:
    file = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(0, 6))):
        file[data.draw(st.integers(0, min(len(file), 400) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(file[: data.draw(st.integers(0, len(file)))])
    try:
        header = check_header(cut, 50)
    except InvalidImage:
        return
    assert header.width > 0
    assert header.height > 0


def test_no_file_is_looked_at_for_long() -> None:
    hostile = [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5_000_000,
        b"\xff\xd8" + b"\xff" * 20_000_000,
        b"\0\0\0\x10ftypheic" + bytes(4) + b"\0\0\0\x08free" * 2_000_000,
    ]
    begun = time.process_time()
    for data in hostile:
        with pytest.raises(InvalidImage):
            read_header(data)
    assert time.process_time() - begun < 2
