"""Masks of YOLACT against the paper's formulas, in plain Python and by sampling their maps."""

from __future__ import annotations

import math

import pytest
import torch
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import clipped
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.heads.base import heads
from fovea_trainer.models.heads.yolact import MASK_SIDE, MASK_WEIGHT, RawMasks, Yolact, mask_loss, shrunk
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets
from torch.nn import functional as F


@pytest.fixture(scope="module")
def network() -> Yolact:
    torch.manual_seed(0)
    options = {option.name: option.default for option in heads()["yolact"].options}
    small = {"neckChannels": 16, "prototypes": 8, "objects": 16}
    built = build(NetworkDescription("yolact", Body("test_resnet"), {**options, **small}, 3), LossSettings())
    assert isinstance(built, Yolact)
    return built.eval()


@pytest.fixture(scope="module")
def raw(network: Yolact) -> RawMasks:
    with torch.no_grad():
        raw: RawMasks = network(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    return raw


def test_the_loss_of_a_mask_is_the_cross_entropy_within_its_box_over_the_boxs_area() -> None:
    random = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(2, 16, 24, generator=random), torch.rand(2, 16, 24, generator=random).round()
    boxes = torch.tensor([[9.0, 13, 50, 41], [60, 0, 96, 64]])  # cells of 4 pixels that they touch:
    expected = []
    for index, (x1, y1, x2, y2) in enumerate([(2, 3, 13, 11), (15, 0, 24, 16)]):
        total = 0.0
        for y in range(y1, y2):
            for x in range(x1, x2):
                probability = 1 / (1 + math.exp(-float(logits[index, y, x])))
                total -= math.log(probability if masks[index, y, x] else 1 - probability)
        expected.append(total / ((x2 - x1) * (y2 - y1)))
    assert mask_loss(logits, masks, boxes).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_a_cell_is_of_the_object_that_has_most_of_its_pixels() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4, :4], mask[0, 4:, :2], mask[0, 4:7, 4:7] = True, True, True
    assert shrunk(mask, torch.Size((2, 2)))[0].tolist() == [[1, 0], [0, 1]]


def test_points_learn_the_mask_of_their_object(network: Yolact, raw: RawMasks) -> None:
    layers = torch.zeros(2, 64, 96, dtype=torch.int16)
    layers[0, 8:40, 8:48], layers[1, 20:60, 32:80] = 1, 2
    boxes, labels = torch.tensor([[8.0, 8, 48, 40], [32, 20, 80, 60]]), torch.tensor([2, 0])
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(1, 64, 96, dtype=torch.int16))
    targets = InstanceTargets((boxes, nothing[0]), (labels, nothing[1]), (layers, nothing[2]))
    losses = network.loss(raw, targets)
    parts, (assignment, empty) = network.assigned_loss(raw, targets)
    assert set(losses) == {*parts, "mask"}
    assert len(empty.points) == 0
    each = []
    for point, number in zip(assignment.points, assignment.objects, strict=True):
        logits = (raw.coefficients[0, point, :, None, None] * raw.prototypes[0]).sum(0)
        whole = (layers == number + 1).any(0)
        cells = whole.reshape(16, 4, 24, 4).float().mean((1, 3)) > 0.5
        each.append(mask_loss(logits[None], cells[None].float(), boxes[number][None]))
    assert losses["mask"].item() == pytest.approx(MASK_WEIGHT * torch.stack(each).mean().item() / 2, rel=1e-5)


def test_a_mask_is_its_sum_of_prototypes_sampled_over_the_box(network: Yolact, raw: RawMasks) -> None:
    outputs = network.decode(raw)
    assert outputs["masks"].shape == (2, 16, MASK_SIDE, MASK_SIDE)
    every = clipped(raw.boxes, 64, 96)
    for image in range(2):
        for box, mask in zip(outputs["boxes"][image], outputs["masks"][image], strict=True):
            point = (every[image] == box).all(1).nonzero()[0, 0]
            logits = (raw.coefficients[image, point, :, None, None] * raw.prototypes[image]).sum(0)
            steps = (torch.arange(MASK_SIDE) + 0.5) / MASK_SIDE
            x, y = box[0] + steps * (box[2] - box[0]), box[1] + steps * (box[3] - box[1])
            grid = torch.stack(torch.meshgrid(2 * x / 96 - 1, 2 * y / 64 - 1, indexing="xy"), -1)
            expected = F.grid_sample(logits[None, None], grid[None], padding_mode="border", align_corners=False)
            assert torch.allclose(mask, expected[0, 0].sigmoid(), atol=1e-5)


def test_boxes_that_overlap_a_better_one_come_last(network: Yolact, raw: RawMasks) -> None:
    outputs = network.decode(raw)
    best = outputs["scores"].amax(-1)
    assert outputs["scores"].shape == (2, 16, 3)
    assert (best[:, 0] == raw.logits.sigmoid().amax((1, 2))).all(), "the best box of all stays"
