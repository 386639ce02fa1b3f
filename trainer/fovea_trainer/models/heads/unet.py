"""U-Net: Ronneberger et al. (2015), on any encoder, through segmentation-models-pytorch."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from fovea_api.architectures import Option
from fovea_api.common import Task

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.segmentation import LOSSES, PRESET, Segmenter, on_body
from fovea_trainer.models.losses import LossSettings

STAGES = 5


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Segmenter:
    deepest = options.integer("decoderChannels")

    def make(encoder: str) -> smp.Unet:
        channels = [deepest >> stage for stage in range(STAGES)]
        return smp.Unet(encoder, encoder_weights=None, decoder_channels=channels, classes=classes)

    return Segmenter("unet", on_body(make, body, pretrained), classes, loss)


UNET = Head(
    "unet", task=Task.SEMANTIC_SEGMENTATION,
    losses=LOSSES, build=build,
    options=(
        Option(name="decoderChannels", type="Integer", default=256, min=64, max=1024,
               description="Channels of the deepest decoder stage; each further one has half."),
    ),
    size=(512, 512), multiple=32, licence="MIT", preset=PRESET,
)  # fmt: skip
register(UNET)
