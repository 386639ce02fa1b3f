"""Box decoding whose graph exports cleanly: fixed shapes, no lists of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Clamp of the predicted log size, as in torchvision's BoxCoder: keeps exp() finite."""


def decode(deltas: Tensor, anchors: Tensor, height: int, width: int, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Boxes xyxy clipped to the image, [..., A, 4], from deltas [..., A, 4] and anchors [..., A, 4].

    The parametrization of Ren et al., "Faster R-CNN" (2015).
    """
    size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + size / 2
    shift = deltas[..., :2] / deltas.new_tensor(weights[:2])
    scale = (deltas[..., 2:] / deltas.new_tensor(weights[2:])).clamp(max=MAX_LOG_SCALE)
    centre, half = centre + shift * size, scale.exp() * size / 2
    return clipped(torch.cat([centre - half, centre + half], -1), height, width)


def clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    """What of boxes xyxy [..., 4] lies in the image."""
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
