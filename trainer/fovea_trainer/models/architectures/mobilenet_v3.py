"""MobileNetV3: Howard et al., "Searching for MobileNetV3" (2019), through timm."""

from __future__ import annotations

from typing import Any

from fovea_api.architectures import Architecture, Option
from fovea_api.common import Task

from fovea_trainer.models.classifier import IMAGENET_MEAN, IMAGENET_STD, LOSSES, Classifier, classifier
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.registry import Options, register
from fovea_trainer.models.weights import create

TIMM_NAMES = {"Small": "mobilenetv3_small_100", "Large": "mobilenetv3_large_100"}


@register(
    Architecture(
        name="mobilenet-v3", task=Task.CLASSIFICATION,
        description="MobileNetV3 (Howard et al. 2019), through timm.",
        width=224, height=224, mean=IMAGENET_MEAN, std=IMAGENET_STD, weights=("None", "ImageNet"),
        losses=LOSSES, licence="Apache-2.0",
        options=(
            Option(name="size", type="String", default="Large", choices=("Small", "Large"), description="Variant."),
            Option(name="dropout", type="Number", default=0.2, min=0, max=0.9, description="Dropout before the head."),
        ),
    )
)  # fmt: skip
def build(info: Architecture, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Classifier:
    body: Any = create(TIMM_NAMES[options.text("size")], pretrained, num_classes=0)
    return classifier(body, body.head_hidden_size, options.number("dropout"), classes, loss)
