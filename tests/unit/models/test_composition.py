"""Any timm body goes under any head, and a network says by itself what it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_trainer.export import save_weights
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.description import KEY, NetworkDescription, build, restore
from fovea_trainer.models.heads.base import Head, heads
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.registry import compose
from fovea_trainer.models.weights import load_state, load_words
from fovea_trainer.tasks import Targets
from fovea_trainer.tasks.classification.targets import ClassTargets
from fovea_trainer.tasks.detection.targets import BoxTargets
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets
from torch import nn

BODIES = ("resnet10t", "mobilenetv3_small_050", "convnext_atto")


def options(head: Head) -> dict[str, object]:
    """The head's defaults, as small as they may be."""
    return {option.name: option.default if option.min in (None, 0) or option.default == () else int(option.min)
            for option in head.options}  # fmt: skip


def network(head: str, body: str = "mobilenetv3_small_050") -> AnyNetwork:
    torch.manual_seed(0)
    return build(NetworkDescription(head, Body(body), options(heads()[head]), 3), LossSettings())


def targets(task: Task) -> Targets:
    return {
        Task.CLASSIFICATION: ClassTargets(torch.tensor([0, 2])),
        Task.DETECTION: BoxTargets(
            (torch.tensor([[5.0, 5, 60, 50]]), torch.zeros(0, 4)),
            (torch.tensor([1]), torch.tensor([], dtype=torch.long)),
        ),
        Task.INSTANCE_SEGMENTATION: InstanceTargets(
            (torch.tensor([[5.0, 5, 60, 50]]), torch.zeros(0, 4)),
            (torch.tensor([1]), torch.tensor([], dtype=torch.long)),
            (torch.ones(1, 64, 96, dtype=torch.int16), torch.zeros(1, 64, 96, dtype=torch.int16)),
        ),
        Task.SEMANTIC_SEGMENTATION: MaskTargets(torch.randint(0, 3, (2, 64, 96))),
    }[task]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("head", sorted(heads()))
def test_any_body_learns_under_any_head(head: str, body: str) -> None:
    net = network(head, body).train()
    raw = net(torch.randn(2, 3, 64, 96))
    losses = net.loss(raw, targets(net.task))
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in net.backbone().parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    outputs = net.decode(raw)
    assert set(outputs) == set(net.postprocess.outputs)
    assert all(len(output) == 2 and torch.isfinite(output).all() for output in outputs.values())


@pytest.mark.parametrize("head", sorted(heads()))
def test_loss_and_outputs_share_one_forward_pass(head: str) -> None:
    net = network(head).eval()
    passes = []
    net.backbone().register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        raw = net(torch.randn(2, 3, 64, 96))
        net.loss(raw, targets(net.task))
        net.decode(raw)
    assert len(passes) == 1


def test_the_body_brings_its_normalization_size_and_weights() -> None:
    architecture = compose(
        "timm/convnext_atto", heads()["retinanet"], "convnext_atto", "RetinaNet on ConvNeXt."
    ).architecture
    config = timm.get_pretrained_cfg("convnext_atto")
    assert (architecture.mean, architecture.std) == (config.mean, config.std)
    assert (architecture.width, architecture.height) == (320, 320)  # a detector's
    assert (architecture.weights, architecture.packaged) == (("None", "ImageNet"), ())
    classifier = compose("timm/vit", heads()["classifier"], "vit_tiny_patch16_384", "A ViT.").architecture
    assert (classifier.width, classifier.mean) == (384, (0.5, 0.5, 0.5))


def test_a_body_without_the_heads_strides_or_of_no_such_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"vit_tiny_patch16_224 has feature maps of strides 16, 16, 16, not of 8, 1"):
        network("retinanet", "vit_tiny_patch16_224")
    with pytest.raises(InvalidInput, match=r"no model 'resnet181' \(did you mean resnet18"):
        compose("x", heads()["classifier"], "resnet181", "")


@pytest.mark.parametrize("head", sorted(heads()))
def test_a_network_is_restored_from_its_weights_alone(head: str, tmp_path: Path) -> None:
    net = network(head).eval()
    images = torch.randn(2, 3, 64, 96)
    again = restore(save_weights(net, tmp_path / "model.safetensors", {KEY: net.description}))
    assert not again.training
    with torch.no_grad():
        for name, output in net.decode(net(images)).items():
            assert torch.equal(again.decode(again(images))[name], output)


def test_a_pruned_network_is_restored_with_the_channels_that_it_has(tmp_path: Path) -> None:
    net = build(NetworkDescription("classifier", Body("resnet18", 0.25), {"dropout": 0.0}, 3), LossSettings()).eval()
    block, kept = net.backbone().layer2[0], [0, 2, 3, 7, 11]
    first, norm, second = (
        nn.Conv2d(16, 5, 3, 2, 1, bias=False),
        nn.BatchNorm2d(5),
        nn.Conv2d(5, 32, 3, 1, 1, bias=False),
    )
    with torch.no_grad():
        first.weight.copy_(block.conv1.weight[kept])
        second.weight.copy_(block.conv2.weight[:, kept])
    block.conv1, block.bn1, block.conv2 = first, norm, second
    net.eval()
    again = restore(save_weights(net, tmp_path / "model.safetensors", {KEY: net.description}))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(images), net(images))


def test_weights_of_other_classes_are_loaded_but_for_the_head_and_the_words_say_so() -> None:
    three, five = (
        build(NetworkDescription("classifier", Body("test_resnet"), {"dropout": 0.0}, classes), LossSettings())
        for classes in (3, 5)
    )
    fresh = load_state(five, three.state_dict(), "a bundle")
    assert fresh == ("head.1.weight", "head.1.bias")
    total = len(five.state_dict())
    words = f"{total - 2} of {total} tensors of the network are those of a bundle; anew start head.1."
    assert load_words(five, fresh, "a bundle") == words
    loaded = five.backbone().state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in three.backbone().state_dict().items())


def test_weights_that_say_nothing_or_something_else_are_refused(tmp_path: Path) -> None:
    net = network("classifier")
    with pytest.raises(InvalidInput, match="carry no description"):
        restore(save_weights(net, tmp_path / "bare.safetensors"))
    with pytest.raises(InvalidInput, match="cannot be read"):
        restore(save_weights(net, tmp_path / "broken.safetensors", {KEY: '{"head": "classifier"}'}))
    other = network("unet").description
    with pytest.raises(InvalidInput, match="not those of the described network"):
        restore(save_weights(net, tmp_path / "other.safetensors", {KEY: other}))
