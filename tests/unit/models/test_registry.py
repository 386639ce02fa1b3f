"""Every registered architecture builds and learns from a step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from fovea_api.architectures import InvalidOption, UnknownArchitecture, catalogue, configured, find, read_options
from fovea_api.common import Task
from fovea_api.compatibility import UnsuitableLoss, ignored_by_loss
from fovea_api.errors import InvalidInput
from fovea_api.figures import figures
from fovea_api.trainingjob import Input, Loss, ModelChoice, Pretrained, Recipe, Training
from fovea_trainer.models import catalogue as generator
from fovea_trainer.models.losses import LossSettings, choose_losses
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.registry import build_network, entry_of, input_size, register
from fovea_trainer.tasks import Targets
from fovea_trainer.tasks.classification.targets import ClassTargets
from fovea_trainer.tasks.detection.targets import BoxTargets
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets

SMALL = {**{f"resnet{layers}": {"width": 0.25} for layers in (18, 34, 50, 101)},
         "retinanet": {"backbone": "test_efficientnet"},
         "yolact": {"backbone": "test_resnet", "neckChannels": 32},
         "yolo": {"backbone": "test_convnext", "neckChannels": 32},
         "fcos": {"backbone": "test_resnet", "fpnChannels": 32},
         "ssd": {"backbone": "test_resnet", "extraChannels": 32},
         "ssdlite": {"extraChannels": 32},
         "deeplabv3": {"backbone": "test_efficientnet", "decoderChannels": 32},
         "deeplabv3plus": {"backbone": "test_resnet", "decoderChannels": 32},
         "unet": {"backbone": "test_byobnet"}}  # fmt: skip
"""Options of those that are only tested for their shapes."""
FAMILY = "timm/test_vit"
"""A model of timm that is small, and takes images of one size."""
ALL = [*sorted(catalogue()), FAMILY]


def network(name: str, **choice: object) -> AnyNetwork:
    architecture = find(name)
    architecture = configured(architecture, choice.get("options", {}))
    weights = Pretrained(weights="ImageNet" if "ImageNet" in architecture.packaged else "None")
    loss = LossSettings(choose_losses(architecture, Training(), False))
    torch.manual_seed(0)
    return build_network(ModelChoice.model_validate({"architecture": name, "pretrained": weights, **choice}), 3, loss)


def batch(task: Task, width: int = 128, height: int = 96) -> tuple[torch.Tensor, Targets]:
    images = torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[10.0, 10, 50, 60], [40, 30, 90, 80]])
    none = torch.zeros(0, 4)
    targets = {
        Task.CLASSIFICATION: ClassTargets(torch.tensor([0, 1, 2, 0])),
        Task.DETECTION: BoxTargets(
            boxes=(boxes, none, boxes, none),
            labels=tuple(torch.tensor([0, 2] * (index % 2 == 0), dtype=torch.int64) for index in range(4)),
        ),
        Task.INSTANCE_SEGMENTATION: InstanceTargets(
            boxes=(boxes, none, boxes, none),
            labels=tuple(torch.tensor([0, 2] * (index % 2 == 0), dtype=torch.int64) for index in range(4)),
            instances=tuple(torch.ones(1, 96, 128, dtype=torch.int16) for _ in range(4)),
        ),
        Task.SEMANTIC_SEGMENTATION: MaskTargets(torch.randint(0, 3, (4, 96, 128))),
    }
    return images, targets[task]


def test_the_catalogue_is_what_the_registry_has() -> None:
    assert generator.PATH.read_text("utf-8") == generator.render(), "run: python -m fovea_trainer.models.catalogue"
    assert generator.BACKBONES.read_text("utf-8") == generator.render_backbones(), "run the same"
    assert (generator.FOLDER / generator.FIGURES).read_text("utf-8") == generator.render_figures(), "run the same"


@pytest.mark.parametrize("name", ["efficientnet-lite0", "ssdlite", "yolact"])
def test_the_figures_are_those_of_the_networks(name: str) -> None:
    assert generator.calculated(name) == figures()[name], f"delete {name} from {generator.FIGURES} and run the same"


def test_names_are_known_without_torch() -> None:
    code = "import sys; from fovea_api.architectures import catalogue; catalogue(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ALL)
def test_a_step_teaches_all_of_it(name: str) -> None:
    """Also where images have no objects, and are not square."""
    net, known = network(name, options=SMALL.get(name, {})), find(name)
    width, height = (known.width, known.height) if known.fixed_size else (128, 96)
    images, targets = batch(net.task, width, height)
    losses = net.loss(net(images), targets)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("name", ["efficientnet-lite0", "retinanet-efficientnet-lite0", "unet-efficientnet-lite0"])
def test_freezing_spares_what_it_says(name: str) -> None:
    everything, norms, nothing = (
        sum(parameter.requires_grad for parameter in network(name, freeze=what).backbone().parameters())
        for what in ("None", "BackboneExceptNorm", "Backbone")
    )
    assert everything > norms > nothing == 0
    frozen = network(name, freeze="Backbone")
    before = {key: value.clone() for key, value in frozen.backbone().state_dict().items()}
    frozen.train()(batch(frozen.task)[0])
    assert all(torch.equal(value, before[key]) for key, value in frozen.backbone().state_dict().items())


def test_the_packaged_weights_are_those_of_imagenet() -> None:
    fresh = network("efficientnet-lite0", pretrained=Pretrained(weights="None"))
    loaded = network("efficientnet-lite0")
    spread = [float(np.std(net.backbone().state_dict()["conv_stem.weight"].numpy())) for net in (fresh, loaded)]
    assert spread[1] > 2 * spread[0]


def test_wrong_names_options_weights_losses_and_sizes_say_what_would_be_right() -> None:
    with pytest.raises(UnknownArchitecture, match="did you mean resnet50"):
        find("resnet-50")
    with pytest.raises(InvalidOption, match=r"has no option 'fpnChanels' \(it has fpnChannels"):
        read_options(find("fasterrcnn"), {"fpnChanels": 96})
    with pytest.raises(InvalidOption, match="a whole number from 16 to 512"):
        read_options(find("fasterrcnn"), {"fpnChannels": 5})
    assert read_options(find("fasterrcnn"), {"anchorSizes": []})["anchorSizes"] == ()  # as frozen recipes have it
    with pytest.raises(InvalidInput, match="has no COCO weights"):
        build_network(ModelChoice(architecture="resnet18", pretrained=Pretrained(weights="COCO")), 3, LossSettings())
    with pytest.raises(UnsuitableLoss, match="use Default or one of Focal, SmoothL1, GIoU, DIoU, CIoU"):
        choose_losses(find("retinanet-efficientnet-lite0"), Training(loss=Loss.DICE), False)
    with pytest.raises(InvalidInput, match="multiples of 32, not 100 x 64"):
        input_size(find("unet-efficientnet-lite0"), Input.model_validate({"size": {"width": 100, "height": 64}}))


def test_a_name_can_be_registered_once() -> None:
    entry = entry_of("resnet18")
    with pytest.raises(ValueError, match="registered twice"):
        register(entry)


@pytest.mark.parametrize("loss", [Loss.SMOOTH_L1, Loss.GIOU, Loss.DIOU, Loss.CIOU])
def test_other_box_losses(loss: Loss) -> None:
    choice = ModelChoice(architecture="retinanet-efficientnet-lite0", pretrained=Pretrained(weights="None"))
    net = build_network(choice, 3, LossSettings({loss: 1.0}))
    images, targets = batch(net.task)
    assert all(torch.isfinite(value) for value in net.loss(net(images), targets).values())


@pytest.mark.parametrize(
    ("architecture", "balance", "loss", "smoothing", "words"),
    [
        ("fasterrcnn", "FocalLoss", "Default", 0, "spec.input.balance: fasterrcnn has no focal loss (use Oversample"),
        ("resnet18", "FocalLoss", "CrossEntropy", 0, "balance: resnet18 is trained with CrossEntropy (leave training"),
        ("unet-efficientnet-lite0", "FocalLoss", "Dice", 0, "is trained with Dice (leave training.loss at Default"),
        ("unet-efficientnet-lite0", "ClassWeights", "Dice", 0, "balance: the loss Dice takes no class weights (use Ov"),
        ("fasterrcnn", "ClassWeights", "Default", 0, ""),
        ("resnet18", "None", "Focal", 0.1, "labelSmoothing: the loss Focal takes no label smoothing (set it to 0, or"),
        ("resnet18", "FocalLoss", "Default", 0.1, "the loss Focal takes no label smoothing"),
        ("unet-efficientnet-lite0", "None", "Dice", 0.1, "DiceCrossEntropy or CrossEntropy or BinaryCrossEntropy)"),
        (
            "fasterrcnn",
            "None",
            "Default",
            0.1,
            "spec.training.labelSmoothing: fasterrcnn takes no label smoothing",
        ),
        ("retinanet-efficientnet-lite0", "None", "GIoU", 0.1, "takes no label smoothing (set it to 0)"),
        ("retinanet-efficientnet-lite0", "FocalLoss", "GIoU", 0, ""),
        ("yolo", "FocalLoss", "Default", 0, ""),
        ("fcos", "FocalLoss", "IoU", 0, ""),
        ("ssd", "FocalLoss", "Default", 0, "spec.input.balance: ssd has no focal loss (use Oversample"),
        ("retinanet-efficientnet-lite0", "Oversample", "Default", 0, ""),
        ("resnet18", "FocalLoss", "Focal", 0, ""),
        ("resnet18", "ClassWeights", "Focal", 0, ""),
        ("resnet18", "ClassWeights", "Default", 0.1, ""),
        ("unet-efficientnet-lite0", "ClassWeights", "Default", 0.1, ""),
    ],
)
def test_what_the_loss_would_ignore_is_refused(
    architecture: str, balance: str, loss: str, smoothing: float, words: str
) -> None:
    recipe = Recipe.model_validate(
        {
            "model": {"architecture": architecture},
            "input": {"balance": balance},
            "training": {"loss": loss, "labelSmoothing": smoothing},
        }
    )
    errors = [str(error) for error in ignored_by_loss(find(architecture), recipe)]
    assert len(errors) == (1 if words else 0), errors
    assert all(words in text for text in errors), errors
