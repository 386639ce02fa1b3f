"""What the heads of segmentation share: the networks of segmentation-models-pytorch, on any encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import IGNORE
from pydantic import JsonValue
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.losses import LossSettings, class_loss
from fovea_trainer.models.network import Network
from fovea_trainer.models.weights import create, load_state
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets

LOSSES = ("DiceCrossEntropy", "CrossEntropy", "Dice", "Focal", "Tversky", "Lovasz", "BinaryCrossEntropy")
PRESET: Mapping[str, JsonValue] = {
    "input": {
        "sizing": {"longerSide": 512, "enlarge": 1.0, "smallest": 128},
        "augmentations": [
            {"randomScale": {"min": 0.75, "max": 1.5, "probability": 0.8}},
            {"randomCrop": {"width": 256, "height": 256}},
            {"horizontalFlip": {"probability": 0.5}},
            {"colorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02, "probability": 0.8}},
        ],
    },
    "training": {
        "epochs": 40,
        "minSteps": 400,
        "batchSize": 8,
        "optimizer": {"name": "AdamW", "learningRate": 2e-3, "weightDecay": 0.01, "backboneRate": 0.3},
        "schedule": {"name": "OneCycle", "warmupShare": 0.1},
        "ema": {"decay": 0.999},
        "gradientClipNorm": 5.0,
    },
}
"""What segmentation is trained with where a recipe is silent: windows, which show as much of textures as whole images,
and of scenes a quarter; so scenes are passed more often."""


class Segmenter(Network[Tensor, MaskTargets]):
    """A network of segmentation-models-pytorch; its raw output are the logits [N, C, H, W].

    Args:
        name: What the network is called in the names of its weights.
        segmenter: The network.
        num_classes: Number of classes.
        loss: What is minimized.
    """

    task = Task.SEMANTIC_SEGMENTATION

    def __init__(self, name: str, segmenter: SegmentationModel, num_classes: int, loss: LossSettings) -> None:
        super().__init__(num_classes, loss)
        self.add_module(name, segmenter)
        self._name = name

    def backbone(self) -> nn.Module:
        return self.get_submodule(f"{self._name}.encoder")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(self._name)(images)
        return logits

    def loss(self, raw: Tensor, targets: MaskTargets) -> dict[str, Tensor]:
        return {"class": class_loss(raw.float(), targets.masks, self.loss_settings, ignore_index=IGNORE)}

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"logits": raw}


def on_body(make: Callable[[str], SegmentationModel], body: Body, pretrained: bool) -> SegmentationModel:
    """A network on an encoder by the name that the library has for it, with the body's published weights if asked.

    Raises:
        InvalidInput: it cannot stand on this body.
    """
    try:
        segmenter = make(f"tu-{body.timm}")
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"{body.timm} cannot be the encoder: {reason}",
            "spec.model.options.backbone",
            "use a convolutional or hierarchical body",
        ) from error
    if pretrained:
        state = create(body.timm, True, features_only=True).state_dict()
        load_state(segmenter.encoder.model, state, f"the published weights of {body.timm}")
    return segmenter
