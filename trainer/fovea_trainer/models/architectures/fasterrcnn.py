"""Faster R-CNN: Ren et al. (2015)."""

from fovea_trainer.models.heads.fasterrcnn import FASTER_RCNN
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "fasterrcnn",
        FASTER_RCNN,
        LITE0,
        "Faster R-CNN (Ren et al. 2015) on the feature pyramid of any timm model.",
        any_backbone=True,
    )
)
