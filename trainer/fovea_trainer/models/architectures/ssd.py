"""SSD: Liu et al. (2016), and SSDLite: Sandler et al. (2018)."""

from fovea_trainer.models.heads.ssd import SSD_HEAD, SSDLITE_HEAD
from fovea_trainer.models.registry import compose, register
from fovea_trainer.models.weights import LITE0

register(
    compose(
        "ssd",
        SSD_HEAD,
        LITE0,
        "SSD (Liu et al. 2016) on the feature maps of any timm model.",
        any_backbone=True,
    )
)

register(
    compose(
        "ssdlite",
        SSDLITE_HEAD,
        LITE0,
        "SSDLite (Sandler et al. 2018), SSD with separable convolutions, on the feature maps of any timm model.",
        any_backbone=True,
    )
)
