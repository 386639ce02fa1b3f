"""The points of detectors without anchors: the centres of all cells of the feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def grid(levels: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The centres of all cells, x and y in input pixels [A, 2], level by level and row by row, and strides [A, 1]."""
    points, steps = [], []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[-2:]
        across, down = (
            (torch.arange(count, dtype=torch.float32, device=level.device) + 0.5) * stride for count in (width, height)
        )
        y, x = torch.meshgrid(down, across, indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        steps.append(torch.full((height * width, 1), float(stride), device=level.device))
    return torch.cat(points), torch.cat(steps)


def around(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes xyxy [..., A, 4] of points [A, 2] and distances to left, top, right and bottom, [..., A, 4]."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def distances_to(boxes: Tensor, points: Tensor) -> Tensor:
    """The reverse: distances from points [..., 2] to the sides of boxes xyxy [..., 4]; negative outside of a box."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
