"""What DeepLab and U-Net do with encoders and batches."""

from __future__ import annotations

import pytest
import torch
from fovea_api.errors import InvalidInput
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import nn

DEEPLABS = ("deeplabv3", "deeplabv3plus")


def network(head: str, body: str = "test_resnet") -> AnyNetwork:
    torch.manual_seed(0)
    options = {"decoderChannels": 64 if head == "unet" else 16}
    return build(NetworkDescription(head, Body(body), options, 3), LossSettings())


@pytest.mark.parametrize("head", DEEPLABS)
def test_deeplab_learns_from_a_batch_of_one(head: str) -> None:
    net = network(head).train()
    losses = net.loss(net(torch.randn(1, 3, 64, 96)), MaskTargets(torch.randint(0, 3, (1, 64, 96))))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("head", DEEPLABS)
def test_the_pooled_branch_of_deeplab_goes_by_its_own_image_alone(head: str) -> None:
    (pooling,) = (module for module in network(head).train().modules() if isinstance(module, ASPPPooling))
    images = torch.randn(4, pooling[1].in_channels, 4, 6)
    assert torch.allclose(pooling(images)[:1], pooling(images[:1]), atol=1e-6)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in pooling.modules())


@pytest.mark.parametrize("head", DEEPLABS)
def test_the_last_map_of_deeplabs_encoder_has_a_stride_of_16(head: str) -> None:
    with torch.no_grad():
        assert network(head).backbone()(torch.zeros(1, 3, 64, 96))[-1].shape[-2:] == (4, 6)


@pytest.mark.parametrize(("head", "body"), [("deeplabv3", "swin_tiny_patch4_window7_224"), ("unet", "test_vit")])
def test_a_body_that_cannot_be_the_encoder_is_refused(head: str, body: str) -> None:
    with pytest.raises(InvalidInput, match=f"spec.model.options.backbone: {body} cannot be the encoder"):
        network(head, body)


def test_a_unets_weights_keep_the_names_that_bundles_have() -> None:
    assert {name.split(".")[0] for name in network("unet").state_dict()} == {"unet"}
