"""U-Net: Ronneberger et al. (2015), with an EfficientNet-Lite0 encoder, through segmentation-models-pytorch."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from fovea_api.architectures import Architecture, Option
from fovea_api.common import Task
from torch import Tensor, nn

from fovea_trainer.models.losses import LossSettings, class_loss
from fovea_trainer.models.network import Network
from fovea_trainer.models.registry import Options, register
from fovea_trainer.models.weights import LITE0, lite0_state, load_state
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets

HALF = (0.5, 0.5, 0.5)
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
        return {"class": class_loss(raw.float(), targets.masks, self.loss_settings)}

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"logits": raw}


@register(
    Architecture(
        name="unet-efficientnet-lite0", task=Task.SEMANTIC_SEGMENTATION,
        description="U-Net (Ronneberger et al. 2015) with an EfficientNet-Lite0 encoder.",
        width=512, height=512, multiple=32, mean=HALF, std=HALF, weights=("None", "ImageNet"),
        packaged=("ImageNet",), losses=("DiceCrossEntropy", "CrossEntropy", "Dice", "Focal"),
        licence="MIT; encoder weights Apache-2.0",
        options=(
            Option(name="decoderChannels", type="Integer", default=256, min=64, max=1024,
                   description="Channels of the deepest decoder stage; each further one has half."),
        ),
    )
)  # fmt: skip
def build(info: Architecture, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> UNet:
    deepest = options.integer("decoderChannels")
    unet = smp.Unet(
        f"tu-{LITE0}",
        encoder_weights=None,
        decoder_channels=[deepest >> stage for stage in range(STAGES)],
        classes=classes,
    )
    if pretrained:
        load_state(unet.encoder.model, lite0_state(), "the packaged weights")
    return UNet(unet, unet.encoder, classes, loss)
