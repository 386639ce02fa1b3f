"""Mask R-CNN: He et al. (2017)."""

from fovea_trainer.models.heads.maskrcnn import MASK_RCNN
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "maskrcnn",
        MASK_RCNN,
        LITE0,
        "Mask R-CNN (He et al. 2017) on the feature pyramid of any timm model.",
        any_backbone=True,
    )
)
