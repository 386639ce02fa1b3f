"""Classification networks around a timm model."""

from __future__ import annotations

from fovea_api.common import Task
from torch import Tensor, nn

from fovea_trainer.models.losses import LossSettings, class_loss
from fovea_trainer.models.network import Network, Targets

LOSSES = ("CrossEntropy", "Focal")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Classifier(Network):
    """A timm model with a linear head; freezing spares the head."""

    task = Task.CLASSIFICATION

    def __init__(self, body: nn.Module, head: nn.Module, num_classes: int, loss: LossSettings) -> None:
        super().__init__(num_classes, loss)
        self.body = body
        self.head = head

    def backbone(self) -> nn.Module:
        return self.body

    def predict(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        assert targets.labels is not None
        return {"class": class_loss(self.predict(images).float(), targets.labels, self.loss)}


def classifier(body: nn.Module, features: int, drop: float, num_classes: int, loss: LossSettings) -> Classifier:
    """A classifier on a timm model made with `num_classes=0`, which gives `features` pooled features."""
    return Classifier(body, nn.Sequential(nn.Dropout(drop), nn.Linear(features, num_classes)), num_classes, loss)
