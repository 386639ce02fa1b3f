"""Identities of runs across versions: defaults that change, fields and architectures that are added.

`frozen/` holds recipes as Runs of the first version keep them, all defaults spelled out, with their identities. They
are never to be edited: stores are full of results under these identities.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import fovea_api.architectures as architectures
import fovea_api.dataset as dataset
import fovea_api.defaults as defaults
import pytest
from fovea_api.architectures import Architecture, catalogue
from fovea_api.common import Model
from fovea_api.defaults import DefaultWithdrawn, declared, extended, ledger
from fovea_api.run import (
    RunInputs,
    RunOwner,
    RunType,
    frozen_recipe,
    is_same_recipe,
    read_recipe,
    run_identity,
)
from fovea_api.trainingjob import Export, Optimizer, Recipe, Size, Training, TrainingJobSpec
from pydantic import ValidationError

FROZEN = sorted((Path(__file__).parent / "frozen").glob("*.json"))
RECIPES: Mapping[RunType, type[Model]] = {RunType.TRAINING: Recipe, RunType.DATASET_BUILD: dataset.Recipe}
OWNER = RunOwner(kind="TrainingJob", name="cells")
ROOT = RunType.TRAINING.value


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", Path(__file__).parents[3] / "crds/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FROZEN, ids=lambda file: file.stem)
def test_a_stored_identity_stays_that_of_its_recipe(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure here means that an upgrade trains again what is trained, or adopts what something else has made.

    Where an architecture supplies something else by now, a recipe that is silent about it trains something else too:
    what is looked at here is the rest.
    """
    run = json.loads(file.read_text())
    type = RunType(run["type"])
    assert is_same_recipe(type, run["recipe"], read_recipe(type, run["recipe"], RECIPES[type]))
    monkeypatch.setattr(architectures, "catalogue", dict)
    recipe = read_recipe(type, run["recipe"], RECIPES[type])
    owner = RunOwner.model_validate(run["owner"])
    assert run_identity(type, owner, recipe, RunInputs()) == run["identity"]
    assert is_same_recipe(type, run["recipe"], recipe)


def test_the_ledger_has_all_defaults_of_this_version(generate: ModuleType) -> None:
    """Changed a default or added a field? `make generate` enters it."""
    assert extended(ledger(), generate.todays_defaults()) == ledger()


# --- Later versions ------------------------------------------------------------------------------------------


class LaterTraining(Training):
    """A version in which trainings are longer, and a field is new."""

    epochs: int = 20
    mixup: float = 0.0


class LaterRecipe(Recipe):
    training: LaterTraining = LaterTraining()  # type: ignore[assignment]


class MixingTraining(LaterTraining):
    """One more version, in which the new field has another default."""

    mixup: float = 0.2


class MixingRecipe(Recipe):
    training: MixingTraining = MixingTraining()  # type: ignore[assignment]


class LaterOptimizer(Optimizer):
    learning_rate: float = 0.01


class SteeperTraining(Training):
    optimizer: LaterOptimizer = LaterOptimizer()  # type: ignore[assignment]


class SteeperRecipe(Recipe):
    """A version in which a default changes two blocks deep."""

    training: SteeperTraining = SteeperTraining()  # type: ignore[assignment]


def upgrade(monkeypatch: pytest.MonkeyPatch, recipe: type[Model]) -> None:
    """Enters a later version's defaults, as `make generate` does."""
    entered = extended(defaults.ledger(), dict(declared(recipe, ROOT)))
    monkeypatch.setattr(defaults, "ledger", lambda: entered)


def of(version: type[Model], **training: Any) -> Model:
    blocks = {"training": training} if training else {}
    return version.model_validate({"model": {"architecture": "resnet18"}} | blocks)


@pytest.fixture
def without_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What silence meant before there were presets: the fields' own defaults."""
    bare = {name: each.model_copy(update={"preset": {}}) for name, each in catalogue().items()}
    monkeypatch.setattr(architectures, "catalogue", lambda: bare)


def identity(recipe: Model) -> str:
    return run_identity(RunType.TRAINING, OWNER, recipe, RunInputs())


@pytest.mark.usefixtures("without_presets")
def test_a_changed_default_changes_no_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {epochs: identity(of(Recipe, epochs=epochs)) for epochs in (10, 20)}
    upgrade(monkeypatch, LaterRecipe)
    after = {epochs: identity(of(LaterRecipe, epochs=epochs)) for epochs in (10, 20)}
    assert after == before
    assert identity(of(LaterRecipe)) == before[20], "who asks for today's default without a word gets today's model"
    assert identity(of(LaterRecipe)) != identity(of(Recipe)) == before[10]


@pytest.mark.usefixtures("without_presets")
def test_a_default_changed_in_a_nested_block_changes_the_identity_of_all_that_lack_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upgrade(monkeypatch, SteeperRecipe)
    spelled = identity(of(Recipe, optimizer={"learningRate": 0.01}))
    assert identity(of(SteeperRecipe)) == identity(of(SteeperRecipe, epochs=10)) == spelled != identity(of(Recipe))
    assert identity(of(SteeperRecipe, optimizer={"learningRate": 0.001})) == identity(of(Recipe))


@pytest.mark.usefixtures("without_presets")
def test_a_new_field_changes_no_identity_and_later_keeps_the_meaning_of_its_first_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = frozen_recipe(of(Recipe, epochs=20))
    upgrade(monkeypatch, LaterRecipe)
    assert identity(of(LaterRecipe)) == identity(of(Recipe, epochs=20))
    between = frozen_recipe(of(LaterRecipe))
    upgrade(monkeypatch, MixingRecipe)
    for frozen in (old, between):
        found = read_recipe(RunType.TRAINING, frozen, MixingRecipe)
        assert found.training.mixup == 0.0, "the Run was made without it"
        assert identity(found) == identity(of(Recipe, epochs=20))
    assert identity(of(MixingRecipe)) != identity(of(LaterRecipe))
    assert identity(of(MixingRecipe, mixup=0.0)) == identity(of(LaterRecipe))
    assert not is_same_recipe(RunType.TRAINING, between, of(MixingRecipe))


@pytest.mark.usefixtures("without_presets")
def test_a_field_that_is_no_more_counts_only_where_it_said_something(monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade(monkeypatch, LaterRecipe)
    silent, speaking = frozen_recipe(of(LaterRecipe, epochs=10)), frozen_recipe(of(LaterRecipe, mixup=0.5))
    assert identity(read_recipe(RunType.TRAINING, silent, Recipe)) == identity(of(Recipe))
    with pytest.raises(ValidationError):
        read_recipe(RunType.TRAINING, speaking, Recipe)
    assert not is_same_recipe(RunType.TRAINING, speaking, of(Recipe))


def test_an_unentered_change_is_found_and_history_is_only_appended_to() -> None:
    today = dict(declared(LaterRecipe, ROOT))
    entered = extended(ledger(), today)
    assert entered != ledger(), "the check of `make lint` compares these"
    assert entered[f"{ROOT}.training.epochs"] == [10, 20]
    assert entered[f"{ROOT}.training.mixup"] == [0.0]
    back = extended(entered, dict(declared(Recipe, ROOT)))
    assert back[f"{ROOT}.training.epochs"] == [10, 20, 10]
    assert back[f"{ROOT}.training.mixup"] == [0.0], "the field may be removed; frozen recipes have it"


def test_a_default_cannot_be_withdrawn() -> None:
    with pytest.raises(DefaultWithdrawn, match=r"Training\.training\.epochs"):
        extended(ledger(), {f"{ROOT}.training.epochs": None})


# --- What an architecture supplies ---------------------------------------------------------------------------


@dataclass
class LaterCatalogue:
    """A version whose resnet18 has another size and another dropout."""

    size: int = 256
    dropout: float = 0.3

    def __call__(self) -> Mapping[str, Architecture]:
        known = catalogue()["resnet18"]
        options = tuple(
            option.model_copy(update={"default": self.dropout}) if option.name == "dropout" else option
            for option in known.options
        )
        update = {"width": self.size, "height": self.size, "options": options, "preset": {}}
        return {**catalogue(), "resnet18": known.model_copy(update=update)}


@pytest.mark.usefixtures("without_presets")
def test_what_an_architecture_supplies_counts_once_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, old = of(Recipe), frozen_recipe(of(Recipe))
    before = identity(silent)
    monkeypatch.setattr(architectures, "catalogue", LaterCatalogue())
    assert identity(silent) != before, "it trains something else now"
    spelled = {
        "model": {"architecture": "resnet18", "options": {"dropout": 0.3}},
        "input": {"size": {"width": 256, "height": 256}},
    }
    assert identity(Recipe.model_validate(spelled)) == identity(silent)

    found = read_recipe(RunType.TRAINING, old, Recipe)
    assert found.model.options == {"dropout": 0.0}
    assert found.input.size == Size(width=224, height=224)
    assert identity(found) == before, "what was trained is still what it was"
    assert is_same_recipe(RunType.TRAINING, old, silent), "an edit of compute alone trains nothing again"
    assert is_same_recipe(RunType.TRAINING, frozen_recipe(silent), silent)
    monkeypatch.undo()
    frozen = json.loads(json.dumps(old))
    assert read_recipe(RunType.TRAINING, frozen, Recipe) == silent


def test_a_run_of_a_later_version_means_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "catalogue", LaterCatalogue())
    frozen, expected = frozen_recipe(of(Recipe)), identity(of(Recipe))
    monkeypatch.setattr(architectures, "catalogue", LaterCatalogue(size=288, dropout=0.1))
    found = read_recipe(RunType.TRAINING, frozen, Recipe)
    assert found.model.options["dropout"] == 0.3
    assert identity(found) == expected


# --- An open architecture ------------------------------------------------------------------------------------


def choosing(*criteria: dict[str, Any], **training: Any) -> TrainingJobSpec:
    content = {"datasetRef": {"name": "cells"}, "model": {"architecture": "Auto"}, "successCriteria": list(criteria)}
    return TrainingJobSpec.model_validate(content | ({"training": training} if training else {}))


@pytest.mark.parametrize("training", [{}, {"epochs": 10}, {"batchSize": 8, "optimizer": {"name": "SGD"}}])
def test_a_recipe_that_leaves_its_architecture_open_is_silent_for_the_preset_of_what_is_chosen(
    training: dict[str, Any],
) -> None:
    recipe = choosing(**training).recipe()
    read = read_recipe(RunType.TRAINING, frozen_recipe(recipe), Recipe)
    assert read == recipe
    assert read.training.silent() == recipe.training.silent()
    assert is_same_recipe(RunType.TRAINING, frozen_recipe(recipe), recipe)
    others = [choosing(epochs=11).recipe(), of(Recipe)]
    assert not any(is_same_recipe(RunType.TRAINING, frozen_recipe(recipe), other) for other in others)
    deferred = recipe.model_copy(update={"export": Export(deferred=("TensorRT",))})
    assert identity(deferred) == identity(recipe), "what is built later asks for no other training"
    assert is_same_recipe(RunType.TRAINING, frozen_recipe(recipe), deferred)


def test_what_is_given_beside_an_open_architecture_differs_from_silence() -> None:
    silent, given = choosing().recipe(), choosing(epochs=10).recipe()
    assert identity(silent) != identity(given)
    assert not is_same_recipe(RunType.TRAINING, frozen_recipe(silent), given)


def test_limits_belong_to_the_identity_where_they_choose_the_architecture() -> None:
    small, good = {"metric": "size/megabytes", "max": 20}, {"metric": "test/mAP", "min": 0.5}

    def chosen(spec: TrainingJobSpec) -> str:
        return run_identity(RunType.TRAINING, OWNER, spec.recipe(), RunInputs(), criteria=spec.success_criteria)

    assert chosen(choosing(good)) == chosen(choosing())
    assert len({chosen(choosing()), chosen(choosing(small)), chosen(choosing(small | {"max": 10}))}) == 3
    named = of(Recipe)
    limited = run_identity(RunType.TRAINING, OWNER, named, RunInputs(), criteria=choosing(small).success_criteria)
    assert limited == identity(named)
