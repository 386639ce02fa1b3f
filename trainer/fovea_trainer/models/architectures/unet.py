"""U-Net: Ronneberger et al. (2015)."""

from fovea_trainer.models.heads.unet import UNET
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "unet-efficientnet-lite0",
        UNET,
        LITE0,
        "U-Net (Ronneberger et al. 2015) with an EfficientNet-Lite0 encoder.",
    )
)

register(
    compose(
        "unet",
        UNET,
        LITE0,
        "U-Net (Ronneberger et al. 2015) with any timm model as its encoder.",
        any_backbone=True,
    )
)
