"""Mask R-CNN: He et al. (2017), Faster R-CNN with torchvision's mask head and loss, made to export cleanly.

torchvision masks what is left after the final NMS, whose number depends on the image. Here every proposal has a mask: a
fixed number, of its refined box and its best class.
"""

from __future__ import annotations

import torch
from fovea_api.architectures import Option
from fovea_api.common import Task
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_loss

from fovea_trainer.models.anchors import Anchors
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.detection import PRESET, anchors_for
from fovea_trainer.models.heads.fasterrcnn import (
    NOTES,
    SIZES_PER_LEVEL,
    FasterRCNN,
    LevelPool,
    RawProposals,
    fit,
    fixed_proposals,
    proposal_options,
    rois_of,
)
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.pyramid import Pyramid
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets

MASK_POOL = 14
"""Side of a proposal that is pooled for its mask, in cells; the mask has twice as many."""
MASK_LAYERS = 4
"""Convolutions of the mask head."""


class MaskRCNN(FasterRCNN[InstanceTargets]):
    """Faster R-CNN with a branch that says of each pixel of a proposal whether it is of the object."""

    task = Task.INSTANCE_SEGMENTATION

    def __init__(
        self, pyramid: Pyramid, channels: int, anchors: Anchors, proposals: int, mask_channels: int, classes: int,
        loss: LossSettings,
    ) -> None:  # fmt: skip
        super().__init__(pyramid, channels, anchors, proposals, classes, loss)
        self.mask_pool = LevelPool(MASK_POOL)
        self.mask_head = MaskRCNNHeads(channels, [mask_channels] * MASK_LAYERS, 1)
        self.mask_predictor = MaskRCNNPredictor(mask_channels, mask_channels, classes)

    def traced(self, images: Tensor) -> list[Tensor]:
        features = self(images).features
        return [*super().traced(images), self._mask_logits(self.mask_pool(features, fixed_proposals(images)))]

    def loss(self, raw: RawProposals, targets: InstanceTargets) -> dict[str, Tensor]:
        """The losses of Faster R-CNN and that of the masks, after torchvision's RoIHeads.forward: binary
        cross-entropy on the mask of the object's class, of the proposals that are matched with one."""
        parts, sampled = self.sampled_loss(raw, targets)
        positive = [labels > 0 for labels in sampled.labels]
        proposals = [boxes[chosen] for boxes, chosen in zip(sampled.proposals, positive, strict=True)]
        objects = [index[chosen] for index, chosen in zip(sampled.objects, positive, strict=True)]
        logits = self._mask_logits(self.mask_pool(raw.features, proposals))
        # Of hundreds of objects those that a proposal is matched with are drawn at full size.
        unique = [torch.unique(index, return_inverse=True) for index in objects]
        masks = [targets.masks(image, index) for image, (index, _) in enumerate(unique)]
        labels = [of_image[index] for of_image, (index, _) in zip(targets.labels, unique, strict=True)]
        parts["mask"] = maskrcnn_loss(logits, proposals, masks, labels, [inverse for _, inverse in unique])
        return parts

    def decode(self, raw: RawProposals) -> dict[str, Tensor]:
        outputs = super().decode(raw)
        logits = self._mask_logits(self.mask_pool.pool(raw.features, rois_of(outputs["boxes"])))
        best = outputs["scores"].argmax(-1).flatten()
        side = logits.shape[-1]
        masks = logits.gather(1, best[:, None, None, None].expand(-1, 1, side, side)).sigmoid()
        return {**outputs, "masks": masks.reshape(*outputs["boxes"].shape[:2], side, side)}

    def _mask_logits(self, pooled: Tensor) -> Tensor:
        """[R, C, 2 MASK_POOL, 2 MASK_POOL] of pooled proposals [R, channels, MASK_POOL, MASK_POOL]."""
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits.float()


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> MaskRCNN:
    channels = options.integer("fpnChannels")
    anchors = anchors_for(options, SIZES_PER_LEVEL)
    pyramid = Pyramid(body, channels, anchors.strides, pretrained)
    return MaskRCNN(
        pyramid, channels, anchors, options.integer("proposals"), options.integer("maskChannels"), classes, loss
    )


MASK_RCNN = Head(
    "maskrcnn", task=Task.INSTANCE_SEGMENTATION, losses=("CrossEntropy",), build=build, fit=fit,
    options=(
        *proposal_options(100),
        Option(name="maskChannels", type="Integer", default=64, min=16, max=512,
               description="Channels of the mask head's four convolutions, which take most of the time."),
    ),
    size=(320, 320), multiple=16, licence="BSD-3-Clause",
    notes=(*NOTES, "Every proposal has a mask of 28 x 28, of its best class."),
    preset=PRESET,
)  # fmt: skip
register(MASK_RCNN)
