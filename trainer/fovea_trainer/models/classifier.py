"""Classification networks around a timm model."""

from __future__ import annotations

from fovea_api.common import Task
from torch import Tensor, nn

from fovea_trainer.models.losses import LossSettings, class_loss
from fovea_trainer.models.network import Network
from fovea_trainer.tasks.classification.targets import ClassTargets

LOSSES = ("CrossEntropy", "Focal")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Classifier(Network[Tensor, ClassTargets]):
    """A timm model with a linear head; its raw output are the logits [N, C]."""

    task = Task.CLASSIFICATION

    def __init__(self, body: nn.Module, head: nn.Module, num_classes: int, loss: LossSettings) -> None:
        super().__init__(num_classes, loss)
        self.body = body
        self.head = head

    def backbone(self) -> nn.Module:
        return self.body

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits

    def loss(self, raw: Tensor, targets: ClassTargets) -> dict[str, Tensor]:
        return {"class": class_loss(raw.float(), targets.labels, self.loss_settings)}

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"logits": raw}


def classifier(body: nn.Module, features: int, drop: float, num_classes: int, loss: LossSettings) -> Classifier:
    """A classifier on a timm model made with `num_classes=0`, which gives `features` pooled features."""
    return Classifier(body, nn.Sequential(nn.Dropout(drop), nn.Linear(features, num_classes)), num_classes, loss)
