"""RetinaNet: Lin et al., "Focal Loss for Dense Object Detection" (2017), with torchvision's heads and loss."""

from __future__ import annotations

import math
from functools import partial

import torch
from fovea_api.architectures import Option
from fovea_api.common import Task
from fovea_api.trainingjob import Loss
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from fovea_trainer.models.anchors import MATCH_IOU, Anchors
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import decode
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.detection import (
    PRESET,
    RawBoxes,
    anchor_options,
    anchors_for,
    fit_anchor_options,
    match,
)
from fovea_trainer.models.losses import LossSettings, object_weights
from fovea_trainer.models.network import Network
from fovea_trainer.models.pyramid import Pyramid
from fovea_trainer.tasks.detection.targets import BoxTargets

BOX_LOSSES = {Loss.FOCAL: "l1", Loss.SMOOTH_L1: "smooth_l1", Loss.GIOU: "giou", Loss.DIOU: "diou", Loss.CIOU: "ciou"}
"""Loss of the boxes; that of the classes is the focal loss in all cases."""
NORM_GROUPS = 32
"""Groups of the heads' GroupNorm, as in torchvision's RetinaNet v2 (fewer where they do not divide the channels)."""
BACKGROUND_IOU = 0.4
"""Overlap below which an anchor is background; between it and MATCH_IOU it does not count."""
SIZES_PER_LEVEL = 2


class RetinaNet(Network[RawBoxes, BoxTargets]):
    """One-stage detector. Outputs are decoded in the graph; NMS is outside."""

    task = Task.DETECTION

    def __init__(self, pyramid: Pyramid, channels: int, anchors: Anchors, classes: int, loss: LossSettings) -> None:
        super().__init__(classes, loss)
        self.pyramid = pyramid
        self.anchors = anchors
        # Without norms the head's four layers, initialized by 0.01, let so little through that it learns late.
        norm = partial(nn.GroupNorm, math.gcd(channels, NORM_GROUPS))
        self.head = RetinaNetHead(channels, anchors.per_location, classes, norm)
        self.matcher = Matcher(MATCH_IOU, BACKGROUND_IOU, allow_low_quality_matches=True)

    def backbone(self) -> nn.Module:
        return self.pyramid.body

    def forward(self, images: Tensor) -> RawBoxes:
        levels = self.pyramid(images)
        outputs = self.head(levels)
        size = (images.shape[-2], images.shape[-1])
        return RawBoxes(outputs["cls_logits"], outputs["bbox_regression"], self.anchors(levels), size)

    def loss(self, raw: RawBoxes, targets: BoxTargets) -> dict[str, Tensor]:
        matches = [match(self.matcher, boxes, raw.anchors) for boxes in targets.boxes]
        objects = [
            {"boxes": boxes, "labels": labels} for boxes, labels in zip(targets.boxes, targets.labels, strict=True)
        ]
        outputs = {"cls_logits": raw.logits.float(), "bbox_regression": raw.deltas.float()}
        of_boxes, boxes = self.head.regression_head, []
        for name, weight in self.loss_settings.terms.items():
            of_boxes._loss_type = BOX_LOSSES[name]
            boxes.append(weight * of_boxes.compute_loss(objects, outputs, [raw.anchors] * len(objects), matches))
        of_classes = map(self._class_loss, outputs["cls_logits"], targets.labels, matches)
        return {"class": torch.stack(list(of_classes)).mean(), "box": torch.stack(boxes).sum()}

    def _class_loss(self, logits: Tensor, labels: Tensor, matched: Tensor) -> Tensor:
        """Of one image, over the number of anchors that have an object."""
        positive, counted = matched >= 0, matched != Matcher.BETWEEN_THRESHOLDS
        classes = labels[matched[positive]]
        expected = torch.zeros_like(logits)
        expected[positive, classes] = 1
        weights = object_weights(len(logits), positive, classes, self.loss_settings)
        errors: Tensor = sigmoid_focal_loss(logits, expected).sum(1) * weights
        return errors[counted].sum() / positive.sum().clamp(min=1)

    def decode(self, raw: RawBoxes) -> dict[str, Tensor]:
        boxes = decode(raw.deltas.float(), raw.anchors, *raw.size)
        return {"boxes": boxes, "scores": raw.logits.float().sigmoid()}


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> RetinaNet:
    channels = options.integer("fpnChannels")
    anchors = anchors_for(options, SIZES_PER_LEVEL)
    return RetinaNet(Pyramid(body, channels, anchors.strides, pretrained), channels, anchors, classes, loss)


RETINANET = Head(
    "retinanet", task=Task.DETECTION, losses=("Focal", "SmoothL1", "GIoU", "DIoU", "CIoU"), build=build,
    fit=partial(fit_anchor_options, sizes_per_level=SIZES_PER_LEVEL),
    options=(
        Option(name="fpnChannels", type="Integer", default=96, min=16, max=512,
               description="Channels of the feature pyramid and the heads."),
        *anchor_options(),
    ),
    size=(320, 320), multiple=16, licence="BSD-3-Clause",
    notes=("The classes' loss is focal in all cases; the named loss is that of the boxes (Focal: L1).",
           "NMS is not part of the exported graph."),
    preset=PRESET, focal=True,
)  # fmt: skip
register(RETINANET)
