"""Boxes and masks move with the image: a square is drawn, the image is changed, and the square is looked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fovea_api.trainingjob import Augmentation
from fovea_trainer.augmentation import FILL, TRANSFORMS, Augment, Context, Labelled, Step, Transform, register
from pydantic import JsonValue
from torchvision.transforms.v2 import functional


def drawn(shape: str = "square", *, objects: bool = False) -> Labelled:
    """A bright shape of class 1 on black, 64 x 96, its box and its mask, and on request its pixels as an object."""
    image = np.zeros((3, 64, 96), np.uint8)
    mask = np.zeros((64, 96), np.uint8)
    rows, columns = np.mgrid[0:64, 0:96]
    if shape == "square":
        inside = (columns >= 30) & (columns < 60) & (rows >= 20) & (rows < 40)
    else:
        inside = ((columns + 0.5 - 45) / 15) ** 2 + ((rows + 0.5 - 30) / 10) ** 2 <= 1
    image[:, inside], mask[inside] = 255, 1
    return Labelled(
        torch.from_numpy(image), torch.tensor([[30.0, 20, 60, 40]]), torch.tensor([1]), torch.from_numpy(mask),
        instances=torch.from_numpy(mask[None].astype(np.int16)) if objects else None,
    )  # fmt: skip


def seen(image: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(image[0].numpy() > 180)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def change(spec: dict[str, JsonValue], item: Labelled, seed: int, epoch: int = 0) -> Labelled:
    augment = Augment([Augmentation.model_validate(spec)], epochs=10)
    return augment(item, seed, Step(epoch, 7, (0,), item.size, lambda _: drawn()))


GEOMETRIC: list[dict[str, JsonValue]] = [
    {"horizontalFlip": {"probability": 1}},
    {"verticalFlip": {"probability": 1}},
    {"randomScale": {"min": 0.6, "max": 1.0}},
    {"randomCrop": {"width": 80, "height": 48}},
    {"randomResizedCrop": {"minArea": 0.5}},
    {"multiScale": {"min": 0.5, "max": 1.5}},
]


@pytest.mark.parametrize("spec", GEOMETRIC, ids=lambda spec: next(iter(spec)))
@pytest.mark.parametrize("seed", range(5))
def test_box_and_mask_follow_the_image(spec: dict[str, JsonValue], seed: int) -> None:
    result = change(spec, drawn(), seed)
    assert result.boxes[0].numpy() == pytest.approx(np.array(seen(result.image)), abs=1.5)
    assert result.mask is not None
    bright = result.image[0].numpy() > 180
    agree = ((result.mask.numpy() == 1) == bright).mean()
    assert agree > 0.97


@pytest.mark.parametrize("spec", [*GEOMETRIC, {"rotate": {"degrees": 45}}], ids=lambda spec: next(iter(spec)))
@pytest.mark.parametrize("seed", range(3))
def test_the_pixels_of_an_object_follow_the_image_and_its_box_is_theirs(spec: dict[str, JsonValue], seed: int) -> None:
    """Also where a box alone would be too large: that of a square which was rotated."""
    result = change(spec, drawn(objects=True), seed)
    assert result.instances is not None
    bright = result.image[0].numpy() > 127
    assert ((result.instances[0].numpy() == 1) == bright).mean() > 0.97
    rows, columns = np.nonzero(result.instances[0].numpy())
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert result.boxes.tolist() == [expected]


def test_numbers_of_objects_follow_when_one_leaves() -> None:
    """Two objects of one layer and a third that overlaps; the window cuts the first away."""
    layers = torch.zeros(2, 40, 40, dtype=torch.int16)
    layers[0, 2:8, 2:8], layers[0, 20:36, 20:36], layers[1, 24:38, 24:38] = 1, 2, 3
    boxes = torch.tensor([[2.0, 2, 8, 8], [20, 20, 36, 36], [24, 24, 38, 38]])
    item = Labelled(torch.zeros(3, 40, 40, dtype=torch.uint8), boxes, torch.tensor([5, 6, 7]), instances=layers)
    shifted = next(
        result for seed in range(200)
        if len((result := change({"randomCrop": {"width": 24, "height": 24}}, item, seed)).boxes) == 2
        and (item.labels[1:] == result.labels).all()
    )  # fmt: skip
    assert shifted.instances is not None
    for number, box in enumerate(shifted.boxes.int().tolist(), 1):
        rows, columns = (shifted.instances == number).any(0).nonzero(as_tuple=True)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert shifted.instances.max() == 2


@pytest.mark.parametrize("seed", range(8))
def test_the_box_of_a_rotated_round_object_stays_tight(seed: int) -> None:
    result = change({"rotate": {"degrees": 45}}, drawn("ellipse"), seed)
    assert result.boxes[0].numpy() == pytest.approx(np.array(seen(result.image)), abs=1.5)


def test_what_is_uncovered_is_grey_in_the_image_and_ignored_in_the_mask() -> None:
    result = change({"randomScale": {"min": 0.5, "max": 0.5}}, drawn(), 0)
    assert result.mask is not None
    assert result.image[0, 0, 0] == FILL
    assert result.mask[0, 0] == 255


def test_colours_leave_the_labels_alone_and_change_the_image() -> None:
    before, after = drawn(), change({"colorJitter": {"brightness": 0.9, "probability": 1}}, drawn(), 3)
    assert torch.equal(before.boxes, after.boxes)
    assert not torch.equal(before.image, after.image)


def test_colours_change_as_torchvisions_do() -> None:
    """Brightness, contrast and saturation against the reference, with the factors that were drawn."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 96), np.uint8))
    item = Labelled(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    spec: dict[str, JsonValue] = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "probability": 1}
    for seed in range(5):
        random = np.random.default_rng(seed)
        random.random()
        brightness, contrast, saturation = (random.uniform(0.7, 1.3) for _ in range(3))
        expected = functional.adjust_brightness(image, brightness)
        expected = functional.adjust_saturation(functional.adjust_contrast(expected, contrast), saturation)
        difference = change({"colorJitter": spec}, item, seed).image.int() - expected.int()
        # Ours is rounded once where theirs is after each step, and takes the mean before it saturates.
        assert difference.abs().float().mean() < 4
        assert difference.abs().float().quantile(0.95) <= 12


def test_hue_wraps_around() -> None:
    red = torch.zeros(3, 8, 8, dtype=torch.uint8)
    red[0] = 200
    item = Labelled(red, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    results = [change({"colorJitter": {"hue": 0.5, "probability": 1}}, item, seed) for seed in range(20)]
    for seed, result in enumerate(results):
        random = np.random.default_rng(seed)
        hue = [random.random() for _ in range(4)] and random.uniform(-0.5, 0.5)
        expected = functional.adjust_hue(red, hue)
        assert (result.image.int() - expected.int()).abs().max() <= 6


def test_the_seed_alone_decides() -> None:
    spec: dict[str, JsonValue] = {"rotate": {"degrees": 90}}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second = change(spec, drawn(), 5), change(spec, drawn(), 5)
    assert torch.equal(first.image, second.image)
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers are left alone"
    assert not torch.equal(first.image, change(spec, drawn(), 6).image)


def test_boxes_of_which_too_little_is_seen_are_dropped() -> None:
    spec: dict[str, JsonValue] = {"randomCrop": {"width": 16, "height": 16}}
    results = [change(spec, drawn(), seed) for seed in range(60)]
    assert {len(result.boxes) for result in results} == {0, 1}
    assert all(len(result.boxes) == len(result.labels) for result in results)
    # The object has 600 pixels, and a window shows 256 of them at most: a quarter of it is 150.
    for result in results:
        inside = int((result.image[0] > 180).sum())
        assert len(result.boxes) == (inside >= 150)


def test_a_picture_smaller_than_the_window_is_surrounded() -> None:
    result = change({"randomCrop": {"width": 128, "height": 64}}, drawn(), 0)
    assert result.image.shape == (3, 64, 128)
    assert result.boxes.tolist() == [[46, 20, 76, 40]]
    assert result.image[0, 0, 0] == FILL
    assert result.mask is not None
    assert (result.mask[:, :16] == 255).all()


def test_a_transform_is_a_file_that_registers_itself_and_sees_other_samples_and_the_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(TRANSFORMS.entries(), "blur")

    @register
    class Paste(Transform):
        """Half of another image, from the second epoch on."""

        field = "blur"

        def __call__(self, item: Labelled, context: Context) -> Labelled:
            if context.step.epoch < 1:
                return item
            other = context.other()
            pixels = item.pixels
            pixels[:, :48] = other.pixels[:, :48]
            return item.with_pixels(pixels)

    blank = Labelled(torch.zeros(3, 64, 96, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert change({"blur": {}}, blank, 0).image.max() == 0
    assert seen(change({"blur": {}}, blank, 0, epoch=1).image) == (30, 20, 48, 40)
    with pytest.raises(ValueError, match="a transform for blur is registered twice"):
        register(Paste)
