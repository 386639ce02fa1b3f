"""Ground truth of classification, as its networks are trained with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ClassTargets:
    """The classes of each image.

    Args:
        labels: The class index of each image, int64 [N]; of images that are mixtures the classes of each, [N, K].
        shares: Of the classes of mixtures, which add up to 1, float32 [N, K]; None: no image is a mixture.
    """

    labels: Tensor
    shares: Tensor | None = None

    @classmethod
    def of(cls, images: Sequence[Mapping[int, float]]) -> ClassTargets:
        """From the classes of each image with their shares."""
        most = max(len(classes) for classes in images)
        labels = torch.tensor([[*classes, *[0] * (most - len(classes))] for classes in images])
        if most == 1:
            return cls(labels[:, 0])
        return cls(labels, torch.tensor([[*each.values(), *[0.0] * (most - len(each))] for each in images]))

    def of_classes(self, num_classes: int) -> Tensor:
        """What `class_loss` takes: class indices int64 [N], or the share of each class float32 [N, C]."""
        if self.shares is None:
            return self.labels
        return self.shares.new_zeros(len(self.labels), num_classes).scatter_add_(1, self.labels, self.shares)

    def to(self, device: torch.device) -> ClassTargets:
        """The same on a device."""
        shares = None if self.shares is None else self.shares.to(device, non_blocking=True)
        return ClassTargets(self.labels.to(device, non_blocking=True), shares)

    def pin_memory(self) -> ClassTargets:
        """The same in page-locked memory."""
        return ClassTargets(self.labels.pin_memory(), None if self.shares is None else self.shares.pin_memory())
