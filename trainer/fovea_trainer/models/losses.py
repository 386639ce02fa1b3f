"""Named losses of classification and segmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fovea_api.architectures import Architecture
from fovea_api.compatibility import chosen_loss, wrong_loss
from fovea_api.errors import refuse
from fovea_api.trainingjob import Loss
from torch import Tensor
from torch.nn import functional as F

NO_INDEX = -100
"""torch's index for what does not count, where nothing is ignored: no class has it."""
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
        parts.append(_dice(logits, target, valid))
    return torch.stack(parts).sum()


def _focal(logits: Tensor, target: Tensor, weight: Tensor | None, ignored: int) -> Tensor:
    """Sum of the focal loss over what counts."""
    loss = F.cross_entropy(logits, target, ignore_index=ignored, reduction="none")
    loss = (1 - torch.exp(-loss)) ** FOCAL_GAMMA * loss
    if weight is not None:
        loss = loss * weight[torch.where(target == ignored, 0, target)]
    return loss.sum()


def _dice(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - soft Dice, mean over the classes that occur; Milletari et al., "V-Net" (2016)."""
    labels = F.one_hot(torch.where(valid, target, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    mask = valid.unsqueeze(1)
    probability, labels = logits.softmax(1) * mask, labels * mask
    axes = [0, *range(2, logits.ndim)]
    size = labels.sum(axes)
    dice = (2 * (probability * labels).sum(axes) + 1) / (probability.sum(axes) + size + 1)
    occurs = size > 0
    return 1 - (dice * occurs).sum() / occurs.sum().clamp(min=1)
