"""Losses against torch, torchvision and their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm.loss
import torch
import torchvision
from fovea_api.compatibility import UnsuitableLoss
from fovea_api.trainingjob import Loss, Training
from fovea_trainer.models.losses import BOX_LOSSES, LossSettings, box_loss, choose_losses, class_loss
from fovea_trainer.models.registry import entry_of
from fovea_trainer.tasks.classification.targets import ClassTargets
from fovea_trainer.training.dataset import class_weights
from torch.nn import functional as F

WEIGHTS = (0.5, 1.0, 1.5)


@pytest.fixture
def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [2, 3, 4, 5] and a mask with pixels that do not count."""
    random = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 4, 5), generator=random)
    target[0, 0] = 255
    return torch.randn(2, 3, 4, 5, generator=random), target


def settings(name: Loss, weights: tuple[float, ...] = (), smoothing: float = 0.0) -> LossSettings:
    return LossSettings({name: 1.0}, weights, smoothing)


def test_cross_entropy_is_the_mean_negative_log_likelihood(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pixels
    counted = target != 255
    likelihood = logits.softmax(1).gather(1, target.clamp(max=2)[:, None])[:, 0]
    expected = -likelihood.log()[counted].mean()
    assert class_loss(logits, target, settings(Loss.CROSS_ENTROPY), 255) == pytest.approx(float(expected), abs=1e-6)


def test_class_weights_weigh_the_true_class(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pixels
    weight = torch.tensor(WEIGHTS)[target.clamp(max=2)] * (target != 255)
    log = logits.log_softmax(1).gather(1, target.clamp(max=2)[:, None])[:, 0]
    loss = class_loss(logits, target, settings(Loss.CROSS_ENTROPY, WEIGHTS), 255)
    assert loss == pytest.approx(float((-log * weight).sum() / weight.sum()), abs=1e-6)


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    logits, target = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0])
    log = logits.log_softmax(1)[0]
    expected = -(0.9 * log[0] + 0.1 * log.mean())
    assert class_loss(logits, target, settings(Loss.CROSS_ENTROPY, smoothing=0.1)) == pytest.approx(float(expected))


def test_focal_loss_is_its_formula_and_torchvisions_for_two_classes(
    pixels: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, target = pixels
    p = logits.softmax(1).gather(1, target.clamp(max=2)[:, None])[:, 0]
    for weights in ((), WEIGHTS):
        weight = torch.tensor(weights)[target.clamp(max=2)] if weights else torch.ones_like(p)
        expected = (weight * (1 - p) ** 2 * -p.log())[target != 255].mean()
        loss = class_loss(logits, target, settings(Loss.FOCAL, weights), 255)
        assert loss == pytest.approx(float(expected), abs=1e-6)
    margin, label = torch.tensor([1.5, -0.3, 0.2]), torch.tensor([1, 1, 0])
    two = torch.stack([torch.zeros(3), margin], 1)
    reference = torchvision.ops.sigmoid_focal_loss(margin, label.float(), alpha=-1, gamma=2, reduction="mean")
    assert class_loss(two, label, settings(Loss.FOCAL)) == pytest.approx(float(reference), abs=1e-6)


def test_dice_is_one_less_twice_the_overlap_over_the_sizes(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pixels
    counted = (target != 255).float()
    dice = []
    for label in range(3):
        probability, mask = logits.softmax(1)[:, label] * counted, (target == label).float()
        dice.append((2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1))
    assert class_loss(logits, target, settings(Loss.DICE), 255) == pytest.approx(float(1 - sum(dice) / 3), abs=1e-6)
    perfect = F.one_hot(target.clamp(max=2), 3).movedim(-1, 1) * 100.0
    assert class_loss(perfect, target, settings(Loss.DICE), 255) == pytest.approx(0, abs=1e-6)
    both = class_loss(logits, target, settings(Loss.DICE_CROSS_ENTROPY), 255)
    parts = [class_loss(logits, target, settings(name), 255) for name in (Loss.DICE, Loss.CROSS_ENTROPY)]
    assert both == pytest.approx(float(sum(parts)), abs=1e-6)


def test_a_class_that_does_not_occur_has_no_part_in_dice() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    logits = torch.zeros(1, 3, 2, 2)
    expected = 1 - (2 * 4 / 3 + 1) / (4 / 3 + 4 + 1)
    assert class_loss(logits, target, settings(Loss.DICE), 255) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", [Loss.CROSS_ENTROPY, Loss.FOCAL])
def test_a_classifier_of_300_classes_learns_all_of_them(name: Loss) -> None:
    """Class 255 is a class like the others where there are no masks."""
    target = torch.arange(300)
    logits = torch.zeros(300, 300, requires_grad=True)
    class_loss(logits, target, settings(name)).backward()
    assert logits.grad is not None
    assert (logits.grad.diagonal() < 0).all()
    assert class_loss(torch.zeros(1, 300), torch.tensor([255]), settings(Loss.CROSS_ENTROPY)) == pytest.approx(
        math.log(300)
    )


def test_a_batch_in_which_nothing_counts_has_no_loss() -> None:
    target = torch.full((1, 2, 2), 255)
    for name in (Loss.FOCAL, Loss.DICE):
        assert float(class_loss(torch.randn(1, 3, 2, 2), target, settings(name), 255)) in (0.0, 1.0)


def test_class_weights_are_inverse_to_the_frequency_and_one_on_average() -> None:
    weights = class_weights(np.array([[1, 0, 2], [3, 4, 0]]))  # 4, 4 and 2 annotations
    assert weights == pytest.approx((10 / (3 * 4), 10 / (3 * 4), 10 / (3 * 2)))


def test_class_weights_leave_the_size_of_the_binary_loss() -> None:
    logits, target = torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])
    plain = class_loss(logits, target, settings(Loss.BINARY_CROSS_ENTROPY))
    assert plain == pytest.approx(math.log(2))
    assert class_loss(logits, target, settings(Loss.BINARY_CROSS_ENTROPY, (40.0, 1.0, 3.0))) == pytest.approx(plain)


def test_a_single_pixel_counts_as_one() -> None:
    """The mean over one pixel, and Dice of a class that has one."""
    logits, target = torch.tensor([[0.0, 1.5]]), torch.tensor([1])
    likelihood = 1 / (1 + math.exp(-1.5))
    expected = (1 - likelihood) ** 2 * -math.log(likelihood)
    assert class_loss(logits, target, settings(Loss.FOCAL)) == pytest.approx(expected, rel=1e-5)
    assert class_loss(logits, target, settings(Loss.DICE)) == pytest.approx(
        1 - (2 * likelihood + 1) / (likelihood + 2), rel=1e-5
    )


def test_the_loss_is_the_one_asked_for_or_the_architectures_own() -> None:
    classifier, detector = (entry_of(name).architecture for name in ("resnet18", "retinanet-efficientnet-lite0"))
    assert choose_losses(classifier, Training(), False) == {Loss.CROSS_ENTROPY: 1}
    assert choose_losses(classifier, Training(), True) == {Loss.FOCAL: 1}
    assert choose_losses(classifier, Training(loss=Loss.CROSS_ENTROPY), True) == {Loss.CROSS_ENTROPY: 1}
    assert choose_losses(detector, Training(loss=Loss.GIOU), False) == {Loss.GIOU: 1}
    with pytest.raises(UnsuitableLoss, match="use Default or one of Focal, SmoothL1, GIoU, DIoU, CIoU"):
        choose_losses(detector, Training(loss=Loss.DICE), False)
    summed = Training.model_validate({"losses": [{"name": "GIoU", "weight": 2}, {"name": "SmoothL1"}]})
    assert choose_losses(detector, summed, False) == {Loss.GIOU: 2, Loss.SMOOTH_L1: 1}


def test_lovasz_is_that_of_segmentation_models_pytorch(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pixels
    reference = smp.losses.LovaszLoss("multiclass", ignore_index=255)(logits, target)
    assert class_loss(logits, target, settings(Loss.LOVASZ), 255) == pytest.approx(float(reference), abs=1e-6)


def test_lovasz_of_certain_answers_is_one_less_the_intersection_over_union() -> None:
    target, answer = torch.tensor([[0, 0, 0, 1, 1, 255]]), torch.tensor([[0, 0, 1, 1, 0, 0]])
    logits = 100.0 * F.one_hot(answer, 2).movedim(-1, 1)
    assert class_loss(logits, target, settings(Loss.LOVASZ), 255) == pytest.approx(1 - (2 / 4 + 1 / 3) / 2, abs=1e-6)


def test_tversky_weighs_missed_pixels_more_than_false_ones(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pixels
    counted = (target != 255).float()
    index = []
    for label in range(3):
        p, g = logits.softmax(1)[:, label] * counted, (target == label).float()
        hit, missed, false = (p * g).sum(), ((1 - p) * g).sum(), (p * (1 - g)).sum()
        index.append((hit + 0.5) / (hit + 0.7 * missed + 0.3 * false + 0.5))
    loss = class_loss(logits, target, settings(Loss.TVERSKY), 255)
    assert loss == pytest.approx(float(1 - sum(index) / 3), abs=1e-6)


@pytest.mark.parametrize("name", [Loss.LOVASZ, Loss.TVERSKY])
def test_losses_of_regions_have_gradients_and_bear_a_batch_in_which_nothing_counts(name: Loss) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    class_loss(logits, torch.tensor([[[0, 1], [2, 2]]]), settings(name), 255).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert torch.isfinite(class_loss(logits, torch.full((1, 2, 2), 255), settings(name), 255))


def test_losses_of_boxes_are_their_formulas() -> None:
    """Boxes of 4 x 4, the second 2 to the right: IoU 1/3, hull 6 x 4 with the diagonal sqrt(52), centres 2 apart."""
    one, other = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 6, 4]])
    for name, expected in {
        Loss.IOU: 2 / 3, Loss.GIOU: 2 / 3, Loss.DIOU: 2 / 3 + 4 / 52, Loss.CIOU: 2 / 3 + 4 / 52,
    }.items():  # fmt: skip
        assert float(BOX_LOSSES[name](one, other)) == pytest.approx(expected, abs=1e-4)
    tall = torch.tensor([[2.0, 0, 6, 8]])  # IoU 8/40, hull 6 x 8, diagonal 100, centres sqrt(8) apart
    v = 4 / math.pi**2 * (math.atan(0.5) - math.atan(1)) ** 2
    expected = 0.8 + 8 / 100 + v * v / (0.8 + v)
    assert float(BOX_LOSSES[Loss.CIOU](one, tall)) == pytest.approx(expected, abs=1e-4)
    apart = torch.tensor([[8.0, 0, 12, 4]])  # hull 12 x 4
    assert float(BOX_LOSSES[Loss.GIOU](one, apart)) == pytest.approx(1 + 16 / 48, abs=1e-4)
    assert float(BOX_LOSSES[Loss.IOU](one, apart)) == 1


def test_a_sum_of_losses_has_each_by_its_weight(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pixels
    summed = LossSettings({Loss.DICE: 0.5, Loss.CROSS_ENTROPY: 0.25, Loss.LOVASZ: 2.0})
    parts = {name: float(class_loss(logits, target, settings(name), 255)) for name in summed.terms}
    expected = sum(weight * parts[name] for name, weight in summed.terms.items())
    assert class_loss(logits, target, summed, 255) == pytest.approx(expected, rel=1e-6)
    one, other = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]]), torch.tensor([[2.0, 0, 6, 4], [8, 0, 12, 4]])
    boxes = box_loss(one, other, LossSettings({Loss.IOU: 1.0, Loss.GIOU: 3.0}))
    assert boxes.tolist() == pytest.approx([4 * 2 / 3, 1 + 3 * (1 + 16 / 48)], abs=1e-4)


def test_binary_cross_entropy_is_torchs_and_timms(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pixels
    labels = F.one_hot(target.clamp(max=2), 3).movedim(-1, 1).float()
    weight = torch.tensor(WEIGHTS).view(3, 1, 1)
    reference = F.binary_cross_entropy_with_logits(logits, labels, weight, reduction="none")
    expected = reference.movedim(1, -1)[target != 255].mean()
    loss = class_loss(logits, target, settings(Loss.BINARY_CROSS_ENTROPY, WEIGHTS), 255)
    assert loss == pytest.approx(float(expected), abs=1e-6)
    images, classes = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 1, 1, 2])
    smooth = class_loss(images, classes, settings(Loss.BINARY_CROSS_ENTROPY, smoothing=0.2))
    assert smooth == pytest.approx(float(timm.loss.BinaryCrossEntropy(smoothing=0.2)(images, classes)), abs=1e-6)
    assert class_loss(logits, torch.full_like(target, 255), settings(Loss.BINARY_CROSS_ENTROPY), 255) == 0


@pytest.mark.parametrize("name", [Loss.CROSS_ENTROPY, Loss.FOCAL, Loss.BINARY_CROSS_ENTROPY])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_the_loss_of_a_mixture_is_that_of_its_classes_by_their_shares(name: Loss, weights: tuple[float, ...]) -> None:
    """As in the papers of MixUp and CutMix; and a pure image has the loss that it has without mixtures."""
    logits = torch.randn(1, 3, generator=torch.Generator().manual_seed(2))
    whole = [float(class_loss(logits, torch.tensor([label]), settings(name, weights))) for label in range(3)]
    weight = torch.tensor(weights if weights and name is Loss.CROSS_ENTROPY else (1.0, 1.0, 1.0))
    shares = torch.tensor([[0.3, 0.0, 0.7]])
    expected = sum(float(shares[0, label] * weight[label]) * whole[label] for label in range(3))
    mixture = class_loss(logits, shares, settings(name, weights))
    assert mixture == pytest.approx(expected / float((shares[0] * weight).sum()), rel=1e-5)
    for smoothing in (0.0, 0.1):
        given = settings(name, weights, smoothing)
        pure = class_loss(logits.repeat(2, 1), torch.eye(3)[[2, 0]], given)
        assert pure == pytest.approx(float(class_loss(logits.repeat(2, 1), torch.tensor([2, 0]), given)), rel=1e-5)


def test_mixtures_of_a_batch_become_shares_of_the_classes() -> None:
    mixed = ClassTargets.of([{2: 0.75, 0: 0.25}, {1: 1.0}])
    assert mixed.of_classes(3).tolist() == [[0.25, 0, 0.75], [0, 1, 0]]
    pure = ClassTargets.of([{2: 1.0}, {1: 1.0}])
    assert (pure.shares, pure.of_classes(3).tolist()) == (None, [2, 1])
