"""EfficientNet-Lite: EfficientNet (Tan & Le 2019) without squeeze-excitation and swish, through timm."""

from fovea_trainer.models.heads.classifier import classifier
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "efficientnet-lite0",
        classifier(dropout=0.2),
        LITE0,
        "EfficientNet-Lite0 (Tan & Le 2019, without squeeze-excitation), through timm.",
    )
)
