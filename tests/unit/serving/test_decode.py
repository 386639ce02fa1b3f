"""Decoding: whatever the file, the same upright RGB bytes; whatever is broken, an error that names it."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from fovea_serving.pipeline import decode, decode_image, decode_mask
from fovea_serving.pipeline.decode import InvalidImage
from PIL import Image, ImageOps

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
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    oriented = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = decode(data)
    assert decoded.shape == oriented.shape
    assert np.abs(decoded.astype(int) - oriented).mean() < 1


def test_grey_becomes_three_equal_channels(pixels: np.ndarray) -> None:
    decoded = decode(encoded(Image.fromarray(pixels).convert("L"), "PNG"))
    assert decoded.shape == pixels.shape
    assert (decoded == decoded[..., :1]).all()


def test_alpha_is_dropped(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    image.putalpha(77)
    assert (decode(encoded(image, "PNG")) == pixels).all()


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


def tiff(values: np.ndarray, orientation: int | None = None) -> bytes:
    """A TIFF of any type of values."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", exif=exif)
    return buffer.getvalue()


def png16(values: np.ndarray) -> bytes:
    _, data = cv2.imencode(".png", values)
    return bytes(data.tobytes())


RAMP = np.arange(256, dtype=np.float64).reshape(16, 16)
DEEP = {
    "12 bits of 16": png16((RAMP * 16).astype(np.uint16)),
    "12 bits of 16, coloured": png16(np.stack([(RAMP * 16).astype(np.uint16)] * 3, -1)),
    "TIFF of 16 bits": tiff((RAMP * 257).astype(np.uint16)),
    "temperatures": tiff((29_000 + RAMP * 10).astype(np.uint16)),
    "degrees": tiff((RAMP / 10 - 5).astype(np.float32)),
    "32 bits": tiff((RAMP * 1000).astype(np.int32)),
}


@pytest.mark.parametrize("case", DEEP)
def test_values_of_more_than_8_bits_are_scaled_by_their_own_range(case: str) -> None:
    decoded = decode_image(DEEP[case])
    assert decoded.scaled_from is not None
    assert (decoded.pixels == RAMP.astype(np.uint8)[..., None]).all()


def test_what_is_no_number_is_the_least_and_one_value_alone_is_black() -> None:
    values = RAMP.astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    pixels = decode_image(tiff(values)).pixels
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert decode_image(tiff(np.full((4, 4), 700, np.uint16))).pixels.max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_exif_turns_a_tiff(orientation: int, deep: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 9)).astype(np.uint8)
    values[0, :2] = 0, 255
    data = tiff(values.astype(np.uint16) * 257 if deep else values, orientation)
    oriented = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(tiff(values, orientation)))))
    assert (decode_image(data).pixels[..., 0] == oriented).all()


HEIC = Path(__file__).parent / "images/quadrants.heic"
"""96 x 64 pixels, drawn: red, green, blue and light grey; CC0."""


def test_heic_as_phones_write_it() -> None:
    decoded = decode(HEIC.read_bytes())
    assert decoded.shape == (64, 96, 3)
    corners = [decoded[row, column].astype(int) for row in (10, -10) for column in (10, -10)]
    drawn = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 220)]
    assert np.abs(np.array(corners) - drawn).max() <= 3
    with pytest.raises(InvalidImage, match=r"x\.heic: the image cannot be decoded"):
        decode(HEIC.read_bytes()[:300], "x.heic")


@pytest.mark.parametrize("format", ["GIF", "AVIF"])
def test_other_formats_are_decoded_as_pillow_does(pixels: np.ndarray, format: str) -> None:
    frames = [Image.fromarray(np.roll(pixels[:96, :120], step, axis=1)) for step in (0, 20)]
    more = {"save_all": True, "append_images": frames[1:]} if format == "GIF" else {"quality": 90}
    data = encoded(frames[0], format, **more)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert np.abs(decode(data).astype(int) - expected).max() <= 2, "of several frames, the first"
