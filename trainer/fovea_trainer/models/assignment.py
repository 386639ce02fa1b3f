"""Which points of the grid learn which object: Feng et al., "TOOD: Task-aligned One-stage Object Detection" (2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

SCORE_POWER, OVERLAP_POWER = 1.0, 6.0
"""alpha and beta of the paper: how much an object's score and its overlap count in the alignment."""
POINTS_PER_OBJECT = 13
"""Points that an object gets at most: m of the paper."""
TINY = 1e-30
"""Keeps a quotient finite; the alignment of an untrained network's boxes may be 1e-14."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the points of an image learn.

    Args:
        objects: Index of the object of each point that has one, int64 [P].
        points: Indices of these points, int64 [P].
        quality: What the score of each should be: its alignment, scaled so that the best one of an object has that
            object's best overlap, float32 [P].
    """

    objects: Tensor
    points: Tensor
    quality: Tensor


def assign(scores: Tensor, predicted: Tensor, points: Tensor, boxes: Tensor, labels: Tensor) -> Assignment:
    """The points of one image to its objects.

    An object gets the points inside of it whose score and overlap are aligned best. Of several objects the point goes
    to the one that its predicted box overlaps most. An object between the points gets the nearest one.

    Args:
        scores: Probabilities of the classes, [A, C].
        predicted: Boxes xyxy in input pixels, [A, 4].
        points: x and y of the points in input pixels, [A, 2].
        boxes: Objects xyxy in input pixels, [B, 4].
        labels: Their classes, int64 [B].
    """
    if not len(boxes):
        none = labels.new_zeros(0)
        return Assignment(none, none, scores.new_zeros(0))
    overlap = box_iou(boxes, predicted)
    alignment = scores[:, labels].T ** SCORE_POWER * overlap**OVERLAP_POWER
    inside = _inside(points, boxes)
    value, best = torch.where(inside, alignment, -1).topk(min(POINTS_PER_OBJECT, len(points)), 1)
    chosen = torch.zeros_like(inside).scatter_(1, best, value >= 0)
    owner = torch.where(chosen, overlap, -1).argmax(0)
    chosen &= owner == torch.arange(len(boxes), device=boxes.device)[:, None]
    alignment, overlap = torch.where(chosen, alignment, 0), torch.where(chosen, overlap, 0)
    scale = overlap.amax(1, keepdim=True) / alignment.amax(1, keepdim=True).clamp(min=TINY)
    at_object, at_point = chosen.nonzero(as_tuple=True)
    return Assignment(at_object, at_point, (alignment * scale)[at_object, at_point])


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether each point is inside of each box, bool [B, A]; of a box without a point, whether it is the nearest."""
    to_low, to_high = points - boxes[:, None, :2], boxes[:, None, 2:] - points
    inside = torch.cat([to_low, to_high], 2).amin(2) > 0
    offset = points - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]
    nearest = (offset**2).sum(2).argmin(1, keepdim=True)
    return inside | torch.zeros_like(inside).scatter_(1, nearest, ~inside.any(1, keepdim=True))
