"""What every network offers to training, evaluation and export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from fovea_api.common import Task
from torch import Tensor, nn

from fovea_trainer.models.losses import LossSettings

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, slots=True)
class Targets:
    """Ground truth of a batch of N images; of the three, what the task has.

    Args:
        labels: Classification: class index, int64 [N].
        boxes: Detection: for each image xyxy in input pixels, float32 [B, 4].
        box_labels: Detection: for each image class indices, int64 [B].
        masks: Segmentation: class index of each pixel, 255 = ignore, int64 [N, H, W].
    """

    labels: Tensor | None = None
    boxes: tuple[Tensor, ...] = ()
    box_labels: tuple[Tensor, ...] = ()
    masks: Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        """The same on a device."""
        return Targets(
            None if self.labels is None else self.labels.to(device, non_blocking=True),
            tuple(boxes.to(device, non_blocking=True) for boxes in self.boxes),
            tuple(labels.to(device, non_blocking=True) for labels in self.box_labels),
            None if self.masks is None else self.masks.to(device, non_blocking=True),
        )


class Network(nn.Module, ABC):
    """A network with its loss. The module itself is what is exported: no wrapper stands between.

    `network(images)` gives the outputs of the exported graph, named `output_names`: classification logits [N, C];
    detection boxes [N, A, 4] (xyxy, input pixels) and scores [N, A, C] (0 to 1, background removed, NMS outside);
    segmentation logits [N, C, H, W]. `network(images, targets)` gives the parts of the loss, scalars by name.
    Images are normalized, float32 [N, 3, H, W].
    """

    task: Task

    def __init__(self, num_classes: int, loss: LossSettings) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.loss = loss
        self._frozen: tuple[nn.Module, ...] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the exported graph."""
        return ("boxes", "scores") if self.task == Task.DETECTION else ("logits",)

    @abstractmethod
    def backbone(self) -> nn.Module:
        """The part that published weights fill and `freeze` freezes."""

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The exported outputs."""

    @abstractmethod
    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The parts of the loss, means over the batch's images."""

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
        return self.predict(images) if targets is None else self.losses(images, targets)

    def freeze(self, what: str) -> None:
        """Freezes nothing (None), the backbone, or the backbone except its norm layers (BackboneExceptNorm)."""
        if what == "None":
            return
        norms = {id(p) for m in self.backbone().modules() if isinstance(m, NORMS) for p in m.parameters()}
        for parameter in self.backbone().parameters():
            parameter.requires_grad = what == "BackboneExceptNorm" and id(parameter) in norms
        if what == "Backbone":
            # A tuple, so that the modules are not registered a second time.
            self._frozen = tuple(m for m in self.backbone().modules() if isinstance(m, NORMS))

    def train(self, mode: bool = True) -> Self:
        """As in torch; the norm layers of a frozen backbone keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
