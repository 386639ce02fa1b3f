"""ResNet: He et al., "Deep Residual Learning for Image Recognition" (2016), through timm."""

from fovea_api.architectures import Option

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Options
from fovea_trainer.models.heads.classifier import classifier
from fovea_trainer.models.registry import Entry, compose, register

OPTIONS = (
    Option(name="width", type="Number", default=1.0, min=0.125, max=4,
           description="Factor on the number of channels; other than 1 there are no published weights."),
    Option(name="stem", type="String", default="Standard", choices=("Standard", "Small"),
           description="Small: 3x3 without pooling, for images under about 64 pixels; no published weights."),
)  # fmt: skip


def resnet(layers: int) -> Entry:
    """A classifier on a ResNet of so many layers."""
    name = f"resnet{layers}"

    def body(options: Options) -> Body:
        return Body(name, options.number("width"), options.text("stem") == "Small")

    return compose(
        name,
        classifier(dropout=0.0),
        name,
        f"ResNet of {layers} layers (He et al. 2016), through timm.",
        body=body,
        options=OPTIONS,
        fixed_by_weights=("width", "stem"),
    )


for layers in (18, 34, 50, 101):
    register(resnet(layers))
