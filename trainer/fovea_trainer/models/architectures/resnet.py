"""ResNet: He et al., "Deep Residual Learning for Image Recognition" (2016), through timm."""

from __future__ import annotations

from typing import Any

from fovea_api.architectures import Architecture, Option
from fovea_api.common import Task
from torch import nn

from fovea_trainer.models.classifier import IMAGENET_MEAN, IMAGENET_STD, LOSSES, Classifier, classifier
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.registry import Options, register
from fovea_trainer.models.weights import create

OPTIONS = (
    Option(name="width", type="Number", default=1.0, min=0.125, max=4,
           description="Factor on the number of channels; other than 1 there are no published weights."),
    Option(name="stem", type="String", default="Standard", choices=("Standard", "Small"),
           description="Small: 3x3 without pooling, for images under about 64 pixels; no published weights."),
    Option(name="dropout", type="Number", default=0.0, min=0, max=0.9, description="Dropout before the head."),
)  # fmt: skip


def _architecture(name: str, layers: int) -> Architecture:
    return Architecture(
        name=name, task=Task.CLASSIFICATION, description=f"ResNet of {layers} layers (He et al. 2016), through timm.",
        width=224, height=224, mean=IMAGENET_MEAN, std=IMAGENET_STD, weights=("None", "ImageNet"),
        losses=LOSSES, options=OPTIONS, fixed_by_weights=("width", "stem"), licence="Apache-2.0",
    )  # fmt: skip


@register(_architecture("resnet18", 18), _architecture("resnet50", 50))
def build(info: Architecture, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Classifier:
    width, small = options.number("width"), options.text("stem") == "Small"
    arguments: dict[str, Any] = {}
    if width != 1:
        arguments["channels"] = tuple(max(8, int(channels * width)) for channels in (64, 128, 256, 512))
    body: Any = create(info.name, pretrained, num_classes=0, **arguments)
    if small:
        body.conv1 = nn.Conv2d(3, body.conv1.out_channels, 3, padding=1, bias=False)
        body.maxpool = nn.Identity()
    return classifier(body, body.num_features, options.number("dropout"), classes, loss)
