"""What every network offers to training, evaluation and export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, Generic, Self, TypeVar

from fovea_api.common import Task
from fovea_serving.pipeline import Postprocess
from torch import Tensor, nn

from fovea_trainer.models.losses import LossSettings
from fovea_trainer.tasks import Targets

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)

Raw = TypeVar("Raw")
"""What the forward pass gives: what both the loss and the decoding need."""
T = TypeVar("T", bound=Targets)


class Network(nn.Module, ABC, Generic[Raw, T]):
    """A network with its loss and its decoding.

    `raw = network(images)` is the one forward pass, of normalized images float32 [N, 3, H, W]. `loss(raw, targets)`
    and `decode(raw)` go on from there; so training, validation, distillation and export share it.
    """

    task: Task
    description: str = ""
    """What it is made of, as `NetworkDescription` writes it."""
    chooses_boxes: bool = False
    """Whether the decoded rows are the best of many boxes: which of two that are nearly equal comes first, or comes at
    all, depends on the last digits of its score."""

    def __init__(self, num_classes: int, loss: LossSettings) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.loss_settings = loss
        self._frozen: tuple[nn.Module, ...] = ()

    @property
    def postprocess(self) -> Postprocess:
        """What turns the decoded outputs into predictions; serving does the same."""
        return Postprocess(self.task)

    @abstractmethod
    def forward(self, images: Tensor) -> Raw:
        """Raw outputs for images [N, 3, H, W]."""

    @abstractmethod
    def loss(self, raw: Raw, targets: T) -> dict[str, Tensor]:
        """The parts of the loss, scalars by name, means over the batch's images."""

    @abstractmethod
    def decode(self, raw: Raw) -> dict[str, Tensor]:
        """The outputs of the exported graph by name: classification `logits` [N, C]; detection `boxes` [N, A, 4]
        (xyxy, input pixels) and `scores` [N, A, C] (0 to 1, background removed, NMS outside); instance segmentation
        also `masks` [N, A, M, M] (0 to 1, on a grid over the box); semantic segmentation `logits` [N, C, H, W]."""

    def traced(self, images: Tensor) -> list[Tensor]:
        """Outputs that depend on every layer, and on nothing that picks among boxes: what channels are connected by."""
        raw = self(images)
        if isinstance(raw, Tensor):
            return [raw]
        values = [getattr(raw, field.name) for field in fields(raw)]
        return [value for value in values if isinstance(value, Tensor) and value.shape[0] == len(images)]

    @abstractmethod
    def backbone(self) -> nn.Module:
        """The part that published weights fill and `freeze` freezes."""

    def freeze(self, what: str) -> None:
        """Freezes nothing (None), the backbone, or the backbone except its norm layers (BackboneExceptNorm); what was
        frozen before is trained again."""
        norms = {id(p) for m in self.backbone().modules() if isinstance(m, NORMS) for p in m.parameters()}
        for parameter in self.backbone().parameters():
            parameter.requires_grad = what == "None" or (what == "BackboneExceptNorm" and id(parameter) in norms)
        # A tuple, so that the modules are not registered a second time.
        modules = self.backbone().modules() if what == "Backbone" else ()
        self._frozen = tuple(module for module in modules if isinstance(module, NORMS))

    def train(self, mode: bool = True) -> Self:
        """As in torch; the norm layers of a frozen backbone keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


AnyNetwork = Network[Any, Any]


class Inference(nn.Module):
    """What is exported of a network: from images to decoded outputs by name."""

    def __init__(self, network: AnyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.network.decode(self.network(images))
        return outputs
