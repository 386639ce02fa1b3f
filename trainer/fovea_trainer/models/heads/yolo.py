"""An anchor-free YOLO, written from the papers: one stage after Redmon et al., "You Only Look Once" (2016), with the
decoupled branches of Ge et al., "YOLOX" (2021), the task-aligned assignment of Feng et al., "TOOD" (2021), and the
distributions of Li et al., "Generalized Focal Loss" (2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from fovea_api.architectures import Option
from fovea_api.common import Task
from fovea_api.trainingjob import Loss
from torch import Tensor, nn
from torch.nn import functional as F

from fovea_trainer.models.assignment import Assignment, assign
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import clipped
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.detection import PRESET, mean_losses
from fovea_trainer.models.losses import LossSettings, box_loss, object_weights
from fovea_trainer.models.network import Network
from fovea_trainer.models.path_aggregation import PathAggregation, conv
from fovea_trainer.models.points import around, distances_to, grid
from fovea_trainer.models.pyramid import BODY_STRIDES
from fovea_trainer.tasks.detection.targets import BoxTargets

BINS = 16
"""Values that a side's distance is a distribution over: 0 to 15 strides."""
PRIOR = 0.01
"""Score of every class at every point before training: Lin et al., "Focal Loss for Dense Object Detection" (2017)."""
FIRST_DISTANCE = 2.0
"""Distances before training, in strides: a box of four strides, as the smallest anchors of RetinaNet."""
GAMMA = 2.0
"""Focusing of the classes' loss on points whose score is not yet their quality."""
BOX_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.25
"""Of the parts of the loss, as in the two papers; that of the classes has 1."""


@dataclass(frozen=True, slots=True)
class RawPoints:
    """Raw outputs of N images with A points.

    Args:
        logits: [N, A, C].
        sides: Logits of the distances to left, top, right and bottom, [N, A, 4 BINS].
        points: x and y in input pixels, [A, 2].
        strides: Of the points, in input pixels, [A, 1].
        size: Height and width of the input.
    """

    logits: Tensor
    sides: Tensor
    points: Tensor
    strides: Tensor
    size: tuple[int, int]

    @property
    def boxes(self) -> Tensor:
        """xyxy in input pixels, float32 [N, A, 4], not clipped to the image."""
        steps = torch.arange(BINS, dtype=torch.float32, device=self.sides.device)
        distances = self.sides.float().reshape(*self.sides.shape[:-1], 4, BINS).softmax(-1) @ steps * self.strides
        return around(self.points, distances)


class Branch(nn.Sequential):
    """Two 3x3 convolutions and the outputs of a level."""

    def __init__(self, channels: int, bias: Tensor) -> None:
        last = nn.Conv2d(channels, len(bias), 1)
        last.bias = nn.Parameter(bias.clone())
        super().__init__(conv(channels, channels, 3), conv(channels, channels, 3), last)


R = TypeVar("R", bound=RawPoints)
B = TypeVar("B", bound=BoxTargets)


class PointDetector(Network[R, B]):
    """What a one-stage detector without anchors says of the points of its levels: classes, and distances to sides."""

    def __init__(self, neck: PathAggregation, channels: int, classes: int, loss: LossSettings) -> None:
        super().__init__(classes, loss)
        self.neck = neck
        rare = torch.full((classes,), -math.log(1 / PRIOR - 1))
        # A geometric distribution over the bins, of this mean but for its end.
        near = (torch.arange(BINS) * -math.log(1 + 1 / FIRST_DISTANCE)).repeat(4)
        self.of_classes = nn.ModuleList(Branch(channels, rare) for _ in BODY_STRIDES)
        self.of_sides = nn.ModuleList(Branch(channels, near) for _ in BODY_STRIDES)

    def backbone(self) -> nn.Module:
        return self.neck.body

    def points_of(self, levels: Sequence[Tensor], images: Tensor) -> RawPoints:
        """What the branches say of the neck's levels."""
        points, strides = grid(levels, BODY_STRIDES)
        logits, sides = at_points(self.of_classes, levels), at_points(self.of_sides, levels)
        return RawPoints(logits, sides, points, strides, (images.shape[-2], images.shape[-1]))

    def assigned_loss(self, raw: RawPoints, targets: BoxTargets) -> tuple[dict[str, Tensor], list[Assignment]]:
        """The losses of classes and boxes, and what the points of each image learn."""
        logits, predicted = raw.logits.float(), raw.boxes
        parts, assignments = [], []
        for index, (boxes, labels) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
            with torch.no_grad():
                assignment = assign(logits[index].sigmoid(), predicted[index], raw.points, boxes, labels)
            parts.append(self._of_image(raw, index, predicted[index], boxes, labels, assignment))
            assignments.append(assignment)
        return mean_losses(("class", "box", "distribution"), parts), assignments

    def _of_image(
        self, raw: RawPoints, index: int, predicted: Tensor, boxes: Tensor, labels: Tensor, assignment: Assignment
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of classes, boxes and distributions, each weighted by the qualities and over their sum."""
        logits, total = raw.logits[index].float(), assignment.quality.sum().clamp(min=1)
        quality = torch.zeros_like(logits)
        quality[assignment.points, labels[assignment.objects]] = assignment.quality
        focus = (quality - logits.sigmoid()).abs() ** GAMMA
        weights = object_weights(len(logits), assignment.points, labels[assignment.objects], self.loss_settings)
        errors = focus * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
        of_classes = (errors.sum(1) * weights).sum() / total
        matched = boxes[assignment.objects]
        overlap = box_loss(predicted[assignment.points], matched, self.loss_settings)
        sides = raw.sides[index, assignment.points].float().reshape(-1, 4, BINS)
        distances = distances_to(matched, raw.points[assignment.points]) / raw.strides[assignment.points]
        distribution = distribution_loss(sides, distances).mean(1)
        of_boxes, of_sides = ((assignment.quality * each).sum() / total for each in (overlap, distribution))
        return of_classes, BOX_WEIGHT * of_boxes, DISTRIBUTION_WEIGHT * of_sides


class Yolo(PointDetector[RawPoints, BoxTargets]):
    """One-stage detector without anchors. Outputs are decoded in the graph; NMS is outside."""

    task = Task.DETECTION

    def forward(self, images: Tensor) -> RawPoints:
        return self.points_of(self.neck(images), images)

    def loss(self, raw: RawPoints, targets: BoxTargets) -> dict[str, Tensor]:
        return self.assigned_loss(raw, targets)[0]

    def decode(self, raw: RawPoints) -> dict[str, Tensor]:
        return {"boxes": clipped(raw.boxes, *raw.size), "scores": raw.logits.float().sigmoid()}


def at_points(branches: nn.ModuleList, levels: Sequence[Tensor]) -> Tensor:
    """Outputs of a branch for each level as one tensor, [N, A, D], in the order of the points."""
    return torch.cat([branch(features).flatten(2).mT for branch, features in zip(branches, levels, strict=True)], 1)


def distribution_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss of Li et al. (2020): the cross-entropy of the two bins around each distance.

    Args:
        logits: [..., BINS].
        distances: In bins, [...]; beyond the last one they count as that.
    """
    distances = distances.clamp(0, BINS - 1)
    low = distances.floor().clamp(max=BINS - 2)
    share, log = distances - low, logits.log_softmax(-1)
    below, above = (log.gather(-1, (low + step).long().unsqueeze(-1)).squeeze(-1) for step in (0, 1))
    return -(1 - share) * below - share * above


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Yolo:
    channels = options.integer("neckChannels")
    return Yolo(PathAggregation(body, channels, options.integer("depth"), pretrained), channels, classes, loss)


NECK_OPTIONS = (
    Option(name="neckChannels", type="Integer", default=96, min=16, max=512,
           description="Channels of neck and branches; an even number."),
    Option(name="depth", type="Integer", default=1, min=1, max=6,
           description="Residual blocks of each CSP block of the neck."),
)  # fmt: skip
BOX_LOSSES = (Loss.CIOU, Loss.DIOU, Loss.GIOU, Loss.IOU)
NOTES = (
    "The named loss is that of the boxes; that of the classes is the quality focal loss in all cases.",
    f"Objects are at most {2 * (BINS - 1) * BODY_STRIDES[-1]} input pixels wide or high.",
)
YOLO = Head(
    "yolo", task=Task.DETECTION, losses=BOX_LOSSES, build=build,
    options=NECK_OPTIONS,
    size=(320, 320), multiple=32,
    notes=(*NOTES, "NMS is not part of the exported graph."),
    preset=PRESET, focal=True,
)  # fmt: skip
register(YOLO)
