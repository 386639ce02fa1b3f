"""YOLO: Redmon et al. (2016), anchor-free after YOLOX (2021) and TOOD (2021)."""

from fovea_trainer.models.heads.yolo import YOLO
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "yolo",
        YOLO,
        LITE0,
        "An anchor-free YOLO (decoupled branches, task-aligned assignment, path aggregation) on any timm model.",
        any_backbone=True,
    )
)
