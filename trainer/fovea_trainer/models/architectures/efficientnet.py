"""EfficientNet: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019)."""

from fovea_trainer.models.heads.classifier import classifier
from fovea_trainer.models.registry import compose, register

register(
    compose(
        "efficientnet-b0",
        classifier(dropout=0.2),
        "efficientnet_b0",
        "EfficientNet-B0 (Tan & Le 2019), through timm.",
    )
)
