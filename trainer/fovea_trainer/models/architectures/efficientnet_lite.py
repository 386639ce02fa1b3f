"""EfficientNet-Lite: EfficientNet (Tan & Le 2019) without squeeze-excitation and swish, through timm."""

from __future__ import annotations

from typing import Any

from fovea_api.architectures import Architecture, Option
from fovea_api.common import Task

from fovea_trainer.models.classifier import LOSSES, Classifier, classifier
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.registry import Options, register
from fovea_trainer.models.weights import LITE0, create

HALF = (0.5, 0.5, 0.5)


@register(
    Architecture(
        name="efficientnet-lite0", task=Task.CLASSIFICATION,
        description="EfficientNet-Lite0 (Tan & Le 2019, without squeeze-excitation), through timm.",
        width=224, height=224, mean=HALF, std=HALF, weights=("None", "ImageNet"), packaged=("ImageNet",),
        losses=LOSSES, licence="Apache-2.0",
        options=(
            Option(name="dropout", type="Number", default=0.2, min=0, max=0.9, description="Dropout before the head."),
        ),
    )
)  # fmt: skip
def build(info: Architecture, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Classifier:
    body: Any = create(LITE0, pretrained, num_classes=0)
    return classifier(body, body.num_features, options.number("dropout"), classes, loss)
