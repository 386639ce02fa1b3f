"""Whole detectors that torchvision publishes, trained on COCO: what a network here has in common with one of them.

The networks are made of torchvision's own parts, on timm's ResNet-50, whose layers have torchvision's names. What is
not theirs starts anew: layers for other classes or anchors, and second stages, which are smaller here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

from fovea_api.architectures import Checkpoint
from pydantic import JsonValue
from torch import Tensor
from torch.hub import get_dir, load_state_dict_from_url
from torchvision.models import get_model
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_V2_Weights,
)

from fovea_trainer.models.pyramid import BODY_STRIDES
from fovea_trainer.models.weights import HubUnavailable, WeightsUnavailable, is_final

PYRAMID = {"backbone.body.": "pyramid.body.module.", "backbone.fpn.": "pyramid.fpn."}
"""Beginnings of names in torchvision's networks, and what they are here."""
TWO_STAGE = {**PYRAMID, "roi_heads.mask_": "mask_", "roi_heads.": "roi."}
OF_A_LEVEL = ("pyramid.fpn.inner_blocks.", "pyramid.fpn.layer_blocks.")


@dataclass(frozen=True, slots=True)
class Published:
    """A detector that torchvision publishes.

    Args:
        network: torchvision's name of it.
        url: Its state dict, whose name ends in the first digits of its SHA-256.
        renamed: What the beginnings of its names are here.
        options: Those of the architecture here that give its layers their shapes, beside those of the pyramid.
    """

    network: str
    url: str
    renamed: Mapping[str, str]
    options: Mapping[str, JsonValue] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"torchvision's {self.network}, trained on COCO"

    @property
    def checkpoint(self) -> Checkpoint:
        """What is known of it without torch."""
        options = {"backbone": "resnet50", "fpnChannels": 256, **self.options}
        return Checkpoint(options=options, source=str(self), licence="BSD-3-Clause")


PUBLISHED = {
    "fasterrcnn": Published("fasterrcnn_resnet50_fpn", FasterRCNN_ResNet50_FPN_Weights.COCO_V1.url, TWO_STAGE),
    "fcos": Published(
        "fcos_resnet50_fpn",
        FCOS_ResNet50_FPN_Weights.COCO_V1.url,
        {**PYRAMID, "head.classification_head.": "of_classes.", "head.regression_head.": "of_sides."},
    ),
    "maskrcnn": Published(
        "maskrcnn_resnet50_fpn", MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url, TWO_STAGE, {"maskChannels": 256}
    ),
    "retinanet": Published("retinanet_resnet50_fpn_v2", RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1.url, PYRAMID),
}
"""By the name of the head here."""


def coco_state(published: Published) -> dict[str, Tensor]:
    """Its weights under the names that they have here: from torchvision's hub, or the copy of an earlier download.

    Raises:
        WeightsUnavailable: the hub does not have them, or gives others.
        HubUnavailable: the hub cannot be reached, or fails.
    """
    # Their network itself reads the names of the time when the file was written.
    theirs = get_model(published.network, weights=None, weights_backbone=None)
    try:
        theirs.load_state_dict(
            load_state_dict_from_url(
                published.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        file = Path(get_dir()) / "checkpoints" / Path(published.url).name
        kind = WeightsUnavailable if is_final(error) or isinstance(error, UnpicklingError) else HubUnavailable
        raise kind(
            f"the weights of {published} could not be loaded: {error}",
            "spec.model.pretrained",
            f"put them at {file} (TORCH_HOME names the first of these folders), or give weights: ImageNet or None",
        ) from error
    return _under_our_names(theirs.state_dict(), published.renamed)


def _under_our_names(state: Mapping[str, Tensor], renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """Levels of the pyramid are counted from the first one of ours on: a finer one, which some of theirs have, gets a
    name that no layer here has."""
    found = {}
    for name, value in state.items():
        beginning = next(filter(name.startswith, renamed), "")
        found[renamed.get(beginning, "") + name.removeprefix(beginning)] = value
    finer = len({name.split(".")[3] for name in found if name.startswith(OF_A_LEVEL[0])}) - len(BODY_STRIDES)
    return {_level_from(name, finer): value for name, value in found.items()}


def _level_from(name: str, finer: int) -> str:
    for beginning in filter(name.startswith, OF_A_LEVEL):
        level, rest = name.removeprefix(beginning).split(".", 1)
        return f"{beginning}{int(level) - finer}.{rest}"
    return name
