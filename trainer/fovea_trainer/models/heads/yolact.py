"""A one-stage instance segmenter: the prototype masks of Bolya et al., "YOLACT" (2019), on the points of the
anchor-free YOLO.

An object's mask is a weighted sum of prototypes that the network draws for the whole image; its point predicts the
weights. The graph keeps a fixed number of boxes, thinned by the paper's Fast NMS, each with its mask on a grid over it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fovea_api.architectures import Option
from fovea_api.common import Task
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import CANDIDATES_PER_BOX, chosen, clipped, thin
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.detection import PRESET
from fovea_trainer.models.heads.yolo import (
    BOX_LOSSES,
    NECK_OPTIONS,
    NOTES,
    Branch,
    PointDetector,
    RawPoints,
    at_points,
)
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.path_aggregation import PathAggregation, conv
from fovea_trainer.models.pyramid import BODY_STRIDES
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets

PROTOTYPE_STRIDE = BODY_STRIDES[0] // 2
"""Of the prototypes, in input pixels."""
MASK_SIDE = 28
"""Side of a mask's grid in the output, in cells."""
MASK_WEIGHT = 6.125
"""Of the masks' part of the loss, as in the paper."""
MASKED_POINTS = 100
"""Points of an image whose masks are learned at most, as in the paper; each is as large as the prototypes."""


@dataclass(frozen=True, slots=True)
class RawMasks(RawPoints):
    """Raw outputs of N images with A points and P prototypes.

    Args:
        coefficients: Weight of each prototype in the mask of a point's object, -1 to 1, [N, A, P].
        prototypes: Not negative, [N, P, H / PROTOTYPE_STRIDE, W / PROTOTYPE_STRIDE].
    """

    coefficients: Tensor
    prototypes: Tensor


class Prototypes(nn.Sequential):
    """The paper's protonet: prototypes at twice the resolution of the features."""

    def __init__(self, channels: int, prototypes: int) -> None:
        super().__init__(
            *(conv(channels, channels, 3) for _ in range(3)),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv(channels, channels, 3),
            nn.Conv2d(channels, prototypes, 1),
            nn.ReLU(),
        )


class Yolact(PointDetector[RawMasks, InstanceTargets]):
    """One-stage detector whose points also say how the prototypes make up the mask of their object."""

    task = Task.INSTANCE_SEGMENTATION
    chooses_boxes = True

    def __init__(
        self, neck: PathAggregation, channels: int, prototypes: int, objects: int, classes: int, loss: LossSettings
    ) -> None:
        super().__init__(neck, channels, classes, loss)
        self.objects = objects
        self.prototypes = Prototypes(channels, prototypes)
        self.of_masks = nn.ModuleList(Branch(channels, torch.zeros(prototypes)) for _ in BODY_STRIDES)

    def forward(self, images: Tensor) -> RawMasks:
        levels = self.neck(images)
        raw = self.points_of(levels, images)
        coefficients = at_points(self.of_masks, levels).tanh()
        return RawMasks(
            raw.logits, raw.sides, raw.points, raw.strides, raw.size, coefficients, self.prototypes(levels[0])
        )

    def loss(self, raw: RawMasks, targets: InstanceTargets) -> dict[str, Tensor]:
        parts, assignments = self.assigned_loss(raw, targets)
        of_images = []
        for image, assignment in enumerate(assignments):
            some = torch.randperm(len(assignment.points), device=raw.points.device)[:MASKED_POINTS]
            # Of hundreds of objects those that a point learns are drawn at full size.
            objects, index = torch.unique(assignment.objects[some], return_inverse=True)
            coefficients, prototypes = raw.coefficients[image, assignment.points[some]].float(), raw.prototypes[image]
            logits = (coefficients @ prototypes.float().flatten(1)).reshape(len(some), *prototypes.shape[1:])
            masks = shrunk(targets.masks(image, objects), prototypes.shape[1:])
            boxes = targets.boxes[image][objects]
            of_images.append(mask_loss(logits, masks[index], boxes[index]))
        parts["mask"] = MASK_WEIGHT * torch.stack(of_images).mean()
        return parts

    def decode(self, raw: RawMasks) -> dict[str, Tensor]:
        boxes, scores = clipped(raw.boxes, *raw.size), raw.logits.float().sigmoid()
        index = scores.amax(-1).topk(min(CANDIDATES_PER_BOX * self.objects, scores.shape[1]), 1).indices
        index = index.gather(1, thin(chosen(boxes, index), self.objects))
        boxes, coefficients = chosen(boxes, index), chosen(raw.coefficients.float(), index)
        masks = coefficients @ raw.prototypes.float().flatten(2)
        return {"boxes": boxes, "scores": chosen(scores, index), "masks": over_boxes(masks, raw, boxes).sigmoid()}


def over_boxes(masks: Tensor, raw: RawMasks, boxes: Tensor) -> Tensor:
    """Values on a grid over each box, [N, K, MASK_SIDE, MASK_SIDE], of whole masks [N, K, h w] and boxes [N, K, 4]."""
    height, width = raw.prototypes.shape[-2:]
    maps = masks.reshape(-1, 1, height, width)
    own = torch.arange(maps.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None]
    rois = torch.cat([own, boxes.flatten(0, 1)], 1)
    side = (MASK_SIDE, MASK_SIDE)
    parts: Tensor = roi_align(maps, rois, side, 1 / PROTOTYPE_STRIDE, sampling_ratio=1, aligned=True)
    return parts.reshape(-1, boxes.shape[1], *side)


def shrunk(masks: Tensor, size: torch.Size) -> Tensor:
    """Masks bool [K, H, W] at a smaller size, float32 [K, h, w]: 1 where most of a cell is of the object."""
    return (F.adaptive_avg_pool2d(masks[:, None].float(), (size[0], size[1]))[:, 0] > 0.5).float()


def mask_loss(logits: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    """The paper's: binary cross-entropy within the box of the object, over the box's area; mean over the points.

    Args:
        logits: [K, h, w], at PROTOTYPE_STRIDE.
        masks: The object of each, 0 or 1, [K, h, w].
        boxes: Of the objects, xyxy in input pixels, [K, 4].
    """
    if not len(logits):
        return logits.sum()
    height, width = logits.shape[1:]
    y, x = (torch.arange(count, device=logits.device) for count in (height, width))
    # Every cell that the box touches.
    low, high = (boxes[:, :2] / PROTOTYPE_STRIDE).floor(), (boxes[:, 2:] / PROTOTYPE_STRIDE).ceil()
    rows = (y >= low[:, 1:]) & (y < high[:, 1:])
    columns = (x >= low[:, :1]) & (x < high[:, :1])
    inside = rows[:, :, None] & columns[:, None, :]
    each = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return ((each * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).mean()


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Yolact:
    channels = options.integer("neckChannels")
    neck = PathAggregation(body, channels, options.integer("depth"), pretrained)
    return Yolact(neck, channels, options.integer("prototypes"), options.integer("objects"), classes, loss)


YOLACT = Head(
    "yolact", task=Task.INSTANCE_SEGMENTATION, losses=BOX_LOSSES, build=build,
    options=(
        *NECK_OPTIONS,
        Option(name="prototypes", type="Integer", default=32, min=4, max=256,
               description="Masks of the whole image that an object's mask is a weighted sum of."),
        Option(name="objects", type="Integer", default=100, min=16, max=2000,
               description="Most objects of an image; the number of boxes in the exported output."),
    ),
    size=(320, 320), multiple=32,
    notes=(*NOTES, f"Every box has a mask of {MASK_SIDE} x {MASK_SIDE}, drawn at a stride of {PROTOTYPE_STRIDE}.",
           "Boxes are thinned by Fast NMS in the graph; the final NMS is not part of it."),
    preset=PRESET, focal=True,
)  # fmt: skip
register(YOLACT)
