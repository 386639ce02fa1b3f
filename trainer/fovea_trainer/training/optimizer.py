"""The optimizer of a recipe and its groups of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from fovea_api.trainingjob import Optimizer
from timm.optim.lion import Lion
from torch import nn

from fovea_trainer.models.network import NORMS, AnyNetwork

BETA1 = 0.9
"""Momentum of Adam, AdamW and Lion."""
SCALE = "lr_scale"
"""Key of a group's share of the learning rate, under the name that timm gives it."""


def build_optimizer(network: AnyNetwork, recipe: Optimizer) -> torch.optim.Optimizer:
    """The optimizer over what is trained; biases and norms get no weight decay.

    The backbone learns at `backboneRate` of the rate; with `layerDecay` each of its layers more slowly than the one
    after it, as in Bao et al., "BEiT" (2021). What follows the backbone learns at the full rate.
    """
    backbone = network.backbone()
    scales = layer_scales(backbone, recipe.layer_decay) if recipe.layer_decay < 1 else {}
    if recipe.backbone_rate < 1:
        scales = {each: recipe.backbone_rate * scales.get(each, 1.0) for each in backbone.parameters()}
    members: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            members.setdefault((parameter.ndim > 1, scales.get(parameter, 1.0)), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": members[decays, scale], "weight_decay": recipe.weight_decay if decays else 0.0, SCALE: scale}
        for decays, scale in sorted(members, reverse=True)
    ]
    rate = recipe.learning_rate
    if recipe.name == "SGD":
        return torch.optim.SGD(groups, rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    if recipe.name == "Lion":
        return Lion(groups, rate, betas=(BETA1, 0.99))
    kind = torch.optim.Adam if recipe.name == "Adam" else torch.optim.AdamW
    return kind(groups, rate, betas=(BETA1, 0.999))


def momentum_of(recipe: Optimizer) -> float:
    """The momentum, or beta1, that an optimizer has by itself."""
    return recipe.momentum if recipe.name == "SGD" else BETA1


def set_rates(optimizer: torch.optim.Optimizer, learning_rate: float, momentum: float) -> None:
    """Sets the learning rate, of each group by its share, and the momentum (beta1)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[SCALE]
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def layer_scales(backbone: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Share of the learning rate of each parameter of a backbone: `decay` to the number of layers that follow it.

    A layer is a block of the backbone (an element of its nested sequences) or a layer beside these, with the norm
    that follows it; the head counts as one layer more.
    """
    layers: list[list[nn.Parameter]] = []
    for module in _blocks(backbone):
        parameters = list(module.parameters())
        if layers and isinstance(module, NORMS):
            layers[-1] += parameters
        elif parameters:
            layers.append(parameters)
    layers[0] += backbone.parameters(recurse=False)  # embeddings of positions and classes
    return {
        parameter: math.pow(decay, len(layers) - index) for index, layer in enumerate(layers) for parameter in layer
    }


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    for child in children:
        wrapped = len(children) == 1 and next(child.children(), None) is not None
        if wrapped or isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        else:
            yield child
