"""Presets: what a silent recipe means, how it is frozen, and that no upgrade starts a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import fovea_api.architectures as architectures
import pytest
from fovea_api.architectures import FIRST_CHOICE, Architecture, catalogue, find
from fovea_api.common import Task, silent_paths
from fovea_api.metrics import PRIMARY
from fovea_api.partial import merge
from fovea_api.presets import with_preset
from fovea_api.run import RunInputs, RunOwner, RunType, frozen_recipe, is_same_recipe, read_recipe, run_identity
from fovea_api.trainingjob import Ema, Recipe, TrainingJobSpec

RETINANET = "retinanet-efficientnet-lite0"
OWNER = RunOwner(kind="TrainingJob", name="cells")


def of(architecture: str = RETINANET, **blocks: Any) -> Recipe:
    model = {"architecture": architecture} | blocks.pop("model", {})
    return Recipe.model_validate({"model": model} | blocks)


def identity(recipe: Recipe) -> str:
    return run_identity(RunType.TRAINING, OWNER, recipe, RunInputs())


def same(frozen: Mapping[str, Any], recipe: Recipe) -> bool:
    return is_same_recipe(RunType.TRAINING, frozen, recipe)


def read(frozen: Mapping[str, Any]) -> Recipe:
    return read_recipe(RunType.TRAINING, frozen, Recipe)


@pytest.mark.parametrize("architecture", catalogue().values(), ids=lambda each: each.name)
def test_a_preset_leaves_nothing_open_and_is_a_valid_recipe(architecture: Architecture) -> None:
    laid = with_preset(of(architecture.name))
    left = {"input.size", "training.epochs", "training.schedule.warmupEpochs"} & set(silent_paths(laid))
    assert set(silent_paths(laid)) == left == {"training.schedule.warmupEpochs"}, "warmupShare says it"
    assert laid.training.ema is not None
    assert laid.training.gradient_clip_norm
    assert (laid.training.optimizer.backbone_rate < 1) == (not architecture.task.finds_objects)
    windows = [each.random_crop for each in laid.input.augmentations if each.random_crop is not None]
    assert bool(windows) == (architecture.task is Task.SEMANTIC_SEGMENTATION)


def test_what_is_given_stands_beside_the_preset() -> None:
    laid = with_preset(of(training={"epochs": 3, "optimizer": {"weightDecay": 0.0}}, input={"augmentations": []}))
    assert (laid.training.epochs, laid.training.min_steps) == (3, 0), "so many epochs, not as many as steps take"
    assert laid.training.optimizer.weight_decay == 0
    assert laid.training.optimizer.learning_rate == 1e-3
    assert laid.input.augmentations == ()
    off = with_preset(of(training={"gradientClipNorm": 0, "ema": {"decay": 0}})).training
    assert (off.gradient_clip_norm, off.ema) == (0, Ema(decay=0))


@pytest.mark.parametrize(
    ("training", "rate"),
    [
        ({}, 1e-3),
        ({"batchSize": 32}, 2e-3),
        ({"gradientAccumulationSteps": 4}, 2e-3),
        ({"batchSize": 2}, 5e-4),
        ({"optimizer": {"name": "SGD"}}, 1e-2),
        ({"optimizer": {"name": "SGD"}, "batchSize": 16}, 2e-2),
        ({"optimizer": {"name": "Lion"}}, 2e-4),
        ({"optimizer": {"learningRate": 0.5}, "batchSize": 32}, 0.5),
    ],
)
def test_the_learning_rate_follows_optimizer_and_batch(training: dict[str, Any], rate: float) -> None:
    assert with_preset(of(training=training)).training.optimizer.learning_rate == pytest.approx(rate)


def test_without_weights_the_whole_network_learns_at_the_full_rate_and_longer() -> None:
    scratch = with_preset(of(model={"pretrained": {"weights": "None"}})).training
    usual = with_preset(of()).training
    assert scratch.optimizer.backbone_rate == 1
    assert (scratch.epochs, scratch.min_steps) == (3 * usual.epochs, 3 * usual.min_steps)
    given = with_preset(of(model={"pretrained": {"weights": "None"}}, training={"epochs": 2})).training
    assert (given.epochs, given.min_steps) == (2, 0)


def test_a_given_size_replaces_the_sizing_and_bounds_the_windows() -> None:
    laid = with_preset(of("unet-efficientnet-lite0", input={"size": {"width": 128, "height": 512}}))
    assert laid.input.sizing is None
    (window,) = [each.random_crop for each in laid.input.augmentations if each.random_crop is not None]
    assert (window.width, window.height) == (128, 256)


def test_a_long_warmup_makes_the_training_as_long() -> None:
    laid = with_preset(of(training={"schedule": {"warmupEpochs": 40.5}}))
    assert (laid.training.epochs, laid.training.schedule.warmup_share) == (41, None)


def test_silence_survives_writing_and_merging() -> None:
    silent = of()
    assert set(silent_paths(Recipe.model_validate(silent.to_dict()))) == set(silent_paths(silent))
    merged = merge(silent, {"training": {"batchSize": 32}})
    assert with_preset(merged).training.optimizer.learning_rate == pytest.approx(2e-3)
    spec = TrainingJobSpec.model_validate({"datasetRef": {"name": "x"}, "model": {"architecture": RETINANET}})
    assert frozen_recipe(spec.recipe()) == frozen_recipe(silent)


# --- Runs ------------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_recipe_with_the_preset_laid_in() -> None:
    frozen = frozen_recipe(of())
    assert frozen == frozen_recipe(read(frozen))
    assert read(frozen).training == with_preset(of()).training
    assert identity(read(frozen)) == identity(of())
    assert same(frozen, of())
    spelled = of(training={"optimizer": {"learningRate": 1e-3}, "batchSize": 8})
    assert identity(spelled) == identity(of()), "the preset's values spelled out make the same"
    assert not same(frozen, of(training={"batchSize": 4}))


def test_a_run_of_before_the_presets_means_what_it_meant() -> None:
    old = {"model": {"architecture": RETINANET}, "training": {"epochs": 10, "batchSize": 8}}
    recipe = read(old)
    assert (recipe.training.min_steps, recipe.training.ema, recipe.input.sizing) == (0, None, None)
    assert with_preset(recipe) == recipe, "a frozen recipe is silent about nothing"
    assert identity(recipe) != identity(of())
    assert same(old, of()), "the spec of then, edited beside its recipe, trains nothing again"
    assert not same(old, of(training={"epochs": 11}))


def test_a_later_preset_changes_no_run_and_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, before = frozen_recipe(of(training={"batchSize": 32})), identity(of(training={"batchSize": 32}))
    monkeypatch.setattr(architectures, "catalogue", later(learning_rate=3e-3))
    silent = of(training={"batchSize": 32})
    assert identity(silent) != before, "who is silent now gets the new preset"
    assert identity(read(frozen)) == before, "what was trained is still what it was"
    assert same(frozen, silent), "an edit beside the recipe trains nothing again"
    assert not same(frozen, of(training={"batchSize": 16}))


def later(learning_rate: float) -> Callable[[], Mapping[str, Architecture]]:
    known = catalogue()[RETINANET]
    preset = merge(with_preset(of()), {"training": {"optimizer": {"learningRate": learning_rate}}})
    training = {**known.preset["training"], "optimizer": preset.training.optimizer.to_dict()}  # type: ignore[dict-item]
    changed = known.model_copy(update={"preset": {**known.preset, "training": training}})
    return lambda: {**catalogue(), RETINANET: changed}


@pytest.mark.parametrize("task", sorted(PRIMARY))
def test_the_first_choice_of_a_task_needs_no_network(task: Task) -> None:
    first = find(FIRST_CHOICE[task])
    assert first.task is task
    assert first.packaged
