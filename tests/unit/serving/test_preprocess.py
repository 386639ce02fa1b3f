"""Resizing and its way back, for every manner of resizing and all kinds of sizes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fovea_api.trainingjob import Resize
from fovea_serving.pipeline import IGNORE, Preprocess, decode

BCCD = Path(__file__).parents[3] / "examples/data/bccd/BCCD/JPEGImages"
SIZES = [(640, 480), (480, 640), (320, 240), (333, 77), (77, 333), (17, 19), (4000, 30), (1, 1)]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return decode((BCCD / "BloodImage_00001.jpg").read_bytes())


@pytest.mark.parametrize("resize", Resize)
@pytest.mark.parametrize("size", SIZES)
def test_boxes_come_back_to_where_they_were(resize: Resize, size: tuple[int, int]) -> None:
    geometry = Preprocess(320, 240, resize).geometry(*size)
    left, top, right, bottom = geometry.seen
    box = np.array([[left, top, right, bottom], [left, top, (left + right) / 2, (top + bottom) / 2]], np.float32)
    assert geometry.to_original(geometry.to_input(box)) == pytest.approx(box, abs=1e-2)


@pytest.mark.parametrize("resize", Resize)
def test_a_drawn_mark_lies_where_its_box_says(resize: Resize, photo: np.ndarray) -> None:
    image = np.zeros_like(photo)
    image[200:260, 250:340] = 255
    fitted, geometry = Preprocess(320, 240 if resize is not Resize.LETTERBOX else 320, resize).fit(image)
    rows, columns = np.nonzero(fitted[..., 0] > 200)
    measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    if resize is Resize.LETTERBOX:
        inside = geometry.content
        assert (fitted[: inside[1]] == 114).all()
        assert (fitted[inside[3] :] == 114).all()
    assert geometry.to_input(np.array([[250, 200, 340, 260]], np.float32))[0] == pytest.approx(measured, abs=1.01)


@pytest.mark.parametrize("resize", Resize)
@pytest.mark.parametrize("size", SIZES)
def test_the_input_has_the_size_asked_for(resize: Resize, size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 51, np.uint8)
    tensor, geometry = Preprocess(96, 64, resize)(image)
    assert tensor.shape == (3, 64, 96)
    left, top, right, bottom = geometry.content
    assert tensor[:, top:bottom, left:right] == pytest.approx(-0.6, abs=1e-5)


def test_letterbox_keeps_the_aspect_ratio_and_crop_fills() -> None:
    letterbox = Preprocess(320, 320, Resize.LETTERBOX).geometry(640, 480)
    assert letterbox.scale == (0.5, 0.5)
    assert letterbox.offset == (0, 40)
    crop = Preprocess(240, 240, Resize.CENTER_CROP).geometry(640, 480)
    assert crop.scale == (0.5, 0.5)
    assert crop.offset == (-40, 0)
    assert crop.seen == (80, 0, 560, 480)


def test_an_image_of_the_input_size_is_left_as_it_is(photo: np.ndarray) -> None:
    for resize in Resize:
        assert (Preprocess(640, 480, resize).fit(photo)[0] == photo).all()


def test_normalization_is_that_of_the_channels(photo: np.ndarray) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tensor = Preprocess(640, 480, mean=mean, std=std).normalize(photo)
    expected = ((photo / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    assert tensor == pytest.approx(expected, abs=1e-5)
    assert tensor.flags.c_contiguous


def test_shrinking_does_not_alias(photo: np.ndarray) -> None:
    stripes = np.zeros_like(photo)
    stripes[:, ::2] = 255
    fitted, _ = Preprocess(160, 120, Resize.STRETCH).fit(stripes)
    assert fitted.std() < 2


def test_a_mask_moves_with_its_image(photo: np.ndarray) -> None:
    mask = np.zeros(photo.shape[:2], np.uint8)
    cv2.circle(mask, (300, 200), 90, 2, cv2.FILLED)
    preprocess = Preprocess(320, 320)
    fitted = preprocess.fit_mask(mask)
    marked, _ = preprocess.fit((np.stack([mask] * 3, -1) * 100).astype(np.uint8))
    assert set(np.unique(fitted)) == {0, 2, IGNORE}
    assert ((fitted == 2) != (marked[..., 0] == 200)).mean() < 0.005
