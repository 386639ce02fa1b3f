"""Detectors trained on COCO, by checkpoints of torchvision's own networks in its own naming."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fovea_api.architectures import find
from fovea_api.trainingjob import ModelChoice
from fovea_trainer.models import coco
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.registry import build_network
from fovea_trainer.models.weights import HubUnavailable, WeightsUnavailable
from torch import nn
from torchvision.models import get_model

SHARED = {
    "fasterrcnn": {"rpn.head.conv": "rpn.head.conv", "rpn.head.bbox_pred": "rpn.head.bbox_pred"},
    "fcos": {"head.classification_head.conv": "of_classes.conv", "head.regression_head": "of_sides"},
    "maskrcnn": {"rpn.head": "rpn.head", "roi_heads.mask_head": "mask_head"},
    "retinanet": {"head.classification_head.conv": "head.classification_head.conv"},
}
"""Parts of torchvision's network behind the pyramid that are whole in ours, and their names there."""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def network(name: str) -> AnyNetwork:
    whole = find(name).coco
    assert whole is not None
    choice = {"architecture": name, "options": whole.options, "pretrained": {"weights": "COCO"}}
    return build_network(ModelChoice.model_validate(choice), 3, LossSettings()).eval()


def published(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torchvision's network with weights of its own, at the address that is asked for them."""
    torch.manual_seed(0)
    theirs = get_model(coco.PUBLISHED[name].network, weights=None, weights_backbone=None)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    file = folder / "weights.pth"
    torch.save(theirs.state_dict(), file)
    file = file.rename(folder / f"{name}_coco-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setitem(coco.PUBLISHED, name, replace(coco.PUBLISHED[name], url=file.as_uri()))
    return theirs.eval()


@pytest.mark.parametrize("name", coco.PUBLISHED)
@torch.no_grad()
def test_a_network_computes_what_the_published_one_does_up_to_its_own_layers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, images = published(name, tmp_path, monkeypatch), torch.rand(1, 3, 64, 96)
    ours = network(name)
    levels = list(theirs.backbone(images).values())
    levels = levels[next(index for index, level in enumerate(levels) if level.shape[-1] == 96 // 8) :]
    for mine, expected in zip(ours.pyramid(images)[:3], levels, strict=False):
        assert torch.allclose(mine, expected, rtol=1e-3, atol=1e-4)
    assert levels[0].std() > 0.01
    for part, own in SHARED[name].items():
        state, expected = ours.get_submodule(own).state_dict(), theirs.get_submodule(part).state_dict()
        same = {key for key in state if key in expected and torch.equal(state[key], expected[key])}
        assert {key for key in state if "cls_logits" not in key} <= same
    (note,) = (note for note in json.loads(ours.description)["notes"] if "COCO" in note)
    total = len(ours.state_dict())
    matched = int(note.split(" of ")[0])
    assert 0.9 * total < matched < total
    assert f"{matched} of {total} tensors of the network are those of {coco.PUBLISHED[name]}" in note
    assert "anew start" in note


def test_without_a_network_it_says_where_the_file_belongs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = replace(coco.PUBLISHED["fcos"], url="http://127.0.0.1:9/fcos-12345678.pth")
    monkeypatch.setitem(coco.PUBLISHED, "fcos", closed)
    with pytest.raises(HubUnavailable, match=r"fcos_resnet50_fpn.*torch/hub/checkpoints/fcos-12345678.pth"):
        network("fcos")


def test_a_file_of_another_content_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "fcos-12345678.pth"
    torch.save({}, file)
    monkeypatch.setitem(coco.PUBLISHED, "fcos", replace(coco.PUBLISHED["fcos"], url=file.as_uri()))
    with pytest.raises(WeightsUnavailable, match="invalid hash value"):
        network("fcos")
