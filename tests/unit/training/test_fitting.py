"""What of a recipe follows from the dataset: epochs, warm-up and the size of the input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fovea_api.architectures import find
from fovea_api.common import Task
from fovea_api.presets import with_preset
from fovea_api.trainingjob import Recipe, Size, Sizing
from fovea_trainer.training.fitting import Images, fit_size, fitted, scale_notes
from synthetic import Version, squares

PLAIN, EIGHTH = find("efficientnet-lite0"), find("retinanet-efficientnet-lite0")


def images(*sizes: tuple[int, int], objects: tuple[float, ...] = ()) -> Images:
    """Images of these sizes; objects by their share of the longer side."""
    return Images(np.array(sizes, float), np.array(objects))


def of(size: Size) -> tuple[int, int]:
    return size.width, size.height


@pytest.mark.parametrize(
    ("sizing", "sizes", "expected"),
    [
        (Sizing(longer_side=320), [(640, 480)], (320, 240)),
        (Sizing(longer_side=320), [(480, 640)], (240, 320)),
        (Sizing(longer_side=320), [(640, 480), (480, 640)], (320, 320)),
        (Sizing(longer_side=320), [(6000, 100)], (320, 112)),  # an aspect of 3 at most
        (Sizing(longer_side=320), [(100, 100)], (96, 96)),  # nothing is enlarged
        (Sizing(longer_side=320, smallest=128), [(20, 20)], (128, 128)),
        (Sizing(longer_side=224, enlarge=2), [(100, 100)], (208, 208)),
    ],
)
def test_the_input_has_the_shape_of_the_images(
    sizing: Sizing, sizes: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    assert of(fit_size(sizing, images(*sizes), EIGHTH)) == expected


def test_small_objects_make_it_larger() -> None:
    sizing = Sizing(longer_side=320, object_pixels=16, largest=640)

    def side(*objects: float, image: int = 2000) -> int:
        return fit_size(sizing, images((image, image), objects=objects), EIGHTH).width

    assert side() == side(0.05, 0.06) == 320
    assert side(0.04) == 400
    assert side(0.04, 0.5, 0.5, 0.5, 0.5) == 320, "a quarter of the objects may be smaller"
    assert side(0.001) == 640
    assert side(0.001, image=480) == 480


def test_sides_suit_the_architecture() -> None:
    assert of(fit_size(Sizing(longer_side=224, enlarge=2, smallest=64), images((28, 28)), PLAIN)) == (64, 64)
    unet = find("unet-efficientnet-lite0")
    assert of(fit_size(Sizing(longer_side=512), images((480, 360)), unet)) == (480, 352)


def recipe(version: Version, **training: object) -> Recipe:
    name = {Task.DETECTION: "retinanet-efficientnet-lite0", Task.SEMANTIC_SEGMENTATION: "unet-efficientnet-lite0"}
    model = {"architecture": name.get(version.manifest.task, "efficientnet-lite0")}
    return with_preset(Recipe.model_validate({"model": model, "training": training}))


@pytest.mark.parametrize(("count", "epochs"), [(24, 167), (800, 12)])
def test_a_small_split_is_passed_more_often(count: int, epochs: int) -> None:
    version = squares(Task.DETECTION)
    version = replace(version, manifest=version.manifest.model_copy(update={"splits": {"train": count}}))
    found = fitted(recipe(version, epochs=12, minSteps=500, batchSize=8), version).training
    assert found.epochs == epochs
    assert found.schedule.warmup_epochs == pytest.approx(0.1 * epochs)
    assert (found.min_steps, found.schedule.warmup_share) == (0, None)


def test_given_epochs_and_warmup_stay() -> None:
    version = squares(Task.DETECTION)
    found = fitted(recipe(version, epochs=4, schedule={"warmupEpochs": 1.5}), version).training
    assert (found.epochs, found.schedule.warmup_epochs) == (4, 1.5)


def test_what_is_fitted_is_fitted_for_good() -> None:
    version = squares(Task.SEMANTIC_SEGMENTATION)
    found = fitted(recipe(version), version)
    assert found.input.size == Size(width=128, height=128)  # the images have 32 x 32
    (window,) = [each.random_crop for each in found.input.augmentations if each.random_crop is not None]
    assert (window.width, window.height) == (128, 128)
    assert fitted(found, version) == found
    assert Recipe.model_validate(found.to_dict()) == found, "the report's recipe says all"


def test_images_of_another_scale_than_the_input_are_reported() -> None:
    assert scale_notes(images((100, 100)), Size(width=224, height=224)) == ()
    (note,) = scale_notes(images((64, 64)), Size(width=224, height=224))
    assert "3.5 times as large" in note
    assert "12 times as long" in note
    (note,) = scale_notes(images((4000, 3000)), Size(width=320, height=240))
    assert "12.5 times smaller" in note
