"""U-Net: Ronneberger et al. (2015), on any encoder, through segmentation-models-pytorch."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from fovea_api.architectures import Option
from fovea_api.common import Task
from fovea_serving.pipeline import IGNORE
from torch import Tensor, nn

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Head, Options
from fovea_trainer.models.losses import LossSettings, class_loss
from fovea_trainer.models.network import Network
from fovea_trainer.models.weights import create, load_state
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets

STAGES = 5


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
    "unet", task=Task.SEMANTIC_SEGMENTATION, losses=("DiceCrossEntropy", "CrossEntropy", "Dice", "Focal"),
    build=build,
    options=(
        Option(name="decoderChannels", type="Integer", default=256, min=64, max=1024,
               description="Channels of the deepest decoder stage; each further one has half."),
    ),
    size=(512, 512), multiple=32, licence="MIT",
)  # fmt: skip
