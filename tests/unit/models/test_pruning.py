"""Pruning removes the least channels; what is left is a network of its weights. Every architecture is pruned in
training/test_conformance.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import ModelChoice
from fovea_trainer.export import save_weights
from fovea_trainer.models.description import KEY, NetworkDescription, assemble, is_same_network
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.pruning import kept_channels, layer_channels, output_layers, prune
from fovea_trainer.models.registry import build_network

SIZE = (96, 96)


def network(architecture: str, **options: object) -> AnyNetwork:
    torch.manual_seed(0)
    choice = {"architecture": architecture, "options": options, "pretrained": {"weights": "None"}}
    made = build_network(ModelChoice.model_validate(choice), 3, LossSettings())
    made.train()
    with torch.no_grad():
        made(torch.randn(2, 3, *SIZE))  # norms with statistics of their own
    return made.eval()


def test_the_channels_of_the_smallest_norm_go_and_the_others_stay_as_they_are() -> None:
    whole = network("resnet18", width=0.25)
    layer, following = whole.get_submodule("body.layer1.0.conv1"), whole.get_submodule("body.layer1.0.conv2")
    weak = [1, 5, 6, 9]
    with torch.no_grad():
        layer.weight[weak] *= 1e-3
        following.weight[:, weak] *= 1e-3
    weights = prune(whole, 0.25)
    kept = [index for index in range(16) if index not in weak]
    assert torch.equal(
        weights["body.layer1.0.bn1.running_mean"], whole.state_dict()["body.layer1.0.bn1.running_mean"][kept]
    )
    assert weights["head.1.weight"].shape[0] == 3, "the classes stay"
    assert weights["body.conv1.weight"].shape[1] == 3, "and so do the colours"


def test_pruning_once_more_changes_nothing() -> None:
    whole = network("resnet18", width=0.5)
    once = prune(whole, 0.3)
    again = assemble(NetworkDescription.from_json(whole.description), once, "test")
    twice = prune(again, 0.3, channels=layer_channels(whole))
    assert {name: value.shape for name, value in twice.items()} == {name: value.shape for name, value in once.items()}
    assert all(torch.equal(value, once[name]) for name, value in twice.items())


def test_weights_of_other_options_are_no_pruned_ones(tmp_path: Path) -> None:
    parent = network("retinanet")
    file = save_weights(parent, tmp_path / "parent.safetensors", {KEY: parent.description})
    pruned = assemble(NetworkDescription.from_json(parent.description), prune(parent, 0.5), "test")
    smaller = save_weights(pruned, tmp_path / "pruned.safetensors", {KEY: parent.description})
    for own, same in (
        (parent, True),
        (network("retinanet", fpnChannels=64), False),
        (network("retinanet", anchorRatios=[0.5, 1.0, 2.0, 3.0]), False),
    ):
        assert (is_same_network(own, file), is_same_network(own, smaller)) == (same, same)


@pytest.mark.parametrize(
    ("channels", "sparsity", "kept"),
    [(10, 0.5, 5), (3, 0.5, 2), (10, 0.3, 7), (96, 0.3, 72), (64, 0.5, 32), (1, 0.9, 1)],
)
def test_how_many_channels_stay(channels: int, sparsity: float, kept: int) -> None:
    assert kept_channels(channels, sparsity) == kept


def test_the_outputs_of_a_network_are_found() -> None:
    detector = network("fcos", fpnChannels=32)
    names = {module: name for name, module in detector.named_modules()}
    found = {names[module] for module in output_layers(detector, torch.zeros(2, 3, *SIZE))}
    assert found == {"of_classes.cls_logits", "of_sides.bbox_reg", "of_sides.bbox_ctrness"}


def test_what_cannot_be_pruned_is_refused_by_its_field() -> None:
    choice = ModelChoice(architecture="timm/test_vit", pretrained={"weights": "None"})
    transformer = build_network(choice, 3, LossSettings())
    with pytest.raises(InvalidInput, match=r"cannot be pruned: body is a VisionTransformer with") as caught:
        prune(transformer, 0.5)
    assert caught.value.location == "spec.compression.pruning"
