"""Operations of RandAugment, random parts and erased rectangles, against torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fovea_api.trainingjob import Augmentation, RandomErasing, RandomResizedCrop
from fovea_trainer.augmentation import Augment, Labelled, Step, random_erasing, random_resized_crop
from fovea_trainer.augmentation.rand_augment import BLENDS, GEOMETRIC, LEVELS, OPERATIONS, apply
from torchvision.transforms import RandAugment as Reference
from torchvision.transforms import RandomResizedCrop as ReferenceCrop
from torchvision.transforms.v2 import InterpolationMode, functional

WIDTH, HEIGHT = 96, 64


def noise() -> Labelled:
    """A smooth image of few levels, off which the histogram's ends are cut."""
    small = torch.from_numpy(np.random.default_rng(0).integers(30, 200, (3, 8, 12), np.uint8))
    return Labelled(functional.resize(small, [HEIGHT, WIDTH], antialias=True))


def expected(name: str, image: torch.Tensor, strength: float, sign: int) -> torch.Tensor:
    """By torchvision, with the magnitudes of its RandAugment; it shears from the corner of the image."""
    space = Reference()._augmentation_space(31, (HEIGHT, WIDTH))
    magnitudes, signed = space[name]
    magnitude = float(magnitudes[round(strength * 30)]) if magnitudes.ndim else 0.0
    magnitude *= sign if signed else 1
    inside = (slice(None), slice(3, -3), slice(3, -3))
    if name in GEOMETRIC:
        shear = [math.degrees(math.atan(magnitude)) * (name == f"Shear{axis}") for axis in "XY"]
        shift = [int(magnitude) * (name == f"Translate{axis}") for axis in "XY"]
        if name == "Rotate":
            moved = functional.rotate(image, magnitude, InterpolationMode.BILINEAR, fill=[114.0])
        else:
            moved = functional.affine(image, 0.0, shift, 1.0, shear, InterpolationMode.BILINEAR, [114.0], center=[0, 0])
        return moved[inside]
    results = {
        "Identity": lambda: image,
        "Brightness": lambda: functional.adjust_brightness(image, 1 + magnitude),
        "Color": lambda: functional.adjust_saturation(image, 1 + magnitude),
        "Contrast": lambda: functional.adjust_contrast(image, 1 + magnitude),
        "Sharpness": lambda: functional.adjust_sharpness(image, 1 + magnitude),
        "Posterize": lambda: functional.posterize(image, int(magnitude)),
        "Solarize": lambda: functional.solarize(image, magnitude),
        "AutoContrast": lambda: functional.autocontrast(image),
        "Equalize": lambda: functional.equalize(image),
    }
    return results[name]()[inside]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 9, 21, 30])
def test_operations_are_torchvisions(name: str, magnitude: int) -> None:
    signs = (1, -1) if name in GEOMETRIC or name in BLENDS else (1,)
    for sign in signs:
        given = apply(noise(), name, magnitude / 30, sign < 0).image[:, 3:-3, 3:-3]
        difference = (given.int() - expected(name, noise().image, magnitude / 30, sign).int()).abs().float()
        if name in LEVELS or name == "Identity":
            assert difference.max() <= (1 if name == "AutoContrast" else 0)
        else:  # one rounds where the other cuts off; they blend an image's edge with what is uncovered differently
            assert difference.mean() < 1.1
            assert difference.quantile(0.95) <= 3


def test_all_operations_are_those_of_torchvision() -> None:
    assert set(OPERATIONS) == set(Reference()._augmentation_space(31, (HEIGHT, WIDTH)))


def test_so_many_operations_are_drawn_as_the_recipe_says() -> None:
    changed = [
        not torch.equal(
            Augment([Augmentation.model_validate({"randAugment": {"operations": count, "magnitude": 15}})])(
                noise(), seed, Step(0, 0, (), (WIDTH, HEIGHT), lambda index: noise())
            ).image,
            noise().image,
        )
        for count in (1, 3)
        for seed in range(300)
    ]
    assert np.mean(changed[:300]) == pytest.approx(13 / 14, abs=0.06), "one of 14 changes nothing"
    assert np.mean(changed[300:]) > 0.97


def test_parts_have_torchvisions_distribution() -> None:
    crop = random_resized_crop.RandomResizedCrop(RandomResizedCrop())
    parts = np.array([crop.part((WIDTH, HEIGHT), np.random.default_rng(seed)) for seed in range(3000)])
    torch.manual_seed(0)
    image = noise().image
    reference = np.array([ReferenceCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    ours = np.stack([parts[:, 0], parts[:, 1], parts[:, 2] * parts[:, 3], parts[:, 2] / parts[:, 3]], 1)
    theirs = np.stack(
        [reference[:, 1], reference[:, 0], reference[:, 2] * reference[:, 3], reference[:, 3] / reference[:, 2]], 1
    )
    error = theirs.std(0) / math.sqrt(3000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 6 * error).all()
    assert ours.std(0) == pytest.approx(theirs.std(0), rel=0.1)
    flat = random_resized_crop.RandomResizedCrop(RandomResizedCrop(min_area=1.0))
    assert flat.part((400, 40), np.random.default_rng(0)) == (173, 0, 53, 40), "the largest in the middle"


def test_a_part_is_resized_as_torchvision_does() -> None:
    item = noise()
    spec = Augmentation.model_validate({"randomResizedCrop": {}})
    given = Augment([spec])(item, 4, Step(0, 0, (), (48, 32), lambda index: item))
    left, top, width, height = random_resized_crop.RandomResizedCrop(spec.random_resized_crop).part(
        item.size, np.random.default_rng(4)
    )
    reference = functional.resized_crop(item.image, top, left, height, width, [32, 48], antialias=False)
    inside = (given.image.int() - reference.int())[:, 2:-2, 2:-2].abs().float()
    assert given.size == (48, 32)
    assert inside.quantile(0.99) <= 3


@pytest.mark.parametrize("seed", range(6))
def test_an_erased_rectangle_is_noise_ignored_in_the_mask_and_hides_objects(seed: int) -> None:
    item = Labelled(
        torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8),
        torch.tensor([[x, y, x + 8.0, y + 8.0] for x in range(0, 88, 8) for y in range(0, 56, 8)]),
        torch.zeros(77, dtype=torch.int64),
        torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8),
    )
    options = RandomErasing(probability=1.0)
    result = Augment([Augmentation(random_erasing=options)])(item, seed, Step(0, 0, (), item.size, lambda index: item))
    random = np.random.default_rng(seed)
    random.random()
    place = random_erasing.RandomErasing(options).rectangle(item.size, random)
    assert place is not None
    left, top, right, bottom = place
    assert 0.015 < (right - left) * (bottom - top) / (WIDTH * HEIGHT) < 0.34
    assert result.mask is not None
    erased = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    erased[top:bottom, left:right] = True
    assert torch.equal(result.mask == 255, erased)
    assert (result.image[:, ~erased] == 0).all()
    assert 60 < result.image[:, erased].float().std() < 90, "of uniform noise it is 74"
    for box in item.boxes.int().tolist():
        hidden = float(erased[box[1] : box[3], box[0] : box[2]].float().mean())
        assert (torch.tensor(box).float() == result.boxes).all(1).any() == (hidden <= 0.75)


def test_multi_scale_gives_all_images_of_a_step_one_size() -> None:
    augment = Augment([Augmentation.model_validate({"multiScale": {"min": 0.5, "max": 1.5}})], multiple=16)

    def sizes(step_seed: int) -> set[tuple[int, int]]:
        step = Step(0, step_seed, (), (WIDTH, HEIGHT), lambda index: noise())
        return {augment(noise(), seed, step).size for seed in range(4)}

    steps = [sizes(seed) for seed in range(40)]
    assert all(len(each) == 1 for each in steps)
    seen = set.union(*steps)
    assert {width for width, _ in seen} == set(range(48, 145, 16))
    assert all(width % 16 == 0 and height % 16 == 0 for width, height in seen)
    exact = Augment([Augmentation.model_validate({"multiScale": {"min": 0.5, "max": 0.5}})], multiple=16)
    half = exact(noise(), 0, Step(0, 0, (), (WIDTH, HEIGHT), lambda index: noise()))
    reference = functional.resize(noise().image, [32, 48], antialias=False)
    assert (half.image.int() - reference.int()).abs().max() <= 1
