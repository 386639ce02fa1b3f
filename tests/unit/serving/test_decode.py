"""Decoding: whatever the file, the same upright RGB bytes; whatever is broken, an error that names it."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from fovea_serving.pipeline import decode, decode_mask
from fovea_serving.pipeline.decode import InvalidImage
from PIL import Image

BCCD = Path(__file__).parents[3] / "examples/data/bccd/BCCD/JPEGImages"
PHOTO = BCCD / "BloodImage_00000.jpg"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.asarray(Image.open(PHOTO).convert("RGB"))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_a_photograph_is_decoded_as_pillow_does(pixels: np.ndarray) -> None:
    decoded = decode(PHOTO.read_bytes())
    assert decoded.shape == pixels.shape
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - pixels).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_followed(pixels: np.ndarray, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = decode(data)
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 1


def test_grey_becomes_three_equal_channels(pixels: np.ndarray) -> None:
    decoded = decode(encoded(Image.fromarray(pixels).convert("L"), "PNG"))
    assert decoded.shape == pixels.shape
    assert (decoded == decoded[..., :1]).all()


def test_alpha_is_dropped(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    image.putalpha(77)
    assert (decode(encoded(image, "PNG")) == pixels).all()


def test_16_bits_are_scaled_to_8(pixels: np.ndarray) -> None:
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR).astype(np.uint16) * 257)
    assert np.abs(decode(data.tobytes()).astype(int) - pixels).max() <= 1


def test_cmyk_becomes_rgb(pixels: np.ndarray) -> None:
    cmyk = Image.fromarray(pixels).convert("CMYK")
    decoded = decode(encoded(cmyk, "JPEG", quality=95))
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - np.asarray(cmyk.convert("RGB"))).mean() < 8


def test_a_palette_becomes_rgb(pixels: np.ndarray) -> None:
    palette = Image.fromarray(pixels).quantize(64)
    assert (decode(encoded(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
def test_a_cut_off_jpeg_is_refused_and_named(share: float) -> None:
    data = PHOTO.read_bytes()
    with pytest.raises(InvalidImage, match="slide7"):
        decode(data[: int(len(data) * share)], "slide7")


def test_a_cut_off_jpeg_with_a_whole_thumbnail_is_refused(pixels: np.ndarray) -> None:
    thumbnail = encoded(Image.fromarray(pixels).resize((64, 48)), "JPEG")
    application = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = PHOTO.read_bytes()
    whole = data[:2] + application + data[2:]
    assert decode(whole).shape == pixels.shape
    with pytest.raises(InvalidImage, match="cut off"):
        decode(whole[: len(whole) * 3 // 4])


def test_a_cut_off_png_is_refused(pixels: np.ndarray) -> None:
    data = encoded(Image.fromarray(pixels), "PNG")
    with pytest.raises(InvalidImage, match="cut off"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"<svg/>" * 99])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode(data)


def test_a_mask_keeps_its_class_indices() -> None:
    mask = np.array([[0, 1, 2], [255, 4, 3]], np.uint8)
    assert (decode_mask(encoded(Image.fromarray(mask), "PNG")) == mask).all()


def test_a_coloured_mask_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(InvalidImage, match="8-bit channel"):
        decode_mask(encoded(Image.fromarray(pixels), "PNG"))
