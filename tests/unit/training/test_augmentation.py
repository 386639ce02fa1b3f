"""Boxes and masks move with the image: a square is drawn, the image is changed, and the square is looked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fovea_api.trainingjob import Augmentation
from fovea_trainer.augmentation import FILL, Augment, Labelled
from pydantic import JsonValue


def drawn(shape: str = "square") -> Labelled:
    """A bright shape of class 1 on black, 64 x 96, its box and its mask."""
    image = np.zeros((3, 64, 96), np.uint8)
    mask = np.zeros((64, 96), np.uint8)
    rows, columns = np.mgrid[0:64, 0:96]
    if shape == "square":
        inside = (columns >= 30) & (columns < 60) & (rows >= 20) & (rows < 40)
    else:
        inside = ((columns + 0.5 - 45) / 15) ** 2 + ((rows + 0.5 - 30) / 10) ** 2 <= 1
    image[:, inside], mask[inside] = 255, 1
    return Labelled(
        torch.from_numpy(image), torch.tensor([[30.0, 20, 60, 40]]), torch.tensor([1]), torch.from_numpy(mask)
    )


def seen(image: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(image[0].numpy() > 180)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


GEOMETRIC: list[dict[str, JsonValue]] = [
    {"horizontalFlip": {"probability": 1}},
    {"verticalFlip": {"probability": 1}},
    {"randomScale": {"min": 0.6, "max": 1.0}},
    {"randomCrop": {"width": 80, "height": 48}},
]


@pytest.mark.parametrize("change", GEOMETRIC, ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("seed", range(5))
def test_box_and_mask_follow_the_image(change: dict[str, JsonValue], seed: int) -> None:
    result = Augment([Augmentation.model_validate(change)])(drawn(), seed)
    assert result.boxes[0].numpy() == pytest.approx(np.array(seen(result.image)), abs=1.5)
    assert result.mask is not None
    bright = result.image[0].numpy() > 180
    agree = ((result.mask.numpy() == 1) == bright).mean()
    assert agree > 0.97


@pytest.mark.parametrize("seed", range(8))
def test_the_box_of_a_rotated_round_object_stays_tight(seed: int) -> None:
    rotation = Augmentation.model_validate({"rotate": {"degrees": 45}})
    result = Augment([rotation])(drawn("ellipse"), seed)
    assert result.boxes[0].numpy() == pytest.approx(np.array(seen(result.image)), abs=1.5)


def test_what_is_uncovered_is_grey_in_the_image_and_ignored_in_the_mask() -> None:
    result = Augment([Augmentation.model_validate({"randomScale": {"min": 0.5, "max": 0.5}})])(drawn(), 0)
    assert result.mask is not None
    assert result.image[0, 0, 0] == FILL
    assert result.mask[0, 0] == 255


def test_colours_leave_the_labels_alone_and_change_the_image() -> None:
    jitter = Augmentation.model_validate({"colorJitter": {"brightness": 0.9}})
    before, after = drawn(), Augment([jitter])(drawn(), 3)
    assert torch.equal(before.boxes, after.boxes)
    assert not torch.equal(before.image, after.image)


def test_the_seed_alone_decides() -> None:
    augment = Augment([Augmentation.model_validate({"rotate": {"degrees": 90}})])
    torch.manual_seed(1)
    first = augment(drawn(), 5)
    expected = torch.rand(1)
    torch.manual_seed(1)
    second = augment(drawn(), 5)
    assert torch.equal(first.image, second.image)
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers are left alone"
    assert not torch.equal(first.image, augment(drawn(), 6).image)


def test_boxes_that_leave_the_image_are_dropped() -> None:
    crop = Augmentation.model_validate({"randomCrop": {"width": 16, "height": 16}})
    results = [Augment([crop])(drawn(), seed) for seed in range(20)]
    assert {len(result.boxes) for result in results} == {0, 1}
    assert all(len(result.boxes) == len(result.labels) for result in results)
