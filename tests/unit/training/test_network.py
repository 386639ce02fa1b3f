"""From the recipe to the network: what the loss is given, and which weights training starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Loss, Recipe
from fovea_trainer.export import save_weights
from fovea_trainer.training.base_weights import BaseWeights
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import class_weights
from fovea_trainer.training.loop import Plan, fit
from fovea_trainer.training.network import make_network
from pydantic import JsonValue
from synthetic import squares

VERSION = squares(Task.CLASSIFICATION, train=24, validation=11)


def recipe(balance: str = "None", **training: JsonValue) -> Recipe:
    options: JsonValue = {"width": 0.125, "stem": "Small", "dropout": 0.5}
    return Recipe.model_validate(
        {
            "model": {"architecture": "resnet18", "options": options, "pretrained": {"weights": "None"}},
            "input": {"size": {"width": 32, "height": 32}, "balance": balance},
            "training": {"epochs": 1, "batchSize": 8, "precision": "FP32", **training},
        }
    )


def worker(folder: Path) -> SingleProcess:
    return SingleProcess(folder, 1, lambda progress: None)


def test_the_loss_gets_smoothing_and_class_weights_of_the_recipe() -> None:
    plain = make_network(recipe(), VERSION).loss_settings
    assert (plain.terms, plain.label_smoothing, plain.class_weights) == ({Loss.CROSS_ENTROPY: 1.0}, 0.0, ())
    settings = make_network(recipe("ClassWeights", labelSmoothing=0.1), VERSION).loss_settings
    assert settings.label_smoothing == 0.1
    assert settings.class_weights == pytest.approx((1.0, 1.0)), "as many red squares as blue ones"
    assert make_network(recipe("FocalLoss"), VERSION).loss_settings.terms == {Loss.FOCAL: 1.0}


def test_a_rare_class_weighs_more_by_the_inverse_of_its_share() -> None:
    counts = np.array([[1, 0, 0]] * 6 + [[0, 1, 0]] * 3)
    weights = class_weights(counts)
    assert weights == pytest.approx((9 / (2 * 6), 9 / (2 * 3), 1.0)), "a class that does not occur has no say"
    assert counts.sum(0) @ weights == pytest.approx(counts.sum()), "1 on average over the annotations"


def test_training_starts_from_the_base_weights(tmp_path: Path) -> None:
    job = recipe(seed=1, schedule={"name": "Constant", "warmupEpochs": 0}, optimizer={"learningRate": 1e-12})
    base = make_network(recipe(seed=2), VERSION)
    file = save_weights(base, tmp_path / "base.safetensors")
    plan = Plan(base_weights=BaseWeights(file, "sha256-0", str(file)))
    trained = fit(job, VERSION, worker(tmp_path / "based"), plan).network
    own = fit(job, VERSION, worker(tmp_path / "own")).network
    for name, parameter in base.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=0, atol=1e-6)
    assert not torch.allclose(own["body.conv1.weight"], base.get_parameter("body.conv1.weight"), atol=1e-3)
