"""Named losses of classification and segmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fovea_api.architectures import Architecture
from fovea_api.errors import refuse
from fovea_api.impossible import chosen_loss, wrong_loss
from fovea_api.trainingjob import Loss
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
"""Class index of a mask's pixels that count nowhere."""
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


def class_loss(logits: Tensor, target: Tensor, settings: LossSettings) -> Tensor:
    """Mean loss of class logits [N, C, ...] against class indices [N, ...]; pixels of IGNORE do not count."""
    weight = logits.new_tensor(settings.class_weights) if settings.class_weights else None
    valid = target != IGNORE
    parts = []
    if settings.name in (Loss.CROSS_ENTROPY, Loss.DICE_CROSS_ENTROPY):
        parts.append(_cross_entropy(logits, target, weight, settings.label_smoothing))
    if settings.name is Loss.FOCAL:
        loss = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
        loss = (1 - torch.exp(-loss)) ** FOCAL_GAMMA * loss
        if weight is not None:
            loss = loss * weight[target.clamp(max=logits.shape[1] - 1)]
        parts.append(loss[valid].sum() / valid.sum().clamp(min=1))
    if settings.name in (Loss.DICE, Loss.DICE_CROSS_ENTROPY):
        parts.append(_dice(logits, target, valid))
    return torch.stack(parts).sum()


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, target, weight=weight, ignore_index=IGNORE, label_smoothing=smoothing)


def _dice(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - soft Dice, mean over the classes that occur; Milletari et al., "V-Net" (2016)."""
    classes = logits.shape[1]
    truth = F.one_hot(target.clamp(max=classes - 1), classes).movedim(-1, 1).to(logits.dtype)
    mask = valid.unsqueeze(1)
    probability, truth = logits.softmax(1) * mask, truth * mask
    axes = [0, *range(2, logits.ndim)]
    size = truth.sum(axes)
    dice = (2 * (probability * truth).sum(axes) + 1) / (probability.sum(axes) + size + 1)
    occurs = size > 0
    return 1 - (dice * occurs).sum() / occurs.sum().clamp(min=1)
