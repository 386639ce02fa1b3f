"""The neck of SSD: Liu et al., "SSD: Single Shot MultiBox Detector" (2016)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.ssd import _xavier_init
from torchvision.models.detection.ssdlite import _extra_block

from fovea_trainer.models.bodies import Body, FeatureMaps
from fovea_trainer.models.norms import BatchNorm
from fovea_trainer.models.pyramid import BODY_STRIDES


class ExtraLevels(nn.Module):
    """The body's feature maps as they are, and coarser ones by convolutions of stride 2.

    Args:
        body: What it is built on.
        channels: Of the coarser levels.
        strides: Of all levels, in input pixels: those of the body, then each twice the one before.
        separable: Whether the convolutions are depthwise with norms, as in SSDLite, and not full without.
        pretrained: Whether the body gets its published weights.
    """

    def __init__(self, body: Body, channels: int, strides: Sequence[int], separable: bool, pretrained: bool) -> None:
        super().__init__()
        self.body = FeatureMaps(body, BODY_STRIDES, pretrained)
        self.channels = [*self.body.channels, *[channels] * (len(strides) - len(BODY_STRIDES))]
        below = self.channels[len(BODY_STRIDES) - 1 : -1]
        self.extra = nn.ModuleList(
            _extra_block(inputs, channels, BatchNorm) if separable else _halving(inputs, channels) for inputs in below
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """float32 [N, C, h, w] of each level, from fine to coarse; `channels` has the C of each."""
        levels = list(self.body(images))
        for layer in self.extra:
            levels.append(layer(levels[-1]))
        return [features.float() for features in levels]


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    """Half of the channels by 1x1, then 3x3 of stride 2, as the paper's layers from conv8 on."""
    layers = nn.Sequential(
        nn.Conv2d(inputs, outputs // 2, 1), nn.ReLU(), nn.Conv2d(outputs // 2, outputs, 3, 2, 1), nn.ReLU()
    )
    _xavier_init(layers)
    return layers
