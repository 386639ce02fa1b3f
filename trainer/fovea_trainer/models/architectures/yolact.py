"""YOLACT: Bolya et al. (2019), on the anchor-free YOLO."""

from fovea_trainer.models.heads.yolact import YOLACT
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "yolact",
        YOLACT,
        LITE0,
        "A one-stage instance segmenter: the prototype masks of YOLACT (Bolya et al. 2019) on any timm model.",
        any_backbone=True,
    )
)
