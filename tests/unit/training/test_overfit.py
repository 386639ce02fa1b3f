"""Every architecture learns eight images by heart: what is trained is what is decoded, matched and measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fovea_api.architectures import catalogue, configured
from fovea_api.common import Task
from fovea_api.trainingjob import Recipe
from fovea_trainer.augmentation import Augment
from fovea_trainer.models.registry import entry_of
from fovea_trainer.tasks import definition
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import Collate, Normalize, SplitDataset, preprocessing
from fovea_trainer.training.loading import ValidationBatches
from fovea_trainer.training.network import make_network
from fovea_trainer.training.precision import Precision
from fovea_trainer.training.validation import validate
from synthetic import squares

STEPS = 60
SIZE = {"width": 64, "height": 64}
ENOUGH = {
    Task.CLASSIFICATION: {"accuracy": 1.0},
    Task.DETECTION: {"mAP50": 0.99, "mAP": 0.5},  # boxes of 16 to 28 pixels: one more or less costs overlap
    Task.SEMANTIC_SEGMENTATION: {"dice": 0.95},
    Task.INSTANCE_SEGMENTATION: {"mAP50": 0.99, "mAP": 0.5},
}
OTHERWISE = {"deeplabv3": {"dice": 0.7}}
"""What can be had of maps of a stride of 16 pixels, where squares have sides of 16 to 28."""
OPTIONS = {
    "resnet18": {"width": 0.25, "stem": "Small"},
    "resnet34": {"width": 0.25, "stem": "Small"},
    "resnet50": {"width": 0.125, "stem": "Small"},
    "resnet101": {"width": 0.125, "stem": "Small"},
    "retinanet-efficientnet-lite0": {"fpnChannels": 32},
    "fasterrcnn": {"fpnChannels": 32, "proposals": 16},
    "maskrcnn": {"fpnChannels": 32, "proposals": 16, "maskChannels": 16},
    "retinanet": {"fpnChannels": 32, "backbone": "test_resnet"},
    "yolo": {"neckChannels": 32, "backbone": "test_resnet"},
    "fcos": {"fpnChannels": 32, "backbone": "test_resnet"},
    "ssd": {"extraChannels": 32, "backbone": "test_resnet"},
    "ssdlite": {"extraChannels": 32},
    "unet": {"backbone": "test_efficientnet"},
    "deeplabv3": {"decoderChannels": 32},
    "deeplabv3plus": {"decoderChannels": 32},
}
NAMES = [*sorted(catalogue()), "timm/test_vit"]


@pytest.mark.parametrize("name", NAMES)
def test_it_overfits_eight_images(name: str, tmp_path: Path) -> None:
    options = OPTIONS.get(name, {})
    architecture = configured(entry_of(name).architecture, options)
    size = {"width": architecture.width, "height": architecture.height} if architecture.fixed_size else SIZE
    version = squares(architecture.task, train=8, validation=0)
    recipe = Recipe.model_validate(
        {
            "model": {
                "architecture": name,
                "options": options,
                "pretrained": {"weights": "ImageNet" if architecture.packaged else "None"},
            },
            "input": {"size": size},
        }
    )
    network, task = make_network(recipe, version), definition(architecture.task)
    dataset = SplitDataset(version.split("train"), task, preprocessing(architecture, recipe.input), Augment(()))
    context = SingleProcess(tmp_path, 1, lambda progress: None)
    images, targets, _ = Collate(task)([dataset[index] for index in range(8)])
    network.to(context.device)
    images, targets = Normalize(dataset.preprocess, context.device)(images), targets.to(context.device)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    network.train()
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(network.loss(network(images), targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimizer.step()
        schedule.step()
    with torch.no_grad():  # the statistics of the norms follow slower than the weights
        for _ in range(20):
            network(images)
    metrics = validate(network, ValidationBatches(dataset, 8, context), context, Precision("FP32", context.device.type))
    for metric, least in OTHERWISE.get(name, ENOUGH[architecture.task]).items():
        assert metrics[f"validation/{metric}"] >= least, metrics
