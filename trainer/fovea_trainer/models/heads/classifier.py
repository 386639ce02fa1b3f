"""A linear classifier on pooled features."""

from __future__ import annotations

from fovea_api.architectures import Option
from fovea_api.common import Task
from torch import Tensor, nn

from fovea_trainer.models.bodies import Body, pooled
from fovea_trainer.models.heads.base import Head, Options
from fovea_trainer.models.losses import LossSettings, class_loss
from fovea_trainer.models.network import Network
from fovea_trainer.tasks.classification.targets import ClassTargets


class Classifier(Network[Tensor, ClassTargets]):
    """A body with a linear head; its raw output are the logits [N, C]."""

    task = Task.CLASSIFICATION

    def __init__(self, body: nn.Module, features: int, dropout: float, num_classes: int, loss: LossSettings) -> None:
        super().__init__(num_classes, loss)
        self.body = body
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, num_classes))

    def backbone(self) -> nn.Module:
        return self.body

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits

    def loss(self, raw: Tensor, targets: ClassTargets) -> dict[str, Tensor]:
        return {"class": class_loss(raw.float(), targets.labels, self.loss_settings)}

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"logits": raw}


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Classifier:
    return Classifier(*pooled(body, pretrained), options.number("dropout"), classes, loss)


def classifier(dropout: float) -> Head:
    """The head with this default dropout."""
    option = Option(
        name="dropout", type="Number", default=dropout, min=0, max=0.9, description="Dropout before the head."
    )
    return Head(
        "classifier", task=Task.CLASSIFICATION, losses=("CrossEntropy", "Focal"), build=build, options=(option,)
    )


CLASSIFIER = classifier(dropout=0.0)
