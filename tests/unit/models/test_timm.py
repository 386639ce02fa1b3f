"""Any model of timm is a classifier, and the backbone of detectors and segmenters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from fovea_api.architectures import InvalidOption, UnknownArchitecture, configured, find, read_options
from fovea_api.backbones import Backbone, UnknownBackbone, backbone, backbones
from fovea_api.compatibility import incompatibilities, wrong_sizes, wrong_weights
from fovea_api.errors import InvalidInput
from fovea_api.presets import with_preset
from fovea_api.run import RunInputs, RunOwner, RunType, run_identity
from fovea_api.trainingjob import Input, ModelChoice, Pretrained, Recipe, TrainingJobSpec
from fovea_trainer.models import catalogue as generator
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.registry import architecture_of, build_network
from fovea_trainer.models.weights import WeightsUnavailable, lite0_state
from huggingface_hub import constants

NONE = Pretrained(weights="None")
DETECTORS = ("fasterrcnn", "retinanet")


def choice(name: str, **more: object) -> ModelChoice:
    return ModelChoice.model_validate({"architecture": name, "pretrained": {"weights": "None"}, **more})


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_384", "resnet50.a1_in1k", "test_efficientnet"])
def test_a_classifier_has_the_input_and_normalization_of_timms_own_weights(name: str) -> None:
    known, config = find(f"timm/{name}"), timm.get_pretrained_cfg(name)
    assert (known.mean, known.std, (3, known.height, known.width)) == (config.mean, config.std, config.input_size)
    assert known.fixed_size == config.fixed_input_size
    assert known.weights == ("None", "ImageNet")


def test_names_of_timm_are_models_that_it_makes() -> None:
    assert set(timm.list_models()) <= set(backbones())
    network = build_network(choice("timm/test_efficientnet.r160_in1k"), 5, LossSettings())
    assert network(torch.randn(2, 3, 64, 96)).shape == (2, 5)
    assert timm.create_model("test_efficientnet", num_classes=0).state_dict().keys() == (
        network.backbone().state_dict().keys()
    )


def test_nonsense_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownBackbone, match=r"architecture: timm has no model 'resnet51' \(did you mean resnet"):
        find("timm/resnet51")
    with pytest.raises(UnknownArchitecture, match=r"no architecture 'resnet26' \(did you mean timm/resnet26\?"):
        find("resnet26")
    with pytest.raises(UnknownBackbone, match=r"options.backbone: timm has no model 'convnext_ato'.*convnext_atto"):
        read_options(find("retinanet"), {"backbone": "convnext_ato"})
    with pytest.raises(InvalidOption, match=r"options.backbone: vit_tiny_patch16_224 takes inputs of one size only"):
        read_options(find("unet"), {"backbone": "vit_tiny_patch16_224"})
    with pytest.raises(InvalidOption, match="give the name of a timm model"):
        read_options(find("unet"), {"backbone": 18})
    spec = TrainingJobSpec.model_validate({"datasetRef": {"name": "x"}, "model": {"architecture": "timm/resnet51"}})
    assert [type(error) for error in incompatibilities(spec)] == [UnknownBackbone]
    for name in ("timm/", "timm/a/b", "timm/../x", "other/resnet18", "timm/Resnet"):
        with pytest.raises(ValueError, match="pattern"):
            choice(name)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_backbone_without_the_pyramids_strides_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"options.backbone: convmixer_768_32 has feature maps of strides 7, 7, 7, not of 8, 16, 32"
    ):
        build_network(choice(name, options={"backbone": "convmixer_768_32"}), 3, LossSettings())


def test_a_backbone_brings_its_normalization_weights_and_licence() -> None:
    own = architecture_of(choice("retinanet"))
    other = architecture_of(choice("retinanet", options={"backbone": "convnextv2_atto"}))
    assert (own.mean, own.packaged, own.weights_licence) == ((0.5, 0.5, 0.5), ("ImageNet",), "Apache-2.0")
    assert (other.mean, other.packaged, other.weights_licence) == ((0.485, 0.456, 0.406), (), "CC-BY-NC-4.0")
    assert (other.width, other.licence) == (own.width, own.licence) == (320, "BSD-3-Clause")


def test_weights_with_a_restrictive_licence_are_used_by_those_who_accept_it() -> None:
    def problems(**model: object) -> list[str]:
        asked = ModelChoice.model_validate({"architecture": "timm/convnextv2_atto", **model})
        return [str(error) for error in wrong_weights(find(asked.architecture), asked)]

    assert "acceptLicence" in problems()[0]
    assert "have the licence CC-BY-NC-4.0, which may restrict use (set it to CC-BY-NC-4.0" in problems()[0]
    assert problems(acceptLicence="MIT") == problems()
    assert problems(acceptLicence="CC-BY-NC-4.0") == []
    assert problems(pretrained={"weights": "None"}) == []


def test_a_model_that_takes_one_size_is_refused_another_and_its_preset_asks_for_none() -> None:
    known = find("timm/vit_tiny_patch16_224")
    (error,) = wrong_sizes(known, Input.model_validate({"size": {"width": 256, "height": 224}}))
    assert "takes inputs of 224 x 224 only, not 256 x 224" in str(error)
    windows = {"size": {"width": 224, "height": 224}, "augmentations": [{"randomCrop": {"width": 128, "height": 224}}]}
    assert [error.location for error in wrong_sizes(known, Input.model_validate(windows))] == [
        "spec.input.augmentations[0].randomCrop"
    ]
    laid = with_preset(Recipe.model_validate({"model": {"architecture": known.name}}))
    assert laid.input.sizing is None
    assert (
        laid.training.epochs
        == with_preset(Recipe.model_validate({"model": {"architecture": "resnet18"}})).training.epochs
    )
    assert list(wrong_sizes(known, laid.input)) == []


def test_a_model_that_was_entered_keeps_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "backbones.json"
    file.write_text(json.dumps({"test_vit": {"width": 96, "height": 96}, "of_a_former_timm": {}}))
    monkeypatch.setattr(generator, "BACKBONES", file)
    monkeypatch.setattr(timm, "list_models", lambda pretrained=False: ["test_vit", "test_resnet"])
    made = json.loads(generator.render_backbones())
    assert made == {"test_resnet": generator._describe("test_resnet"), "test_vit": {"width": 96, "height": 96}}
    assert Backbone.model_validate(made["test_resnet"]).mean == (0.5, 0.5, 0.5)


def test_the_packaged_weights_fill_the_model_under_timms_name() -> None:
    for name in ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"):
        assert backbone(name, "").packaged
        network = build_network(ModelChoice(architecture=f"timm/{name}"), 3, LossSettings())
        stem = network.backbone().state_dict()["conv_stem.weight"]
        assert torch.equal(stem, lite0_state()["conv_stem.weight"])


def test_other_weights_without_a_network_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match=r"weights of test_resnet could not be downloaded.*pretrained\.uri"):
        build_network(ModelChoice(architecture="timm/test_resnet"), 3, LossSettings())
    with pytest.raises(InvalidOption, match="timm/test_vit4 has no ImageNet weights"):
        build_network(ModelChoice(architecture="timm/test_vit4"), 3, LossSettings())


def test_the_option_is_part_of_a_runs_identity_and_its_absence_is_not() -> None:
    def identity(**options: str) -> str:
        recipe = Recipe.model_validate({"model": {"architecture": "fasterrcnn", "options": options}})
        return run_identity(RunType.TRAINING, RunOwner(kind="TrainingJob", name="x"), recipe, RunInputs())

    assert len({identity(), identity(backbone="resnet18"), identity(backbone="resnet34")}) == 3
    assert configured(find("resnet18"), {}) is find("resnet18")
