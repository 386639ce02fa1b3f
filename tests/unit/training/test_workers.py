"""Two workers in two processes learn what one learns, and are of one mind about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Compression, Recipe
from fovea_trainer.training.batch_norm import uses_sync
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.loop import fit
from fovea_trainer.training.state import State
from pydantic import JsonValue
from synthetic import squares
from workers import train

TOLERANCE = 1e-3
"""Of a parameter, relative to the largest of its tensor. Sums over workers are sums in another order: most parameters
differ by 1e-6, and more where an activation changes its sign."""


def recipe(**training: JsonValue) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {
                "architecture": "resnet18",
                "options": {"width": 0.125, "stem": "Small"},
                "pretrained": {"weights": "None"},
            },
            "input": {"size": {"width": 32, "height": 32}, "augmentations": [{"horizontalFlip": {}}]},
            "training": {
                "epochs": 2,
                "batchSize": 8,
                "precision": "FP32",
                "optimizer": {"name": "SGD", "learningRate": 0.005},
                **training,
            },
        }
    )


PRUNED = Compression.model_validate({"pruning": {"sparsity": 0.5, "fineTuneEpochs": 1}})
RECIPES = {
    "plain": recipe(),
    "unequal": recipe(batchSize=7, ema={"decay": 0.9}, gradientClipNorm=0.5),
    "accumulated": recipe(batchSize=4, gradientAccumulationSteps=2),
    "own-statistics": recipe(syncBatchNorm="Never", ema={"decay": 0.9}),
    "resumed": recipe(syncBatchNorm="Never", ema={"decay": 0.9}),
    "pruned": recipe().model_copy(update={"compression": PRUNED}),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[State]]:
    """The final states of two workers, by recipe."""
    return train(RECIPES, tmp_path_factory.mktemp("two"), killed="resumed")


def one(name: str, folder: Path) -> State:
    """The final state of one worker."""
    return fit(RECIPES[name], squares(Task.CLASSIFICATION), SingleProcess(folder, 1, lambda progress: None))


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The largest one, relative to the largest value of its tensor."""
    assert left.keys() == right.keys()
    return max(
        float((left[name] - value).abs().max() / value.abs().max().clamp(min=0.1))
        for name, value in right.items()
        if value.is_floating_point()
    )


@pytest.mark.parametrize("name", ["plain", "unequal", "accumulated"])
def test_two_workers_learn_what_one_learns(two: dict[str, list[State]], name: str, tmp_path: Path) -> None:
    alone = one(name, tmp_path)
    assert difference(two[name][0].network, alone.network) < TOLERANCE
    assert difference(two[name][0].best_weights, alone.best_weights) < TOLERANCE
    for mine, reference in zip(two[name][0].history, alone.history, strict=True):
        assert mine == pytest.approx(reference, rel=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_the_workers_validate_and_keep_one_model(two: dict[str, list[State]], name: str) -> None:
    first, second = two[name]
    assert first.history == second.history
    assert first.best_epoch == second.best_epoch
    assert difference(first.best_weights, second.best_weights) == 0


def test_the_workers_prune_alike_and_go_on(two: dict[str, list[State]]) -> None:
    first, second = two["pruned"]
    assert (first.epoch, first.pruned_after) == (3, 2)
    assert first.network["body.conv1.weight"].shape[0] == first.unpruned["body.conv1.weight"].shape[0] // 2
    assert difference(first.network, second.network) == 0


def test_statistics_of_their_own_are_other_statistics(two: dict[str, list[State]], tmp_path: Path) -> None:
    assert difference(two["own-statistics"][0].network, one("plain", tmp_path).network) > 10 * TOLERANCE


def test_killed_in_an_epoch_they_go_on_as_if_nothing_had_been(two: dict[str, list[State]]) -> None:
    whole, resumed = two["own-statistics"][0], two["resumed"][0]
    assert difference(resumed.network, whole.network) == 0
    assert difference(resumed.best_weights, whole.best_weights) == 0
    assert [item["validation/loss"] for item in resumed.history] == [item["validation/loss"] for item in whole.history]


@pytest.mark.parametrize(
    ("choice", "batch_size", "workers", "sync"),
    [
        ("Auto", 8, 1, False),
        ("Auto", 31, 2, True),
        ("Auto", 32, 2, False),
        ("Always", 64, 2, True),
        ("Always", 64, 1, False),
        ("Never", 2, 2, False),
    ],
)
def test_few_images_of_a_worker_are_normalized_with_the_others(
    choice: str, batch_size: int, workers: int, sync: bool
) -> None:
    assert uses_sync(choice, batch_size, workers) == sync
