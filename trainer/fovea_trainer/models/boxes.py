"""Decoding and thinning of boxes whose graph exports cleanly: fixed shapes, no lists of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Clamp of the predicted log size, as in torchvision's BoxCoder: keeps exp() finite."""
THINNING_IOU = 0.7
"""Of two boxes that overlap more, the better one stays."""
CANDIDATES_PER_BOX = 4
"""Boxes by their score that are thinned to one."""


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


def thin(boxes: Tensor, count: int) -> Tensor:
    """Indices of the boxes that overlap no better one much, and after them of the others; int64 [N, at most count].

    Fast NMS of Bolya et al., "YOLACT" (2019): a plain matrix operation, in which removed boxes remove others, too. It
    sorts by ranks, of which no two are equal: backends order equal values in ways of their own.

    Args:
        boxes: xyxy, the best first, [N, K, 4].
        count: Boxes to keep.
    """
    candidates = boxes.shape[1]
    removed = torch.triu(overlaps(boxes), 1).amax(1) > THINNING_IOU
    rank = torch.arange(candidates, device=boxes.device) + candidates * removed.to(torch.int64)
    _, kept = rank.to(boxes.dtype).topk(min(count, candidates), 1, largest=False)
    return kept


def overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs, [N, K, K], from xyxy [N, K, 4]."""
    low = boxes[:, :, None, :2].maximum(boxes[:, None, :, :2])
    high = boxes[:, :, None, 2:].minimum(boxes[:, None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return both / (area[:, :, None] + area[:, None, :] - both).clamp(min=1e-6)


def chosen(values: Tensor, index: Tensor) -> Tensor:
    """The rows of values [N, A, D] at indices [N, K], [N, K, D]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
