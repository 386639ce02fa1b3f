"""Named losses of classification, segmentation and boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from fovea_api.architectures import Architecture
from fovea_api.compatibility import chosen_losses, wrong_losses
from fovea_api.errors import refuse
from fovea_api.trainingjob import Loss, Training
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

NO_INDEX = -100
"""torch's index for what does not count, where nothing is ignored: no class has it."""
BOX_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    Loss.IOU: lambda predicted, target: 1 - paired_iou(predicted, target),
    Loss.GIOU: generalized_box_iou_loss,
    Loss.DIOU: distance_box_iou_loss,
    Loss.CIOU: complete_box_iou_loss,
}
"""Losses of boxes xyxy [N, 4] against the boxes of their objects, [N]: 1 - IoU, and with what draws boxes together that
do not overlap: Rezatofighi et al., "Generalized IoU" (2019); Zheng et al., "Distance-IoU" and "Complete IoU" (2020)."""
TVERSKY_MISSES, TVERSKY_FALSE = 0.7, 0.3
"""Weights of missed and of falsely found pixels: Salehi et al., "Tversky loss function" (2017)."""
FOCAL_GAMMA = 2.0
"""Focusing of Lin et al., "Focal Loss for Dense Object Detection" (2017)."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """What is minimized.

    Args:
        terms: The losses whose sum it is, with their weights; empty: the architecture's own.
        class_weights: Weight of each class, 1 on average over what is labelled; empty: all alike.
        label_smoothing: Share of the target that is spread over all classes.
    """

    terms: Mapping[Loss, float] = field(default_factory=dict)
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0


def choose_losses(architecture: Architecture, training: Training, focal: bool) -> Mapping[Loss, float]:
    """The losses of a recipe with their weights; `focal`: balance FocalLoss. Raises UnsuitableLoss."""
    refuse(wrong_losses(architecture, training))
    return chosen_losses(architecture, training, focal)


def box_loss(predicted: Tensor, target: Tensor, settings: LossSettings) -> Tensor:
    """Loss of boxes xyxy [N, 4] against the boxes of their objects, [N]."""
    return torch.stack([weight * BOX_LOSSES[name](predicted, target) for name, weight in settings.terms.items()]).sum(0)


def object_weights(count: int, at: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Weight of each prediction of a detector in the loss of its classes, float32 [count].

    A prediction counts by the weight of its object's class, in all of its scores; one of the background counts 1.

    Args:
        count: Number of predictions.
        at: Which of them have an object: a mask [count], or K indices.
        labels: Classes of the objects of these, int64 [K].
        settings: What is minimized.
    """
    weights = torch.ones(count, device=labels.device)
    if settings.class_weights:
        weights[at] = weights.new_tensor(settings.class_weights)[labels]
    return weights


def class_loss(logits: Tensor, target: Tensor, settings: LossSettings, ignore_index: int | None = None) -> Tensor:
    """Mean loss of class logits.

    Args:
        logits: [N, C, ...].
        target: Class indices, int64 [N, ...]; or for losses of single places the share of each class, [N, C, ...],
            as mixed images have them: then the loss is that of each class by its share.
        settings: What is minimized.
        ignore_index: Index in `target` that does not count (a mask's unlabelled pixels); None: all count.
    """
    ignored = NO_INDEX if ignore_index is None else ignore_index
    return torch.stack(
        [weight * _CLASS_LOSSES[name](logits, target, settings, ignored) for name, weight in settings.terms.items()]
    ).sum()


def _weights(logits: Tensor, settings: LossSettings) -> Tensor:
    """Weight of each class, [C]."""
    return logits.new_tensor(settings.class_weights) if settings.class_weights else logits.new_ones(logits.shape[1])


def _cross_entropy(logits: Tensor, target: Tensor, settings: LossSettings, ignored: int) -> Tensor:
    """Mean over what counts, by the weights of the true classes."""
    smoothing = settings.label_smoothing
    if not target.is_floating_point():
        weight = _weights(logits, settings) if settings.class_weights else None
        return F.cross_entropy(logits, target, weight, ignore_index=ignored, label_smoothing=smoothing)
    weighted = _weights(logits, settings).view(1, -1, *[1] * (logits.ndim - 2))
    smooth = target * (1 - smoothing) + smoothing / logits.shape[1]
    return -(smooth * weighted * logits.log_softmax(1)).sum() / (target * weighted).sum()


def _focal(logits: Tensor, target: Tensor, settings: LossSettings, ignored: int) -> Tensor:
    """Mean over what counts, whatever the weights of the classes."""
    shares, valid = _shares(logits, target, ignored)
    weight = _weights(logits, settings).view(1, -1, *[1] * (logits.ndim - 2))
    log = logits.log_softmax(1)
    loss = (shares * weight * (1 - log.exp()) ** FOCAL_GAMMA * -log).sum()
    return loss / valid.sum().clamp(min=1)


def _binary_cross_entropy(logits: Tensor, target: Tensor, settings: LossSettings, ignored: int) -> Tensor:
    """Mean over classes, by their weights, and what counts: of each class against all others, as in Wightman et al.,
    "ResNet Strikes Back" (2021)."""
    shares, valid = _shares(logits, target, ignored)
    smooth = shares * (1 - settings.label_smoothing) + settings.label_smoothing / logits.shape[1]
    weight = _weights(logits, settings)
    weight = (weight / weight.mean()).view(-1, *[1] * (logits.ndim - 2))
    loss = F.binary_cross_entropy_with_logits(logits, smooth, weight, reduction="none") * valid.unsqueeze(1)
    return loss.sum() / (valid.sum() * logits.shape[1]).clamp(min=1)


def _shares(logits: Tensor, target: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """The share of each class, [N, C, ...], 0 where it does not count; and whether it does, [N, ...]."""
    if target.is_floating_point():
        return target, torch.ones_like(target[:, 0], dtype=torch.bool)
    valid = target != ignored
    shares = F.one_hot(torch.where(valid, target, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return shares * valid.unsqueeze(1), valid


def _dice(logits: Tensor, target: Tensor, settings: LossSettings, ignored: int) -> Tensor:
    """The soft Dice loss of Milletari et al., "V-Net" (2016)."""
    return _regions(logits, target, ignored, 0.5, 0.5)


def _dice_cross_entropy(logits: Tensor, target: Tensor, settings: LossSettings, ignored: int) -> Tensor:
    return _cross_entropy(logits, target, settings, ignored) + _dice(logits, target, settings, ignored)


def _tversky(logits: Tensor, target: Tensor, settings: LossSettings, ignored: int) -> Tensor:
    return _regions(logits, target, ignored, TVERSKY_MISSES, TVERSKY_FALSE)


def _regions(logits: Tensor, target: Tensor, ignored: int, misses: float, false: float) -> Tensor:
    """1 - the soft Tversky index, mean over the classes that occur. With weights of a half it is the soft Dice index,
    of which numerator and denominator are counted twice here."""
    labels, valid = _shares(logits, target, ignored)
    probability = logits.softmax(1) * valid.unsqueeze(1)
    axes = [0, *range(2, logits.ndim)]
    size, hit = labels.sum(axes), (probability * labels).sum(axes)
    missed, wrong = size - hit, probability.sum(axes) - hit
    index = (2 * hit + 1) / (2 * (hit + misses * missed + false * wrong) + 1)
    occurs = size > 0
    return 1 - (index * occurs).sum() / occurs.sum().clamp(min=1)


def _lovasz(logits: Tensor, target: Tensor, settings: LossSettings, ignored: int) -> Tensor:
    """The Lovász extension of 1 - intersection over union, mean over the classes that occur: Berman et al., "The
    Lovász-Softmax loss" (2018)."""
    valid = target != ignored
    probability = logits.softmax(1).movedim(1, -1)[valid]
    labels = F.one_hot(target[valid], logits.shape[1]).to(logits.dtype)
    errors, order = (labels - probability).abs().sort(0, descending=True)
    labels = labels.gather(0, order)
    size = labels.sum(0)
    jaccard = 1 - (size - labels.cumsum(0)) / (size + (1 - labels).cumsum(0)).clamp(min=1)
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    occurs = size > 0
    return ((errors * steps).sum(0) * occurs).sum() / occurs.sum().clamp(min=1)


_CLASS_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor, LossSettings, int], Tensor]] = {
    Loss.CROSS_ENTROPY: _cross_entropy,
    Loss.BINARY_CROSS_ENTROPY: _binary_cross_entropy,
    Loss.FOCAL: _focal,
    Loss.DICE: _dice,
    Loss.DICE_CROSS_ENTROPY: _dice_cross_entropy,
    Loss.TVERSKY: _tversky,
    Loss.LOVASZ: _lovasz,
}
"""Mean losses of logits [N, C, ...], targets, settings, and the index that does not count."""


def paired_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of pairs of boxes xyxy [N, 4], [N]."""
    low, high = one[:, :2].maximum(other[:, :2]), one[:, 2:].minimum(other[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-7)
