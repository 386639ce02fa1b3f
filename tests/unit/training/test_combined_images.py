"""Augmentations of several images: what the result shows is what its labels say, for every worker the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Augmentation, Input, Recipe
from fovea_serving.pipeline import Preprocess
from fovea_trainer.augmentation import FILL, Augment, Labelled, Step
from fovea_trainer.report import base
from fovea_trainer.tasks import definition
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import SplitDataset
from fovea_trainer.training.loading import TrainingBatches
from fovea_trainer.training.loop import Plan, fit
from fovea_trainer.training.order import Order
from fovea_trainer.training.preview import augmented_images
from pydantic import JsonValue
from synthetic import squares

WIDTH, HEIGHT = 96, 64
LEVELS = (0, 85, 170, 255)
"""Grey values of the classes."""


def plain(label: int, width: int = WIDTH, height: int = HEIGHT) -> Labelled:
    """An image of one grey value, which is its class; the box is all of it."""
    return Labelled(
        torch.full((3, height, width), LEVELS[label], dtype=torch.uint8),
        torch.tensor([[0.0, 0, width, height]]),
        torch.tensor([label]),
        torch.full((height, width), label, dtype=torch.uint8),
        {label: 1.0},
    )


def halves(left: int, right: int) -> Labelled:
    """Two classes side by side."""
    item = plain(left)
    item.image[..., WIDTH // 2 :] = LEVELS[right]
    assert item.mask is not None
    item.mask[:, WIDTH // 2 :] = right
    return item


def augmented(
    item: Labelled, others: Sequence[Labelled], seed: int, *changes: dict[str, JsonValue], epoch: int = 0
) -> Labelled:
    augment = Augment([Augmentation.model_validate(change) for change in changes], epochs=10)
    step = Step(epoch, 3, tuple(range(len(others))), (WIDTH, HEIGHT), lambda index: others[index])
    return augment(item, seed, step)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_pixels_and_classes_in_one_proportion(seed: int) -> None:
    result = augmented(plain(3), [plain(0)], seed, {"mixUp": {"alpha": 1}})
    share = np.random.default_rng(seed)
    share.random()
    expected = share.beta(1, 1)
    assert result.classes == pytest.approx({3: expected, 0: 1 - expected})
    assert float(result.image[0, 5, 5]) == pytest.approx(255 * expected, abs=1)
    assert augmented(plain(3), [plain(3)], seed, {"mixUp": {}}).classes == pytest.approx({3: 1.0})


def test_the_proportion_of_mixup_has_the_mean_and_the_variance_of_beta() -> None:
    shares = [augmented(plain(3), [plain(0)], seed, {"mixUp": {"alpha": 0.5}}).classes[3] for seed in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.5 + 1)), abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_gives_each_class_the_share_of_its_pixels(seed: int) -> None:
    result = augmented(plain(3), [plain(0)], seed, {"cutMix": {}})
    assert result.classes[3] == pytest.approx(float((result.image[0] == 255).float().mean()), abs=1e-6)
    assert sum(result.classes.values()) == pytest.approx(1)


def test_the_middle_of_a_cut_is_anywhere_and_its_area_as_drawn() -> None:
    """Without cuts at the border the other's share is uniform for alpha 1; the border takes a part of it away."""
    shares = [augmented(plain(3), [plain(0)], seed, {"cutMix": {}}).classes.get(0, 0.0) for seed in range(1000)]
    area = np.random.default_rng(0).random((2, 4000))
    middle, reach = np.random.default_rng(1).random((2, 4000)), np.sqrt(area[0]) / 2
    expected = np.prod([np.minimum(1, each + reach) - np.maximum(0, each - reach) for each in middle], axis=0)
    assert np.mean(shares) == pytest.approx(expected.mean(), abs=0.03)


@pytest.mark.parametrize("seed", range(12))
def test_a_mosaic_shows_four_images_and_its_boxes_and_mask_are_theirs(seed: int) -> None:
    others = [plain(1), plain(2), plain(0, 40, HEIGHT)]
    result = augmented(plain(3), others, seed, {"mosaic": {"min": 0.5, "max": 1.5}})
    assert result.size == (WIDTH, HEIGHT)
    assert result.mask is not None
    grey, labels = result.image[0].int(), result.mask
    for label, level in enumerate(LEVELS):  # an image's edge is a blend with what it uncovers
        assert ((grey[labels == label] - level).abs() > 1).sum() <= 2 * (WIDTH + HEIGHT)
    assert (grey[labels == 255] != FILL).sum() <= 2 * (WIDTH + HEIGHT)
    for box, label in zip(result.boxes.tolist(), result.labels.tolist(), strict=True):
        left, top, right, bottom = (round(side) for side in box)
        assert (labels[top + 1 : bottom - 1, left + 1 : right - 1] == label).all()
    covered = sum((box[2] - box[0]) * (box[3] - box[1]) for box in result.boxes.tolist())
    assert covered <= (labels != 255).sum() + 0.05 * WIDTH * HEIGHT


def test_an_image_without_its_mosaic_is_what_it_is_without_the_augmentation() -> None:
    preprocess, task = Preprocess(48, 32), definition(Task.SEMANTIC_SEGMENTATION)
    samples = squares(Task.SEMANTIC_SEGMENTATION).split("train")
    order = Order(np.ones(len(samples)), 4, seed=0)

    def first(*changes: dict[str, JsonValue]) -> list[torch.Tensor]:
        augment = Augment([Augmentation.model_validate(change) for change in changes], epochs=10)
        dataset = SplitDataset(samples, task, preprocess, augment)
        images, targets, _ = next(TrainingBatches(dataset, order, SingleProcess(Path(), 1, print)).epoch(9, 0))
        return [images, targets.masks]  # type: ignore[attr-defined]

    closed = first({"mosaic": {}})
    assert all(torch.equal(one, other) for one, other in zip(closed, first(), strict=True))


@pytest.mark.parametrize(("given", "last"), [({}, 8), ({"closeLastEpochs": 3}, 6), ({"closeLastEpochs": 0}, 9)])
def test_combinations_are_closed_for_the_last_epochs(given: dict[str, JsonValue], last: int) -> None:
    """A tenth of them where the recipe is silent."""
    changed = [
        epoch
        for epoch in range(10)
        if len(augmented(plain(3), [plain(0)], 0, {"cutMix": given}, epoch=epoch).classes) > 1
    ]
    assert changed == list(range(last + 1))


def test_others_are_changed_by_the_augmentations_before() -> None:
    left_dark = halves(0, 3)
    flip: dict[str, JsonValue] = {"horizontalFlip": {"probability": 1}}
    paste: dict[str, JsonValue] = {"mixUp": {"alpha": 100}}
    after, before = (augmented(plain(0), [left_dark], 1, *order) for order in ((flip, paste), (paste, flip)))
    assert after.image[0, 0, 0] > 60
    assert after.image[0, 0, -1] == 0
    assert before.image[0, 0, 0] > 60
    assert before.image[0, 0, -1] == 0
    alone = augmented(plain(0), [left_dark], 1, paste)
    assert alone.image[0, 0, 0] == 0
    assert alone.image[0, 0, -1] > 60


@pytest.mark.parametrize("seed", range(6))
def test_copy_paste_brings_whole_classes_with_their_pixels(seed: int) -> None:
    """ClassMix: half of the classes of the other image."""
    result = augmented(plain(0), [halves(1, 2)], seed, {"copyPaste": {"probability": 1}})
    assert result.mask is not None
    (pasted,) = set(result.mask.unique().tolist()) - {0}
    assert (result.mask == pasted).float().mean() == 0.5
    assert torch.equal(result.image[0].int(), torch.tensor(LEVELS)[result.mask.long()].int())


def test_processes_and_workers_combine_the_same_images(tmp_path: Path) -> None:
    changes = Input.model_validate({"augmentations": [{"mosaic": {}}, {"horizontalFlip": {}}]}).augmentations
    dataset = SplitDataset(
        squares(Task.DETECTION).split("train"), definition(Task.DETECTION), Preprocess(32, 32), Augment(changes, 10)
    )
    order = Order(np.ones(len(dataset)), 8, seed=0)

    class Worker(SingleProcess):
        def __init__(self, rank: int, workers: int, processes: int) -> None:
            super().__init__(tmp_path, 1, lambda progress: None)
            self.loader_processes, self.given = processes, (rank, workers)

        rank = property(lambda self: self.given[0])  # type: ignore[assignment]
        workers = property(lambda self: self.given[1])  # type: ignore[assignment]

    alone = [images for images, _, _ in TrainingBatches(dataset, order, Worker(0, 1, 0)).epoch(1, 1)]
    apart = [
        [images for images, _, _ in TrainingBatches(dataset, order, Worker(rank, 2, 2)).epoch(1, 1)]
        for rank in range(2)
    ]
    for step, images in enumerate(alone):
        for rank in range(2):
            assert torch.equal(images[rank::2], apart[rank][step])


def test_a_preview_names_the_classes_of_a_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    version = squares(Task.CLASSIFICATION)
    drawn: list[list[str]] = []

    def draw_boxes(image: np.ndarray, boxes: object, labels: list[int], classes: list[str]) -> np.ndarray:
        drawn.append([classes[label] for label in labels])
        return image

    monkeypatch.setattr(base, "draw_boxes", draw_boxes)
    model = {"architecture": "resnet18", "pretrained": {"weights": "None"}}
    given = {"size": {"width": 32, "height": 32}, "augmentations": [{"mixUp": {"alpha": 1}}, {"multiScale": {}}]}
    recipe = Recipe.model_validate({"model": model, "input": given, "training": {"epochs": 2}})
    picture = augmented_images(recipe, version, 6)  # type: ignore[arg-type]
    assert picture.ndim == 3
    assert any(re.fullmatch(r"0\.\d\d red \+ 0\.\d\d blue|0\.\d\d blue \+ 0\.\d\d red", text) for (text,) in drawn)


def test_a_training_on_mixtures_learns_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Mixtures, all through the loss and the loop; stopped after an epoch, it goes on as if it had not been."""
    model = {
        "architecture": "resnet18",
        "options": {"width": 0.125, "stem": "Small"},
        "pretrained": {"weights": "None"},
    }
    changes: list[JsonValue] = [{"randAugment": {}}, {"cutMix": {"closeLastEpochs": 1}}, {"randomErasing": {}}]
    recipe = Recipe.model_validate({
        "model": model,
        "input": {"size": {"width": 32, "height": 32}, "augmentations": changes},
        "training": {"epochs": 2, "batchSize": 8, "losses": [{"name": "BinaryCrossEntropy"}, {"name": "CrossEntropy"}]},
    })  # fmt: skip
    version = squares(Task.CLASSIFICATION)
    whole = fit(recipe, version, SingleProcess(tmp_path / "whole", 1, lambda progress: None))
    fit(recipe, version, SingleProcess(tmp_path / "part", 1, lambda progress: None), Plan(until=1))
    again = fit(recipe, version, SingleProcess(tmp_path / "part", 1, lambda progress: None))
    assert all(torch.equal(value, again.network[name]) for name, value in whole.network.items())


def test_objects_are_pasted_with_their_pixels() -> None:
    """They lie above the image's own, whose pixels they hide; what is hidden whole is gone."""
    below, above = torch.zeros(1, 40, 60, dtype=torch.int16), torch.zeros(1, 40, 60, dtype=torch.int16)
    below[0, 5:15, 5:15], below[0, 20:38, 30:58] = 1, 2
    above[0, 2:18, 2:18] = 1
    dark, bright = (torch.full((3, 40, 60), value, dtype=torch.uint8) for value in (10, 200))
    boxes = torch.tensor([[5.0, 5, 15, 15], [30, 20, 58, 38]])
    item = Labelled(dark, boxes, torch.tensor([3, 4]), instances=below)
    other = Labelled(bright, torch.tensor([[2.0, 2, 18, 18]]), torch.tensor([7]), instances=above)
    augment = Augment([Augmentation.model_validate({"copyPaste": {"probability": 1}})], epochs=10)
    result = augment(item, 0, Step(0, 0, (0,), (60, 40), lambda _: other))
    assert result.labels.tolist() == [4, 7]
    assert result.boxes.tolist() == [[30, 20, 58, 38], [2, 2, 18, 18]]
    assert result.instances is not None
    assert ((result.instances == 2).any(0) == (result.image[0] == 200)).all()


def test_the_objects_of_a_mosaic_are_numbered_on() -> None:
    """The box of each is the one around its pixels, which are as bright as its class."""

    def one(number: int) -> Labelled:
        layers, image = torch.zeros(1, 48, 64, dtype=torch.int16), torch.zeros(3, 48, 64, dtype=torch.uint8)
        layers[0, 4:44, 4:60] = 1
        image[:, 4:44, 4:60] = 50 * (number + 1)
        return Labelled(image, torch.tensor([[4.0, 4, 60, 44]]), torch.tensor([number]), instances=layers)

    augment = Augment([Augmentation.model_validate({"mosaic": {"probability": 1, "min": 1, "max": 1}})], epochs=10)
    for seed in range(6):
        result = augment(one(0), seed, Step(0, 0, (1, 2, 3), (64, 48), one))
        assert result.instances is not None
        for number, (label, box) in enumerate(zip(result.labels.tolist(), result.boxes.int().tolist(), strict=True), 1):
            pixels = (result.instances == number).any(0)
            rows, columns = pixels.nonzero(as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (result.image[0][pixels].float() - 50 * (label + 1)).abs().median() < 2
