"""Bodies: any timm model by name, as pooled features of an image or as feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fovea_api.errors import InvalidInput
from torch import Tensor, nn

from fovea_trainer.models.weights import create

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
                "spec.model.options.backbone",
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
