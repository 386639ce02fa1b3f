"""FCOS: Tian et al. (2020)."""

from fovea_trainer.models.heads.fcos import FCOS_HEAD
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "fcos",
        FCOS_HEAD,
        LITE0,
        "FCOS (Tian et al. 2020), without anchors, on the feature pyramid of any timm model.",
        any_backbone=True,
    )
)
