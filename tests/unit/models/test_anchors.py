"""Anchors lie where the features are, and suit the dataset."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from fovea_api.trainingjob import ModelChoice, Pretrained
from fovea_serving.pipeline import Preprocess
from fovea_trainer.data.version import Sample
from fovea_trainer.models.anchors import (
    DEFAULT_RATIOS,
    SIZES_OVER_STRIDE,
    Anchors,
    best_overlap,
    cluster_ratios,
    fit_anchors,
    ladder,
)
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.pyramid import STRIDES
from fovea_trainer.models.registry import build_network
from fovea_trainer.tasks.detection.targets import BoxTargets

SIZE = (320, 240)


def grid(anchors: Anchors, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return anchors([torch.zeros(1, 1, -(-size[1] // stride), -(-size[0] // stride)) for stride in anchors.strides])


def test_anchors_lie_on_multiples_of_the_stride_whatever_the_height() -> None:
    """240 rows give 8 rows of stride 32: the last one lies at 224, not at 210."""
    boxes = grid(Anchors([[32.0]], [1.0], [32]))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres[:, 1].unique().tolist() == [32.0 * row for row in range(8)]
    assert centres[:, 0].unique().tolist() == [32.0 * column for column in range(10)]


def test_the_ratio_is_height_over_width_at_the_same_area() -> None:
    width, height = (grid(Anchors([[100.0]], [4.0], [32]))[0].reshape(2, 2) * torch.tensor([[-1], [1]])).sum(0).tolist()
    assert (width, height) == (50, 200)


def test_the_overlap_that_is_fitted_is_that_of_the_anchors_in_their_places() -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 150, (60, 2))
    boxes = np.minimum(np.concatenate([low, low + random.uniform(8, 150, (60, 2))], 1), [320, 240, 320, 240])
    sizes, ratios = ladder(4, STRIDES, 1), (0.5, 1.0, 2.0)
    anchors = grid(Anchors([[size] for size in sizes], ratios, STRIDES))
    expected = torchvision.ops.box_iou(torch.from_numpy(boxes).float(), anchors).amax(1).numpy()
    assert best_overlap(boxes, SIZE, sizes, ratios, STRIDES) == pytest.approx(expected, abs=0.02)  # whole pixels there


@pytest.mark.parametrize(("side", "recall"), [(12, 0.6), (24, 0.99), (40, 0.99), (110, 0.99), (220, 0.99)])
def test_objects_of_any_size_have_anchors(side: int, recall: float) -> None:
    """Down to three cells of the finest map; of smaller ones the fit says how many have none."""
    random = np.random.default_rng(side)
    low = random.uniform(0, 1, (300, 2)) * (np.array(SIZE) - side)
    extent = side * np.exp(random.normal(0, 0.1, (300, 2)))
    boxes = np.concatenate([low, low + extent], 1).astype(np.float32)
    fit = fit_anchors(boxes, SIZE, STRIDES, 2)
    assert fit.recall > recall
    anchors = grid(Anchors(np.array(fit.sizes).reshape(5, 2).tolist(), fit.ratios, STRIDES))
    best = torchvision.ops.box_iou(torch.from_numpy(boxes), anchors).amax(1)
    assert float((best >= 0.5).float().mean()) == pytest.approx(fit.recall, abs=0.02)


def test_long_objects_have_long_anchors() -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 100, (200, 2))
    boxes = np.concatenate([low, low + np.array([20, 130])], 1).astype(np.float32)
    assert max(fit_anchors(boxes, SIZE, STRIDES, 2).ratios) == pytest.approx(6.5, abs=0.01)
    three = np.concatenate([low, low + random.permutation(np.repeat([[40, 20], [30, 30], [10, 50]], 67, 0)[:200])], 1)
    assert cluster_ratios(three, 3) == pytest.approx((0.5, 1.0, 5.0), abs=0.01)


def sample(boxes: list[list[float]], difficult: list[bool]) -> Sample:
    return Sample("a", "a", "lab", b"", 640, 480, -1, np.array(boxes, np.float32), np.zeros(len(boxes), np.int32),
                  None, np.array(difficult))  # fmt: skip


@pytest.mark.parametrize("name", ["retinanet-efficientnet-lite0", "fasterrcnn"])
def test_a_detector_takes_its_anchors_from_the_train_split_unless_the_recipe_gives_some(name: str) -> None:
    choice = ModelChoice(architecture=name, pretrained=Pretrained(weights="None"), options={"anchorRatios": [1.0]})
    samples = [sample([[100, 100, 500, 460], [10, 10, 12, 14]], [False, True])] * 3  # the small one does not count
    network = build_network(choice, 2, LossSettings(), samples, Preprocess(320, 240))
    assert '"anchorRatios": [1.0]' in network.description
    assert "Best possible recall of the anchors: 1.000 of 3 objects" in network.description
    small = build_network(choice, 2, LossSettings(), [sample([[0, 0, 4, 4]], [False])] * 3, Preprocess(320, 240))
    assert "a larger input.size helps" in small.description
    nothing = build_network(choice, 2, LossSettings(), [sample([[0, 0, 9, 9]], [True])], Preprocess(320, 240))
    assert "has no objects" in nothing.description


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("retinanet-efficientnet-lite0", (16, 24, 40, 60, 90, 120)), ("fasterrcnn", (24, 60, 120)), ("fasterrcnn", ())],
)
def test_recipes_with_sizes_for_three_levels_get_a_network_of_three_levels(name: str, sizes: tuple[float, ...]) -> None:
    """As the first version's, whose frozen recipes spell out 3 or 6 sizes; with none given there are five levels."""
    options = {"fpnChannels": 16, "anchorSizes": list(sizes)}
    choice = ModelChoice(architecture=name, pretrained=Pretrained(weights="None"), options=options)
    boxes = [sample([[100, 100, 200, 160], [10, 10, 62, 84]], [False, False])] * 3
    network = build_network(choice, 2, LossSettings(), boxes, Preprocess(320, 240)).eval()
    strides = (8, 16, 32) if sizes else STRIDES
    raw = network(torch.zeros(1, 3, 240, 320))
    each = len(sizes) // 3 or 1
    cells = [-(-320 // stride) * -(-240 // stride) for stride in strides]
    assert raw.anchors.shape == (3 * each * sum(cells), 4)
    areas = (raw.anchors[:, 2:] - raw.anchors[:, :2]).prod(1).sqrt()
    starts = np.cumsum([0, *cells]) * 3 * each
    for level, size in enumerate(sizes[::each]):
        assert float(areas[starts[level]]) == pytest.approx(size, abs=1)  # of whole pixels
    targets = BoxTargets([torch.tensor([[50.0, 50, 100, 80]])], [torch.tensor([1])])
    assert all(torch.isfinite(value) for value in network.loss(raw, targets).values())
    assert network.decode(raw)["boxes"].shape[-1] == 4


def test_a_ladder_spreads_the_sizes_of_each_level_over_an_octave() -> None:
    assert ladder(4, (8, 16), 2) == (32, 45.3, 64, 90.5)
    assert ladder(1.5, (8,), 3) == (12, 15.1, 19)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fit_is_the_best_of_all_ladders_and_ratios(seed: int) -> None:
    """By recall to a thousandth, then by mean overlap, measured with torchvision on the anchors in their places."""
    random = np.random.default_rng(seed)
    low = random.uniform(0, 200, (80, 2)) * [1, 0.7]
    extent = np.exp(random.normal(3.5, 0.6, (80, 1)) + random.normal(0, 0.5, (80, 2)))
    boxes = np.minimum(np.concatenate([low, low + extent], 1), [320, 240, 320, 240]).astype(np.float32)
    fit = fit_anchors(boxes, SIZE, STRIDES, 2)
    assert (fit.sizes, fit.ratios) in {
        (ladder(factor, STRIDES, 2), ratios)
        for factor in SIZES_OVER_STRIDE
        for ratios in (DEFAULT_RATIOS, cluster_ratios(boxes.astype(np.float64), 3))
    }
    for factor in SIZES_OVER_STRIDE[::2]:
        sizes = ladder(factor, STRIDES, 2)
        best = best_overlap(boxes.astype(np.float64), SIZE, sizes, DEFAULT_RATIOS, np.repeat(STRIDES, 2))
        assert (round(fit.recall, 3), fit.overlap) >= (round(float((best >= 0.5).mean()), 3), float(best.mean()))
    anchors = grid(Anchors(np.array(fit.sizes).reshape(5, 2).tolist(), fit.ratios, STRIDES))
    overlaps = torchvision.ops.box_iou(torch.from_numpy(boxes), anchors).amax(1)
    assert fit.overlap == pytest.approx(float(overlaps.mean()), abs=0.02)


def test_sizes_and_ratios_that_are_given_stay() -> None:
    boxes = np.array([[0, 0, 32, 64], [100, 100, 132, 164]], np.float32)
    fit = fit_anchors(boxes, SIZE, (8, 16), 1, sizes=(24.0, 45.25), ratios=(2.0,))
    assert (fit.sizes, fit.ratios, fit.recall) == ((24.0, 45.25), (2.0,), 1.0)
    assert fit_anchors(boxes, SIZE, STRIDES, 1, ratios=(1.0,)).ratios == (1.0,)


def test_many_boxes_are_sampled_evenly() -> None:
    """More than 5000, those of 200 x 50 pixels at the end, where a sample of the first ones misses them."""
    low = np.random.default_rng(0).uniform(0, 40, (8000, 2))
    extent = np.where(np.arange(8000)[:, None] < 5000, [40, 40], [200, 50])
    ratios = fit_anchors(np.concatenate([low, low + extent], 1).astype(np.float32), SIZE, STRIDES, 1).ratios
    assert min(ratios) == pytest.approx(0.25, abs=0.01)


def test_ratios_are_means_of_logarithms_ascending_and_each_once() -> None:
    extent = np.repeat([[40, 10], [10, 10], [10, 40]], 2, 0)
    wide = np.concatenate([np.zeros_like(extent), extent], 1)
    assert cluster_ratios(wide, 3) == (0.25, 1.0, 4.0)
    assert cluster_ratios(wide[2:3], 3) == (1.0,)
    pair = np.concatenate([np.zeros((2, 2)), [[10, 20], [10, 80]]], 1)
    assert cluster_ratios(pair, 1) == (4.0,), "the geometric mean of 2 and 8"


def test_the_best_anchor_lies_at_the_nearest_cell_within_the_grid() -> None:
    """By hand: stride 32 on a height of 240 has cells at 0 to 224; a box around 239 is 15 pixels off the last one."""
    box = np.array([[144.0, 207, 176, 271]])
    width, height = 32, 32 + 32 - 15
    expected = width * height / (32 * 64 + 32 * 64 - width * height)
    assert best_overlap(box, (320, 240), [math.sqrt(32 * 64)], [2.0], [32]) == pytest.approx([expected])
    inside = np.array([[100.0, 100, 110, 110]])
    assert best_overlap(inside, (320, 240), [20.0], [1.0], [105]) == pytest.approx([100 / 400])
    assert best_overlap(np.array([[0.0, 0, 4, 4]]), (320, 240), [4.0], [1.0], [32]) == pytest.approx([4 / 28])
