"""Ground truth of classification, as its networks are trained with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ClassTargets:
    """The class index of each image, int64 [N]."""

    labels: Tensor

    def to(self, device: torch.device) -> ClassTargets:
        """The same on a device."""
        return ClassTargets(self.labels.to(device, non_blocking=True))

    def pin_memory(self) -> ClassTargets:
        """The same in page-locked memory."""
        return ClassTargets(self.labels.pin_memory())
