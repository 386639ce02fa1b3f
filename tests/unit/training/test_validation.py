"""Validation after an epoch: in evaluation mode, weighted by images, one forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Preprocess
from fovea_trainer.augmentation import Augment
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.tasks import definition
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import Collate, Normalize, SplitDataset
from fovea_trainer.training.loading import ValidationBatches
from fovea_trainer.training.precision import Precision
from fovea_trainer.training.validation import mean_loss, validate
from synthetic import squares


def test_the_loss_is_that_of_all_images_whatever_the_batches(tmp_path: Path) -> None:
    """Eight images in batches of five and three: the mean of the batches' means is another figure."""
    task = definition(Task.CLASSIFICATION)
    dataset = SplitDataset(squares(Task.CLASSIFICATION, 0).samples["validation"], task, Preprocess(32, 32), Augment(()))
    torch.manual_seed(0)
    network = build(NetworkDescription("classifier", Body("resnet10t"), {"dropout": 0.5}, 2), LossSettings())
    passes: list[bool] = []
    network.backbone().register_forward_hook(lambda module, *_: passes.append(module.training))
    context = SingleProcess(tmp_path, 1, lambda progress: None)
    network.train()
    metrics = validate(network, ValidationBatches(dataset, 5, context), context, Precision("FP32", "cpu"))
    assert passes == [False, False], "dropout or batch statistics in validation, or a second pass"
    assert network.training, "training goes on in training mode"

    images, targets, _ = Collate(task)([dataset[index] for index in range(8)])
    images = Normalize(dataset.preprocess, context.device)(images)
    network.eval()
    with torch.no_grad():
        whole = float(sum(network.loss(network(images), targets).values()))
        label = network(images).argmax(1)
    assert metrics["validation/loss"] == pytest.approx(whole, rel=1e-5)
    assert metrics["validation/accuracy"] == pytest.approx(float((label == targets.labels).float().mean()))


@pytest.mark.parametrize(("precision", "dtype"), [("FP32", torch.float32), ("BF16", torch.bfloat16)])
def test_validation_computes_in_the_precision_of_training(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    samples = squares(Task.CLASSIFICATION, 0).samples["validation"]
    dataset = SplitDataset(samples, definition(Task.CLASSIFICATION), Preprocess(32, 32), Augment(()))
    network = build(NetworkDescription("classifier", Body("resnet10t"), {"dropout": 0.5}, 2), LossSettings())
    computed: set[torch.dtype] = set()
    convolution = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda module, images, output: computed.add(output.dtype))
    context = SingleProcess(tmp_path, 1, lambda progress: None)
    validate(network, ValidationBatches(dataset, 8, context), context, Precision(precision, "cpu"))
    assert computed == {dtype}


def test_means_of_batches_count_by_their_images() -> None:
    assert mean_loss([(1.0, 5), (3.0, 3)]) == pytest.approx((5 + 9) / 8)
    assert mean_loss([]) == 0
