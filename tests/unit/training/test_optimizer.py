"""Groups of parameters and the methods, held against timm and torch."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from fovea_api.trainingjob import Loss, ModelChoice, Optimizer
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.registry import build_network, entry_of
from fovea_trainer.training.optimizer import SCALE, build_optimizer, layer_scales, set_rates
from pydantic import ValidationError
from timm.optim.lion import Lion
from torch import nn


def network(architecture: str = "resnet18", freeze: str = "None") -> AnyNetwork:
    choice = ModelChoice.model_validate(
        {"architecture": architecture, "pretrained": {"weights": "None"}, "freeze": freeze}
    )
    loss = Loss(entry_of(architecture).architecture.losses[0])
    return build_network(choice, 3, LossSettings({loss: 1.0}))


def settings(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Weight decay and share of the learning rate of each parameter."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["weight_decay"], group.get(SCALE, 1.0))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet-v3", "retinanet-efficientnet-lite0"])
def test_norms_and_biases_have_no_weight_decay(architecture: str) -> None:
    model = network(architecture)
    decay = {name: weight_decay for name, (weight_decay, _) in settings(
        model, build_optimizer(model, Optimizer(weight_decay=0.1))).items()}  # fmt: skip
    groups = timm.optim.param_groups_weight_decay(model, 0.1)
    expected = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay == {name: expected[parameter] for name, parameter in model.named_parameters()}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert decay[f"{prefix}.weight"] == decay[f"{prefix}.bias"] == 0
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert decay[f"{prefix}.weight"] == 0.1
            assert decay.get(f"{prefix}.bias", 0) == 0


def test_the_backbone_learns_at_its_own_rate() -> None:
    model = network("retinanet-efficientnet-lite0")
    backbone = {name for name, parameter in model.named_parameters() if name.startswith("pyramid.body.")}
    assert backbone
    found = settings(model, build_optimizer(model, Optimizer(backbone_rate=0.25)))
    assert {name for name, (_, scale) in found.items() if scale == 0.25} == backbone
    assert {scale for name, (_, scale) in found.items() if name not in backbone} == {1.0}
    layered = settings(model, build_optimizer(model, Optimizer(backbone_rate=0.25, layer_decay=0.5)))
    plain = settings(model, build_optimizer(model, Optimizer(layer_decay=0.5)))
    assert all(layered[name][1] == pytest.approx(0.25 * plain[name][1]) for name in backbone)


def test_what_is_frozen_is_not_trained() -> None:
    model = network(freeze="Backbone")
    assert set(settings(model, build_optimizer(model, Optimizer()))) == {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 9), ("vit_tiny_patch16_224", 13)])
def test_layers_learn_as_timm_lets_them(name: str, layers: int) -> None:
    """timm's rule for whole models; its last layer is the head, which is none of the backbone's."""
    whole = timm.create_model(name, num_classes=3)
    expected = {
        parameter: group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(whole, layer_decay=0.5)
        for parameter in group["params"]
    }
    head = set(whole.get_classifier().parameters())
    body = {name: parameter for name, parameter in whole.named_parameters() if parameter not in head}
    whole.reset_classifier(0)
    scales = layer_scales(whole, 0.5)
    assert {name: scales[parameter] for name, parameter in body.items()} == {
        name: expected[parameter] for name, parameter in body.items()
    }
    assert len(set(scales.values())) == layers


@pytest.mark.parametrize("architecture", ["retinanet-efficientnet-lite0", "unet-efficientnet-lite0"])
def test_layers_of_a_backbone_within_a_network(architecture: str) -> None:
    model = network(architecture)
    learned = settings(model, build_optimizer(model, Optimizer(layer_decay=0.5)))
    backbone = {parameter: name for name, parameter in model.backbone().named_parameters()}
    names = {name: backbone.get(parameter) for name, parameter in model.named_parameters()}
    scale = {inner: learned[name][1] for name, inner in names.items() if inner is not None}
    assert {learned[name][1] for name, inner in names.items() if inner is None} == {1.0}, "neck and head"
    (stem,) = (value for name, value in scale.items() if name.endswith("conv_stem.weight"))
    (deep,) = (value for name, value in scale.items() if name.endswith("blocks.4.0.conv_pw.weight"))
    assert stem == min(scale.values()) < deep < max(scale.values()) == 0.5


def test_rates_follow_the_groups() -> None:
    model = network()
    optimizer = build_optimizer(model, Optimizer(layer_decay=0.5, name="AdamW"))
    set_rates(optimizer, 0.1, 0.8)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1 * 0.5**power for power in range(10)}
    assert all(group["betas"] == (0.8, 0.999) for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("recipe", "reference"),
    [
        (Optimizer(name="SGD", momentum=0.8), lambda p: torch.optim.SGD(p, 0.1, 0.8, weight_decay=0.2)),
        (
            Optimizer(name="SGD", momentum=0.8, nesterov=True),
            lambda p: torch.optim.SGD(p, 0.1, 0.8, weight_decay=0.2, nesterov=True),
        ),
        (Optimizer(name="Adam"), lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.2)),
        (Optimizer(name="AdamW"), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.2)),
        (Optimizer(name="Lion"), lambda p: Lion(p, 0.1, (0.9, 0.99), weight_decay=0.2)),
    ],
    ids=["SGD", "Nesterov", "Adam", "AdamW", "Lion"],
)
def test_each_method_is_the_librarys(recipe: Optimizer, reference: object) -> None:
    """Three steps on one weight: the same as the library's optimizer with the recipe's figures."""
    mine = network()
    theirs = copy.deepcopy(mine)
    recipe = recipe.model_copy(update={"learning_rate": 0.1, "weight_decay": 0.2})
    weight, other = (model.get_parameter("body.layer1.0.conv1.weight") for model in (mine, theirs))
    for parameter in mine.parameters():
        parameter.requires_grad = parameter is weight
    pairs = [(weight, build_optimizer(mine, recipe)), (other, reference([other]))]  # type: ignore[operator]
    for step in range(3):
        for parameter, optimizer in pairs:
            torch.manual_seed(step)
            parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    assert torch.equal(weight, other)


def test_nesterov_is_refused_where_it_has_no_effect() -> None:
    for optimizer in ({"name": "AdamW"}, {"name": "SGD", "momentum": 0}):
        with pytest.raises(ValidationError, match="nesterov needs SGD with a momentum"):
            Optimizer.model_validate({**optimizer, "nesterov": True})
