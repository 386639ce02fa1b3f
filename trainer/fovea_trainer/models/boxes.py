"""Anchors and box decoding whose graph exports cleanly: fixed shapes, no lists of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

MAX_LOG_SCALE = math.log(1000 / 16)
"""Clamp of the predicted log size, as in torchvision's BoxCoder: keeps exp() finite."""


class Anchors(nn.Module):
    """Anchor boxes of all levels.

    Args:
        sizes: For each level the anchor sizes in input pixels.
        ratios: Height over width, the same on every level.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> None:
        super().__init__()
        self.generator = AnchorGenerator(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self.per_location = self.generator.num_anchors_per_location()[0]

    def forward(self, images: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """xyxy in input pixels, float32 [A, 4], level by level."""
        height, width = images.shape[-2:]
        grids = [[level.shape[-2], level.shape[-1]] for level in levels]
        self.generator.set_cell_anchors(torch.float32, images.device)
        strides = [[height // rows, width // columns] for rows, columns in grids]
        return torch.cat(self.generator.grid_anchors(grids, strides))


def decode(deltas: Tensor, anchors: Tensor, height: int, width: int, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Boxes xyxy clipped to the image, [..., A, 4], from deltas [..., A, 4] and anchors [..., A, 4].

    The parametrization of Ren et al., "Faster R-CNN" (2015).
    """
    size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + size / 2
    shift = deltas[..., :2] / deltas.new_tensor(weights[:2])
    scale = (deltas[..., 2:] / deltas.new_tensor(weights[2:])).clamp(max=MAX_LOG_SCALE)
    centre, half = centre + shift * size, scale.exp() * size / 2
    limit = deltas.new_tensor([width, height])
    return torch.cat([(centre - half).clamp(min=0).minimum(limit), (centre + half).clamp(min=0).minimum(limit)], -1)
