"""SSD: Liu et al., "SSD: Single Shot MultiBox Detector" (2016), and SSDLite: Sandler et al., "MobileNetV2" (2018), with
torchvision's heads and matcher."""

from __future__ import annotations

from functools import partial

import torch
from fovea_api.architectures import Option
from fovea_api.common import Task
from fovea_api.trainingjob import Loss
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.ssd import SSDHead
from torchvision.models.detection.ssdlite import SSDLiteHead

from fovea_trainer.models.anchors import MATCH_IOU, Anchors
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import decode
from fovea_trainer.models.extra_levels import ExtraLevels
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.detection import (
    PRESET,
    RawBoxes,
    anchor_options,
    anchors_for,
    fit_anchor_options,
    match,
    mean_losses,
)
from fovea_trainer.models.losses import LossSettings, object_weights
from fovea_trainer.models.network import Network
from fovea_trainer.models.norms import BatchNorm
from fovea_trainer.tasks.detection.targets import BoxTargets

SIZES_PER_LEVEL = 2
NEGATIVES_PER_POSITIVE = 3
"""Anchors without an object, those of the largest loss, that count for each one with an object."""
REGRESSION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""The inverse variances 0.1 and 0.2 of the paper's implementation."""


class SSD(Network[RawBoxes, BoxTargets]):
    """One-stage detector on unmerged feature maps, whose anchors the paper calls default boxes. Outputs are decoded in
    the graph; NMS is outside."""

    task = Task.DETECTION

    def __init__(self, neck: ExtraLevels, anchors: Anchors, separable: bool, classes: int, loss: LossSettings) -> None:
        super().__init__(classes, loss)
        self.neck, self.anchors = neck, anchors
        per_level = [anchors.per_location] * len(neck.channels)
        self.head: nn.Module = (
            SSDLiteHead(neck.channels, per_level, classes + 1, BatchNorm)
            if separable
            else SSDHead(neck.channels, per_level, classes + 1)
        )
        self.matcher, self.coder = SSDMatcher(MATCH_IOU), BoxCoder(REGRESSION_WEIGHTS)

    def backbone(self) -> nn.Module:
        return self.neck.body

    def forward(self, images: Tensor) -> RawBoxes:
        levels = self.neck(images)
        outputs = self.head(levels)
        size = (images.shape[-2], images.shape[-1])
        return RawBoxes(outputs["cls_logits"], outputs["bbox_regression"], self.anchors(levels), size)

    def loss(self, raw: RawBoxes, targets: BoxTargets) -> dict[str, Tensor]:
        parts = [
            self._of_image(logits, deltas, raw.anchors, boxes, labels)
            for logits, deltas, boxes, labels in zip(
                raw.logits.float(), raw.deltas.float(), targets.boxes, targets.labels, strict=True
            )
        ]
        return mean_losses(("class", "box"), parts)

    def decode(self, raw: RawBoxes) -> dict[str, Tensor]:
        boxes = decode(raw.deltas.float(), raw.anchors, *raw.size, REGRESSION_WEIGHTS)
        return {"boxes": boxes, "scores": raw.logits.float().softmax(-1)[..., 1:]}

    def _of_image(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy with hard negatives, and smooth L1, both over the number of anchors with an object. An image
        without objects has the negatives of one anchor, for else it would teach nothing."""
        matched = match(self.matcher, boxes, anchors)
        positive = matched >= 0
        expected = torch.zeros_like(matched)  # background
        expected[positive] = labels[matched[positive]] + 1
        errors, count = F.cross_entropy(logits, expected, reduction="none"), positive.sum().clamp(min=1)
        rank = errors.detach().masked_fill(positive, -torch.inf).argsort(descending=True).argsort()
        counted = positive | (rank < NEGATIVES_PER_POSITIVE * count)
        target = self.coder.encode_single(boxes[matched[positive]], anchors[positive])
        box = F.smooth_l1_loss(deltas[positive], target, reduction="sum")
        weights = object_weights(len(logits), positive, labels[matched[positive]], self.loss_settings)
        return (errors * counted * weights).sum() / count, box / count


def head(name: str, separable: bool) -> Head:
    """The head with full convolutions, or with separable ones."""

    def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> SSD:
        anchors = anchors_for(options, SIZES_PER_LEVEL)
        neck = ExtraLevels(body, options.integer("extraChannels"), anchors.strides, separable, pretrained)
        return SSD(neck, anchors, separable, classes, loss)

    return Head(
        name, task=Task.DETECTION, losses=(Loss.SMOOTH_L1,), build=build,
        fit=partial(fit_anchor_options, sizes_per_level=SIZES_PER_LEVEL),
        options=(
            Option(name="extraChannels", type="Integer", default=256, min=16, max=1024,
                   description="Channels of the levels that are coarser than the backbone's; an even number."),
            *anchor_options(),
        ),
        size=(320, 320), multiple=16, licence="BSD-3-Clause",
        notes=("The named loss is that of the boxes; that of the classes is cross-entropy with hard negatives.",
               "NMS is not part of the exported graph."),
        preset=PRESET,
    )  # fmt: skip


SSD_HEAD = register(head("ssd", separable=False))
SSDLITE_HEAD = register(head("ssdlite", separable=True))
