"""DeepLabV3 and DeepLabV3+: Chen et al. (2017 and 2018)."""

from fovea_trainer.models.heads.deeplab import DEEPLAB_V3, DEEPLAB_V3_PLUS
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "deeplabv3",
        DEEPLAB_V3,
        LITE0,
        "DeepLabV3 (Chen et al. 2017) with any timm model that can be dilated as its encoder.",
        any_backbone=True,
    )
)

register(
    compose(
        "deeplabv3plus",
        DEEPLAB_V3_PLUS,
        LITE0,
        "DeepLabV3+ (Chen et al. 2018) with any timm model that can be dilated as its encoder.",
        any_backbone=True,
    )
)
