"""RetinaNet: Lin et al., "Focal Loss for Dense Object Detection" (2017), with torchvision's heads and loss."""

from __future__ import annotations

import math
from functools import partial

import torch
from fovea_api.architectures import Architecture, Option
from fovea_api.common import Task
from fovea_api.trainingjob import Loss
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from fovea_trainer.models.boxes import Anchors, decode
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import Network, Targets
from fovea_trainer.models.pyramid import STRIDES, Pyramid
from fovea_trainer.models.registry import Options, register

BOX_LOSSES = {Loss.FOCAL: "l1", Loss.SMOOTH_L1: "smooth_l1", Loss.GIOU: "giou"}
"""Loss of the boxes; that of the classes is the focal loss in all cases."""
HALF = (0.5, 0.5, 0.5)
NORM_GROUPS = 32
"""Groups of the heads' GroupNorm, as in torchvision's RetinaNet v2 (fewer where they do not divide the channels)."""


class RetinaNet(Network):
    """One-stage detector. Outputs are decoded in the graph; NMS is outside."""

    task = Task.DETECTION

    def __init__(self, pyramid: Pyramid, channels: int, anchors: Anchors, classes: int, loss: LossSettings) -> None:
        super().__init__(classes, loss)
        self.pyramid = pyramid
        self.anchors = anchors
        # Without norms the head's four layers, initialized by 0.01, let so little through that it learns late.
        norm = partial(nn.GroupNorm, math.gcd(channels, NORM_GROUPS))
        self.head = RetinaNetHead(channels, anchors.per_location, classes, norm)
        self.head.regression_head._loss_type = BOX_LOSSES[loss.name]
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)

    def backbone(self) -> nn.Module:
        return self.pyramid.body

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels, outputs = self._outputs(images)
        height, width = images.shape[-2:]
        anchors = self.anchors(images, levels)
        boxes = decode(outputs["bbox_regression"].float(), anchors, height, width)
        return boxes, outputs["cls_logits"].float().sigmoid()

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        levels, outputs = self._outputs(images)
        anchors = self.anchors(images, levels)
        matches = [self._match(boxes, anchors) for boxes in targets.boxes]
        truth = [
            {"boxes": boxes, "labels": labels} for boxes, labels in zip(targets.boxes, targets.box_labels, strict=True)
        ]
        outputs = {name: values.float() for name, values in outputs.items()}
        losses = self.head.compute_loss(truth, outputs, [anchors] * len(truth), matches)
        return {"class": losses["classification"], "box": losses["bbox_regression"]}

    def _outputs(self, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        levels = list(self.pyramid(images).values())
        return levels, self.head(levels)

    def _match(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        if len(boxes) == 0:
            return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
        match: Tensor = self.matcher(box_iou(boxes, anchors))
        return match


@register(
    Architecture(
        name="retinanet-efficientnet-lite0", task=Task.DETECTION,
        description="RetinaNet (Lin et al. 2017) on an EfficientNet-Lite0 feature pyramid.",
        width=320, height=320, multiple=16, mean=HALF, std=HALF, weights=("None", "ImageNet"), packaged=("ImageNet",),
        losses=("Focal", "SmoothL1", "GIoU"), licence="BSD-3-Clause; backbone weights Apache-2.0",
        options=(
            Option(name="fpnChannels", type="Integer", default=96, min=16, max=512,
                   description="Channels of the feature pyramid and the heads."),
            Option(name="anchorSizes", type="Numbers", default=(16, 24, 40, 60, 90, 120), min=4, max=2048,
                   lengths=(3, 6, 9, 12),
                   description="Anchor sizes in input pixels, shared out evenly to strides 8, 16 and 32."),
            Option(name="anchorRatios", type="Numbers", default=(0.7, 1.0, 1.4), min=0.05, max=20,
                   description="Height over width of the anchors."),
        ),
        notes=("The classes' loss is focal in all cases; the named loss is that of the boxes (Focal: L1).",
               "NMS is not part of the exported graph."),
    )
)  # fmt: skip
def build(info: Architecture, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> RetinaNet:
    channels, sizes = options.integer("fpnChannels"), options.numbers("anchorSizes")
    each = len(sizes) // len(STRIDES)
    levels = [sizes[level * each : (level + 1) * each] for level in range(len(STRIDES))]
    anchors = Anchors(levels, options.numbers("anchorRatios"))
    return RetinaNet(Pyramid(channels, pretrained), channels, anchors, classes, loss)
