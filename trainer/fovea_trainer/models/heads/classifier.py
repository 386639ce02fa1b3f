"""A linear classifier on pooled features."""

from __future__ import annotations

from collections.abc import Mapping

from fovea_api.architectures import Option
from fovea_api.common import Task
from pydantic import JsonValue
from torch import Tensor, nn

from fovea_trainer.models.bodies import Body, pooled
from fovea_trainer.models.heads.base import Head, Options, register
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
        return {"class": class_loss(raw.float(), targets.of_classes(self.num_classes), self.loss_settings)}

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"logits": raw}


PRESET: Mapping[str, JsonValue] = {
    "input": {
        "sizing": {"longerSide": 224, "enlarge": 2.0, "smallest": 64},
        "augmentations": [
            {"horizontalFlip": {"probability": 0.5}},
            {"randomScale": {"min": 0.8, "max": 1.25, "probability": 0.8}},
            {"colorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02, "probability": 0.8}},
        ],
    },
    "training": {
        "epochs": 5,
        "minSteps": 300,
        "batchSize": 64,
        "optimizer": {"name": "AdamW", "learningRate": 1e-3, "weightDecay": 0.05, "backboneRate": 0.5},
        "schedule": {"name": "OneCycle", "warmupShare": 0.1},
        "ema": {"decay": 0.999},
        "gradientClipNorm": 5.0,
    },
}
"""What classifiers are trained with where a recipe is silent. Pretrained features need an image at twice its size or so
where it is small: their coarsest grid has a stride of 32 pixels."""


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Classifier:
    return Classifier(*pooled(body, pretrained), options.number("dropout"), classes, loss)


def classifier(dropout: float) -> Head:
    """The head with this default dropout."""
    option = Option(
        name="dropout", type="Number", default=dropout, min=0, max=0.9, description="Dropout before the head."
    )
    return Head(
        "classifier", task=Task.CLASSIFICATION, losses=("CrossEntropy", "Focal", "BinaryCrossEntropy"), build=build,
        options=(option,), preset=PRESET,
    )  # fmt: skip


register(classifier(dropout=0.0))
