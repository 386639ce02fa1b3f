"""A neck that passes features down and up again: Liu et al., "Path Aggregation Network" (2018), of CSP blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fovea_trainer.models.bodies import Body, FeatureMaps
from fovea_trainer.models.pyramid import BODY_STRIDES


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, SiLU; the map keeps its size but for the stride."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


class CrossStage(nn.Module):
    """Half of the channels go through residual 3x3 blocks, half around them: Wang et al., "CSPNet" (2020)."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        half = outputs // 2
        self.through, self.around = conv(inputs, half), conv(inputs, half)
        self.blocks = nn.ModuleList(nn.Sequential(conv(half, half, 3), conv(half, half, 3)) for _ in range(depth))
        self.out = conv(2 * half, outputs)

    def forward(self, features: Tensor) -> Tensor:
        through = self.through(features)
        for block in self.blocks:
            through = through + block(through)
        merged: Tensor = self.out(torch.cat([through, self.around(features)], 1))
        return merged


class PathAggregation(nn.Module):
    """Features of the strides BODY_STRIDES, all of `channels` channels.

    Args:
        body: What it is built on.
        channels: Of every level.
        depth: Residual blocks of each CSP block.
        pretrained: Whether the body gets its published weights.
    """

    def __init__(self, body: Body, channels: int, depth: int, pretrained: bool) -> None:
        super().__init__()
        self.body = FeatureMaps(body, BODY_STRIDES, pretrained)
        steps = len(BODY_STRIDES) - 1
        self.lateral = nn.ModuleList(conv(inputs, channels) for inputs in self.body.channels)
        self.down = nn.ModuleList(CrossStage(2 * channels, channels, depth) for _ in range(steps))
        self.shrink = nn.ModuleList(conv(channels, channels, 3, 2) for _ in range(steps))
        self.up = nn.ModuleList(CrossStage(2 * channels, channels, depth) for _ in range(steps))

    def forward(self, images: Tensor) -> list[Tensor]:
        """float32 [N, channels, h, w] of each level, from fine to coarse."""
        levels = [lateral(features) for lateral, features in zip(self.lateral, self.body(images), strict=True)]
        for fine in reversed(range(len(levels) - 1)):
            larger = F.interpolate(levels[fine + 1], size=levels[fine].shape[-2:], mode="nearest")
            levels[fine] = self.down[fine](torch.cat([levels[fine], larger], 1))
        for fine, (shrink, merge) in enumerate(zip(self.shrink, self.up, strict=True)):
            levels[fine + 1] = merge(torch.cat([shrink(levels[fine]), levels[fine + 1]], 1))
        return [features.float() for features in levels]
