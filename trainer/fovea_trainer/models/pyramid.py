"""Feature pyramid on a timm backbone: Lin et al., "Feature Pyramid Networks for Object Detection" (2017)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from fovea_trainer.models.weights import LITE0, create

STRIDES = (8, 16, 32)
"""Strides of the levels, in input pixels."""


class Pyramid(nn.Module):
    """Features of strides 8, 16 and 32, all of `channels` channels.

    Args:
        channels: Channels of every level.
        pretrained: Whether the backbone starts from ImageNet weights.
    """

    def __init__(self, channels: int, pretrained: bool) -> None:
        super().__init__()
        body: Any = create(LITE0, pretrained, features_only=True, out_indices=(2, 3, 4))
        self.body: nn.Module = body
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = OrderedDict((str(level), features) for level, features in enumerate(self.body(images)))
        pyramid: dict[str, Tensor] = self.fpn(levels)
        return {name: features.float() for name, features in pyramid.items()}
