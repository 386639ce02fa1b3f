"""Named losses of classification, segmentation and boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from fovea_api.architectures import Architecture
from fovea_api.compatibility import chosen_loss, wrong_loss
from fovea_api.errors import refuse
from fovea_api.trainingjob import Loss
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
        name: The loss; Default is the architecture's own.
        class_weights: Weight of each class, mean 1; empty: all alike.
        label_smoothing: Share of the target that is spread over all classes.
    """

    name: Loss = Loss.DEFAULT
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0


def choose_loss(architecture: Architecture, asked: Loss, focal: bool) -> Loss:
    """The loss for what was asked; `focal`: balance FocalLoss. Raises UnsuitableLoss."""
    refuse(wrong_loss(architecture, asked))
    return chosen_loss(architecture, asked, focal)


def class_loss(logits: Tensor, target: Tensor, settings: LossSettings, ignore_index: int | None = None) -> Tensor:
    """Mean loss of class logits.

    Args:
        logits: [N, C, ...].
        target: Class indices, int64 [N, ...].
        settings: What is minimized.
        ignore_index: Index in `target` that does not count (a mask's unlabelled pixels); None: all count.
    """
    weight = logits.new_tensor(settings.class_weights) if settings.class_weights else None
    ignored = NO_INDEX if ignore_index is None else ignore_index
    valid = target != ignored
    parts = []
    if settings.name in (Loss.CROSS_ENTROPY, Loss.DICE_CROSS_ENTROPY):
        smoothing = settings.label_smoothing
        parts.append(F.cross_entropy(logits, target, weight, ignore_index=ignored, label_smoothing=smoothing))
    if settings.name is Loss.FOCAL:
        parts.append(_focal(logits, target, weight, ignored) / valid.sum().clamp(min=1))
    if settings.name in (Loss.DICE, Loss.DICE_CROSS_ENTROPY):
        parts.append(_tversky(logits, target, valid, 0.5, 0.5))
    if settings.name is Loss.TVERSKY:
        parts.append(_tversky(logits, target, valid, TVERSKY_MISSES, TVERSKY_FALSE))
    if settings.name is Loss.LOVASZ:
        parts.append(_lovasz(logits, target, valid))
    return torch.stack(parts).sum()


def _focal(logits: Tensor, target: Tensor, weight: Tensor | None, ignored: int) -> Tensor:
    """Sum of the focal loss over what counts."""
    loss = F.cross_entropy(logits, target, ignore_index=ignored, reduction="none")
    loss = (1 - torch.exp(-loss)) ** FOCAL_GAMMA * loss
    if weight is not None:
        loss = loss * weight[torch.where(target == ignored, 0, target)]
    return loss.sum()


def _tversky(logits: Tensor, target: Tensor, valid: Tensor, misses: float, false: float) -> Tensor:
    """1 - the soft Tversky index, mean over the classes that occur. With weights of a half it is the soft Dice loss of
    Milletari et al., "V-Net" (2016), of which numerator and denominator are counted twice here."""
    labels = F.one_hot(torch.where(valid, target, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    mask = valid.unsqueeze(1)
    probability, labels = logits.softmax(1) * mask, labels * mask
    axes = [0, *range(2, logits.ndim)]
    size, hit = labels.sum(axes), (probability * labels).sum(axes)
    missed, wrong = size - hit, probability.sum(axes) - hit
    index = (2 * hit + 1) / (2 * (hit + misses * missed + false * wrong) + 1)
    occurs = size > 0
    return 1 - (index * occurs).sum() / occurs.sum().clamp(min=1)


def _lovasz(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The Lovász extension of 1 - intersection over union, mean over the classes that occur: Berman et al., "The
    Lovász-Softmax loss" (2018)."""
    probability = logits.softmax(1).movedim(1, -1)[valid]
    labels = F.one_hot(target[valid], logits.shape[1]).to(logits.dtype)
    errors, order = (labels - probability).abs().sort(0, descending=True)
    labels = labels.gather(0, order)
    size = labels.sum(0)
    jaccard = 1 - (size - labels.cumsum(0)) / (size + (1 - labels).cumsum(0)).clamp(min=1)
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    occurs = size > 0
    return ((errors * steps).sum(0) * occurs).sum() / occurs.sum().clamp(min=1)


def paired_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of pairs of boxes xyxy [N, 4], [N]."""
    low, high = one[:, :2].maximum(other[:, :2]), one[:, 2:].minimum(other[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-7)
