"""Ground truth of semantic segmentation, as its networks are trained with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MaskTargets:
    """The class index of each pixel, int64 [N, H, W]; IGNORE (255): the pixel does not count.

    On their way to the device they are bytes.
    """

    masks: Tensor

    def to(self, device: torch.device) -> MaskTargets:
        """The same on a device."""
        return MaskTargets(self.masks.to(device, non_blocking=True).long())

    def pin_memory(self) -> MaskTargets:
        """The same in page-locked memory."""
        return MaskTargets(self.masks.pin_memory())
