"""DeepLabV3 and DeepLabV3+, on any encoder, through segmentation-models-pytorch: Chen et al., "Rethinking Atrous
Convolution for Semantic Image Segmentation" (2017), and "Encoder-Decoder with Atrous Separable Convolution" (2018)."""

from __future__ import annotations

from collections.abc import Callable

import segmentation_models_pytorch as smp
from fovea_api.architectures import Option
from fovea_api.common import Task
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import nn

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.segmentation import LOSSES, PRESET, Segmenter, on_body
from fovea_trainer.models.losses import LossSettings

OUTPUT_STRIDE = 16
"""Stride of the encoder's last map, in pixels: its last stage is dilated instead of coarser."""
RATES = (6, 12, 18)
"""Dilations of the pooling pyramid at this stride, as in both papers."""


def without_pooled_norm(segmenter: SegmentationModel) -> SegmentationModel:
    """The network with a bias in the place of the batch norm that follows the pooling over the whole map.

    There each image has a single value a channel. The statistics of so few say little, so that training and inference
    differ, and of a batch of one there are none: torch refuses it.
    """
    for module in segmenter.decoder.modules():
        if isinstance(module, ASPPPooling):
            module[1] = nn.Conv2d(module[1].in_channels, module[1].out_channels, 1)
            module[2] = nn.Identity()
    return segmenter


def head(name: str, kind: Callable[..., SegmentationModel]) -> Head:
    """The head of one of the two."""

    def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> Segmenter:
        def make(encoder: str) -> SegmentationModel:
            return kind(
                encoder, encoder_weights=None, encoder_output_stride=OUTPUT_STRIDE, decoder_atrous_rates=RATES,
                decoder_channels=options.integer("decoderChannels"), classes=classes,
            )  # fmt: skip

        return Segmenter("deeplab", without_pooled_norm(on_body(make, body, pretrained)), classes, loss)

    return Head(
        name, task=Task.SEMANTIC_SEGMENTATION, losses=LOSSES, build=build,
        options=(
            Option(name="decoderChannels", type="Integer", default=256, min=16, max=1024,
                   description="Channels of the pooling pyramid and the decoder."),
        ),
        size=(512, 512), multiple=16, licence="MIT", preset=PRESET,
        notes=("The branch that pools over the whole map has no batch norm, so that a batch of one can be trained.",),
    )  # fmt: skip


DEEPLAB_V3, DEEPLAB_V3_PLUS = (
    register(head("deeplabv3", smp.DeepLabV3)),
    register(head("deeplabv3plus", smp.DeepLabV3Plus)),
)
