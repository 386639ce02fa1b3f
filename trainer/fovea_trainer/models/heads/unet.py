"""U-Net: Ronneberger et al. (2015), on any encoder, through segmentation-models-pytorch."""

from __future__ import annotations

from collections.abc import Mapping

import segmentation_models_pytorch as smp
from fovea_api.architectures import Option
from fovea_api.common import Task
from fovea_serving.pipeline import IGNORE
from pydantic import JsonValue
from torch import Tensor, nn

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.losses import LossSettings, class_loss
from fovea_trainer.models.network import Network
from fovea_trainer.models.weights import create, load_state
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets

STAGES = 5
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


class UNet(Network[Tensor, MaskTargets]):
    """A U-Net of segmentation-models-pytorch; its raw output are the logits [N, C, H, W]."""

    task = Task.SEMANTIC_SEGMENTATION

    def __init__(self, unet: nn.Module, encoder: nn.Module, num_classes: int, loss: LossSettings) -> None:
        super().__init__(num_classes, loss)
        self.unet = unet
        self._encoder = (encoder,)

    def backbone(self) -> nn.Module:
        return self._encoder[0]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.unet(images)
        return logits

    def loss(self, raw: Tensor, targets: MaskTargets) -> dict[str, Tensor]:
        return {"class": class_loss(raw.float(), targets.masks, self.loss_settings, ignore_index=IGNORE)}

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"logits": raw}


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> UNet:
    deepest = options.integer("decoderChannels")
    unet = smp.Unet(
        f"tu-{body.timm}",
        encoder_weights=None,
        decoder_channels=[deepest >> stage for stage in range(STAGES)],
        classes=classes,
    )
    if pretrained:
        state = create(body.timm, True, features_only=True).state_dict()
        load_state(unet.encoder.model, state, f"the published weights of {body.timm}")
    return UNet(unet, unet.encoder, classes, loss)


UNET = Head(
    "unet", task=Task.SEMANTIC_SEGMENTATION,
    losses=("DiceCrossEntropy", "CrossEntropy", "Dice", "Focal", "Tversky", "Lovasz"), build=build,
    options=(
        Option(name="decoderChannels", type="Integer", default=256, min=64, max=1024,
               description="Channels of the deepest decoder stage; each further one has half."),
    ),
    size=(512, 512), multiple=32, licence="MIT", preset=PRESET,
)  # fmt: skip
register(UNET)
