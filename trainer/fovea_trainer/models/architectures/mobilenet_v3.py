"""MobileNetV3: Howard et al., "Searching for MobileNetV3" (2019), through timm."""

from fovea_api.architectures import Option

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Options
from fovea_trainer.models.heads.classifier import classifier
from fovea_trainer.models.registry import compose, register

TIMM_NAMES = {"Small": "mobilenetv3_small_100", "Large": "mobilenetv3_large_100"}


def body(options: Options) -> Body:
    return Body(TIMM_NAMES[options.text("size")])


register(
    compose(
        "mobilenet-v3",
        classifier(dropout=0.2),
        TIMM_NAMES["Large"],
        "MobileNetV3 (Howard et al. 2019), through timm.",
        body=body,
        options=(
            Option(name="size", type="String", default="Large", choices=("Small", "Large"), description="Variant."),
        ),
    )
)
