"""Any model of timm as a classifier: Wightman, "PyTorch Image Models" (2019)."""

from fovea_api.architectures import TIMM_FAMILY

from fovea_trainer.models.heads.classifier import classifier
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        TIMM_FAMILY,
        classifier(dropout=0.0),
        LITE0,
        "timm/ and the name of any model of timm, with a linear classifier.",
    )
)
