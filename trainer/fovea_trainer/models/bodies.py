"""Bodies: any timm model by name, as pooled features of an image or as feature maps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
from fovea_api.errors import InvalidInput
from torch import Tensor, nn

from fovea_trainer.models.weights import PACKAGED, create

RESNET_CHANNELS = (64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Body:
    """A timm model.

    Args:
        timm: Its name there.
        width: Factor on the number of channels (ResNets only).
        small_stem: 3x3 without pooling, for images under about 64 pixels (ResNets only).
    """

    timm: str
    width: float = 1.0
    small_stem: bool = False


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What a body's published weights were trained with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    width: int
    height: int
    licence: str
    packaged: bool


def pretraining(name: str) -> Pretraining:
    """What timm says about the published weights of a model. Raises InvalidInput: there is no such model."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None:
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise InvalidInput(f"timm has no model {name!r}", "spec.model.architecture", remedy)
    mean, std, (_, height, width) = config.mean, config.std, config.input_size
    licence = {"apache-2.0": "Apache-2.0", "mit": "MIT"}.get(str(config.license), str(config.license))
    return Pretraining((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), width, height, licence, name in PACKAGED)


def pooled(body: Body, pretrained: bool) -> tuple[nn.Module, int]:
    """A module that gives pooled features [N, F] of images, and F."""
    module: Any = create(body.timm, pretrained, num_classes=0, **_channels(body))
    if body.small_stem:
        module.conv1 = nn.Conv2d(3, module.conv1.out_channels, 3, padding=1, bias=False)
        module.maxpool = nn.Identity()
    return module, int(getattr(module, "head_hidden_size", module.num_features))


class FeatureMaps(nn.Module):
    """The feature maps of a body at some strides.

    Args:
        body: The timm model.
        strides: In input pixels, such as (8, 16, 32).
        pretrained: Whether it starts from published weights.

    Raises:
        InvalidInput: the body has no maps of these strides.
    """

    def __init__(self, body: Body, strides: Sequence[int], pretrained: bool) -> None:
        super().__init__()
        plain: Any = create(body.timm, False, features_only=True, **_channels(body))
        reductions: list[int] = plain.feature_info.reduction()
        if not set(strides) <= set(reductions) or len(set(reductions)) < len(reductions):
            raise InvalidInput(
                f"{body.timm} has feature maps of strides {', '.join(map(str, reductions))}, "
                f"not of {', '.join(map(str, strides))}",
                "spec.model.architecture",
                "use a convolutional or hierarchical body",
            )
        levels = tuple(reductions.index(stride) for stride in strides)
        module: Any = create(body.timm, pretrained, features_only=True, out_indices=levels, **_channels(body))
        self.module: nn.Module = module
        self.channels: list[int] = module.feature_info.channels()
        self._channels_last = str(getattr(module, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, C, h, w] of each stride."""
        maps: list[Tensor] = self.module(images)
        return [features.permute(0, 3, 1, 2) for features in maps] if self._channels_last else maps


def _channels(body: Body) -> dict[str, Any]:
    if body.width == 1:
        return {}
    return {"channels": tuple(max(8, int(channels * body.width)) for channels in RESNET_CHANNELS)}
