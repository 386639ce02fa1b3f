"""RetinaNet: Lin et al., "Focal Loss for Dense Object Detection" (2017)."""

from fovea_trainer.models.heads.retinanet import RETINANET
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "retinanet-efficientnet-lite0",
        RETINANET,
        LITE0,
        "RetinaNet (Lin et al. 2017) on an EfficientNet-Lite0 feature pyramid.",
    )
)

register(
    compose(
        "retinanet",
        RETINANET,
        LITE0,
        "RetinaNet (Lin et al. 2017) on the feature pyramid of any timm model.",
        any_backbone=True,
    )
)
