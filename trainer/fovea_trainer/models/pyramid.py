"""The neck of the detectors: Lin et al., "Feature Pyramid Networks for Object Detection" (2017)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from fovea_trainer.models.bodies import Body, FeatureMaps

BODY_STRIDES = (8, 16, 32)
"""Strides of the body's maps that the pyramid is made of: P3 to P5."""
STRIDES = (*BODY_STRIDES, 64, 128)
"""Strides of all levels, P3 to P7, in input pixels."""


class Pyramid(nn.Module):
    """Features of the levels P3 to P5 or P7, all of `channels` channels; P6 and P7 as in RetinaNet (Lin et al. 2017).

    Args:
        body: What it is built on.
        channels: Of every level.
        strides: Of the levels: BODY_STRIDES or STRIDES.
        pretrained: Whether the body gets its published weights.
    """

    def __init__(self, body: Body, channels: int, strides: Sequence[int], pretrained: bool) -> None:
        super().__init__()
        self.body = FeatureMaps(body, BODY_STRIDES, pretrained)
        coarse = LastLevelP6P7(channels, channels) if len(strides) > len(BODY_STRIDES) else None
        self.fpn = FeaturePyramidNetwork(self.body.channels, channels, coarse)

    def forward(self, images: Tensor) -> list[Tensor]:
        """float32 [N, channels, h, w] of each level."""
        levels = OrderedDict((str(level), features) for level, features in enumerate(self.body(images)))
        return [features.float() for features in self.fpn(levels).values()]
