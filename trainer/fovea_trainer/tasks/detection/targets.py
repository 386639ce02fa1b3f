"""Ground truth of detection, as its networks are trained with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BoxTargets:
    """The objects of each image.

    Args:
        boxes: For each image xyxy in input pixels, float32 [B, 4].
        labels: For each image class indices, int64 [B].
    """

    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    def to(self, device: torch.device) -> BoxTargets:
        """The same on a device."""
        return BoxTargets(
            tuple(boxes.to(device, non_blocking=True) for boxes in self.boxes),
            tuple(labels.to(device, non_blocking=True) for labels in self.labels),
        )
