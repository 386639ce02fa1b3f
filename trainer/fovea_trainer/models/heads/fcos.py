"""FCOS: Tian et al., "FCOS: A Simple and Strong Anchor-free Object Detector" (2020), with torchvision's heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from fovea_api.architectures import Option
from fovea_api.common import Task
from fovea_api.trainingjob import Loss
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.ops import sigmoid_focal_loss

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import clipped
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.detection import PRESET, mean_losses
from fovea_trainer.models.losses import LossSettings, box_loss, object_weights
from fovea_trainer.models.network import Network
from fovea_trainer.models.points import around, distances_to, grid
from fovea_trainer.models.pyramid import STRIDES, Pyramid
from fovea_trainer.tasks.detection.targets import BoxTargets

CENTRE_RADIUS = 1.5
"""Points within so many strides of an object's centre, across and down, can learn it."""
FARTHEST_SIDE = 8
"""A level has the objects whose farthest side is at most so many strides away, and more than half as many."""
NORM_GROUPS = 32
"""Groups of the heads' GroupNorm, as in the paper (fewer where they do not divide the channels)."""
NO_OBJECT = -1


@dataclass(frozen=True, slots=True)
class RawDistances:
    """Raw outputs of N images with A points.

    Args:
        logits: [N, A, C].
        distances: To left, top, right and bottom in strides, not negative, [N, A, 4].
        centredness: Logits, [N, A].
        points: x and y in input pixels, [A, 2].
        strides: Of the points, in input pixels, [A, 1].
        size: Height and width of the input.
    """

    logits: Tensor
    distances: Tensor
    centredness: Tensor
    points: Tensor
    strides: Tensor
    size: tuple[int, int]

    @property
    def boxes(self) -> Tensor:
        """xyxy in input pixels, float32 [N, A, 4], not clipped to the image."""
        return around(self.points, self.distances.float() * self.strides)


class FCOS(Network[RawDistances, BoxTargets]):
    """One-stage detector without anchors. Outputs are decoded in the graph; NMS is outside."""

    task = Task.DETECTION

    def __init__(self, pyramid: Pyramid, channels: int, classes: int, loss: LossSettings) -> None:
        super().__init__(classes, loss)
        self.pyramid = pyramid
        norm = partial(nn.GroupNorm, math.gcd(channels, NORM_GROUPS))
        self.of_classes = FCOSClassificationHead(channels, 1, classes, norm_layer=norm)
        self.of_sides = FCOSRegressionHead(channels, 1, norm_layer=norm)

    def backbone(self) -> nn.Module:
        return self.pyramid.body

    def forward(self, images: Tensor) -> RawDistances:
        levels = self.pyramid(images)
        distances, centredness = self.of_sides(levels)
        size = (images.shape[-2], images.shape[-1])
        return RawDistances(self.of_classes(levels), distances, centredness[..., 0], *grid(levels, STRIDES), size)

    def loss(self, raw: RawDistances, targets: BoxTargets) -> dict[str, Tensor]:
        predicted = raw.boxes
        parts = []
        for index, (boxes, labels) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
            objects = match(raw.points, raw.strides, boxes)
            parts.append(self._of_image(raw, index, predicted[index], boxes, labels, objects))
        return mean_losses(("class", "box", "centredness"), parts)

    def decode(self, raw: RawDistances) -> dict[str, Tensor]:
        scores = (raw.logits.float().sigmoid() * raw.centredness.float().sigmoid().unsqueeze(-1)).sqrt()
        return {"boxes": clipped(raw.boxes, *raw.size), "scores": scores}

    def _of_image(
        self, raw: RawDistances, index: int, predicted: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of classes, boxes and centredness, each over the number of points that have an object."""
        (at,) = torch.where(objects != NO_OBJECT)
        matched, logits, count = boxes[objects[at]], raw.logits[index].float(), max(1, len(at))
        classes = torch.zeros_like(logits)
        classes[at, labels[objects[at]]] = 1
        centred = F.binary_cross_entropy_with_logits(
            raw.centredness[index, at].float(), centredness(distances_to(matched, raw.points[at])), reduction="sum"
        )
        of_boxes = box_loss(predicted[at], matched, self.loss_settings).sum()
        weights = object_weights(len(logits), at, labels[objects[at]], self.loss_settings)
        of_classes = (sigmoid_focal_loss(logits, classes).sum(1) * weights).sum()
        return of_classes / count, of_boxes / count, centred / count


def match(points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """Index of the object that each point learns, or NO_OBJECT, int64 [A].

    A point is inside of its object and near the centre, and on the level for the object's size; of several objects it
    gets the smallest.

    Args:
        points: x and y in input pixels, [A, 2].
        strides: Of the points, in input pixels, [A, 1].
        boxes: Objects xyxy in input pixels, [B, 4].
    """
    if not len(boxes):
        return torch.full((len(points),), NO_OBJECT, device=points.device)
    sides = distances_to(boxes, points[:, None])  # [A, B, 4]
    farthest, centres = sides.amax(2), (boxes[:, :2] + boxes[:, 2:]) / 2
    least = torch.where(strides > strides.min(), strides * FARTHEST_SIDE / 2, 0)
    most = torch.where(strides < strides.max(), strides * FARTHEST_SIDE, torch.inf)
    near = (points[:, None] - centres).abs().amax(2) < CENTRE_RADIUS * strides
    suited = near & (sides.amin(2) > 0) & (farthest > least) & (farthest < most)
    area, index = torch.where(suited, (boxes[:, 2:] - boxes[:, :2]).prod(1), torch.inf).min(1)
    return torch.where(area.isinf(), NO_OBJECT, index)


def centredness(sides: Tensor) -> Tensor:
    """Equation 3 of the paper: 1 in the middle of a box and 0 at its sides, from distances to these [..., 4]."""
    across, down = sides[..., [0, 2]], sides[..., [1, 3]]
    return (across.amin(-1) / across.amax(-1) * (down.amin(-1) / down.amax(-1))).sqrt()


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> FCOS:
    channels = options.integer("fpnChannels")
    return FCOS(Pyramid(body, channels, STRIDES, pretrained), channels, classes, loss)


FCOS_HEAD = Head(
    "fcos", task=Task.DETECTION, losses=(Loss.GIOU, Loss.IOU, Loss.DIOU, Loss.CIOU), build=build,
    options=(
        Option(name="fpnChannels", type="Integer", default=96, min=16, max=512,
               description="Channels of the feature pyramid and the heads."),
    ),
    size=(320, 320), multiple=16, licence="BSD-3-Clause",
    notes=("The named loss is that of the boxes; that of the classes is the focal loss in all cases.",
           f"Objects under {STRIDES[0]} input pixels may lie between the points, and are then not learned.",
           "NMS is not part of the exported graph."),
    preset=PRESET, focal=True,
)  # fmt: skip
register(FCOS_HEAD)
