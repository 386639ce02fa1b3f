"""Which recipe a trial's values make, and which sweeps are refused before any work, with field and remedy."""

from __future__ import annotations

from typing import Any

import pytest
from fovea_api.dataset import DatasetSpec
from fovea_api.errors import problems
from fovea_api.run import RunInputs, RunOwner, RunType, frozen_recipe, is_same_recipe, read_recipe, run_identity
from fovea_api.search_space import impossibilities, trial_recipe
from fovea_api.trainingjob import Recipe
from fovea_api.tuningsweep import SweepRecipe, TuningSweepSpec, study_identity
from pydantic import ValidationError

OWNER = RunOwner(kind="TuningSweep", name="cells")
RATE = {"path": "training.optimizer.learningRate", "logUniform": {"min": 1e-4, "max": 1e-2}}
ARCHITECTURES = {"path": "model.architecture", "choice": ["retinanet-efficientnet-lite0", "fasterrcnn"]}


def content(**more: Any) -> dict[str, Any]:
    return {
        "template": {"spec": {"datasetRef": {"name": "cells"}, "model": {"architecture": "fasterrcnn"}}},
        "parameters": [RATE],
        "objectives": [{"metric": "validation/mAP", "goal": "Maximize"}],
    } | more


def spec(**more: Any) -> TuningSweepSpec:
    return TuningSweepSpec.model_validate(content(**more))


def template(**recipe: Any) -> dict[str, Any]:
    return {"template": {"spec": {"datasetRef": {"name": "cells"}, "model": {"architecture": "fasterrcnn"}} | recipe}}


# --- Recipes -------------------------------------------------------------------------------------------------


def test_a_trial_is_the_template_with_its_values_and_silent_where_the_template_is() -> None:
    base = spec(**template(training={"batchSize": 4})).template.spec.recipe()
    recipe = trial_recipe(base, {"training.optimizer.learningRate": 0.003, "model.architecture": "resnet18"})
    assert recipe.training.optimizer.learning_rate == 0.003
    assert recipe.training.batch_size == 4
    assert recipe.model.architecture == "resnet18"
    assert "epochs" in recipe.training.silent()  # up to the preset of the architecture that was chosen


def test_a_value_takes_the_place_of_what_excludes_it_and_leaves_other_options() -> None:
    base = Recipe.model_validate({"model": {"architecture": "resnet18", "options": {"width": 0.5, "dropout": 0.1}}})
    recipe = trial_recipe(base, {"model.pretrained.uri": "s3://models/x", "model.options.dropout": 0.3})
    assert (recipe.model.pretrained.weights, recipe.model.pretrained.uri) == (None, "s3://models/x")
    assert recipe.model.options == {"width": 0.5, "dropout": 0.3}


@pytest.mark.parametrize("training", [{}, {"epochs": 10}, {"epochs": 8, "optimizer": {"name": "SGD"}}])
def test_a_frozen_sweep_is_silent_about_what_its_template_is_silent_about(training: dict[str, Any]) -> None:
    recipe = spec(**template(training=training)).recipe()
    given = spec(**template(training=training)).template.spec.recipe()
    read = read_recipe(RunType.TUNING_SWEEP, frozen_recipe(recipe), SweepRecipe).template_recipe()
    assert read == given
    assert read.training.silent() == given.training.silent()


def test_what_is_given_differs_from_silence_also_where_it_is_the_first_days_default() -> None:
    silent, given = spec(**template()).recipe(), spec(**template(training={"epochs": 10})).recipe()
    assert identity(silent) != identity(given)
    assert not is_same_recipe(RunType.TUNING_SWEEP, frozen_recipe(silent), given)
    assert is_same_recipe(RunType.TUNING_SWEEP, frozen_recipe(given), given)


def identity(recipe: SweepRecipe) -> str:
    return run_identity(RunType.TUNING_SWEEP, OWNER, recipe, RunInputs())


def test_how_many_trials_at_once_makes_no_other_run_and_more_trials_go_on_with_the_study() -> None:
    first = spec(trials={"max": 8, "parallel": 1}).recipe()
    wider, longer = spec(trials={"max": 8, "parallel": 4}).recipe(), spec(trials={"max": 9}).recipe()
    assert identity(first) == identity(wider) != identity(longer)
    other = spec(search={"seed": 1}).recipe()
    study = [study_identity(OWNER, each, RunInputs()) for each in (first, longer, other)]
    assert study[0] == study[1] != study[2]


# --- Refusals ------------------------------------------------------------------------------------------------


def choice(path: str, *values: Any, **more: Any) -> dict[str, Any]:
    return {"path": path, "choice": list(values), **more}


GPU = {"compute": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
SITUATIONS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # what a sweep says, the reason, the field, a part of the message
    "an architecture that there is not": (
        {"parameters": [choice("model.architecture", "fasterrcnn", "fasterrcn")]},
        "ImpossibleSpace", "spec.parameters[0]", "did you mean fasterrcnn",
    ),
    "an architecture of another task": (
        {"parameters": [choice("model.architecture", "fasterrcnn", "resnet18")]},
        "ImpossibleSpace", "spec.parameters[0]", "resnet18 is for Classification, the dataset for Detection",
    ),
    "a value outside of the field's bounds": (
        {"parameters": [{"path": "training.optimizer.weightDecay", "uniform": {"min": 0, "max": 2}}]},
        "ImpossibleSpace", "spec.parameters[0]", "less than or equal to 1",
    ),
    "numbers where whole ones are needed": (
        {"parameters": [{"path": "training.batchSize", "uniform": {"min": 2.5, "max": 8.5}}]},
        "ImpossibleSpace", "spec.parameters[0]", "valid integer",
    ),
    "an option that no architecture has": (
        {"parameters": [choice("model.options.depth", 1, 2)]},
        "ImpossibleSpace", "spec.parameters[0]", "has no option 'depth'",
    ),
    "a condition that never holds": (
        {"parameters": [ARCHITECTURES, {**RATE, "when": {"path": "model.architecture", "values": ["resnet18"]}}]},
        "ImpossibleSpace", "spec.parameters[1].when.values", "is never resnet18",
    ),
    "two cases that hold at once": (
        {"parameters": [
            ARCHITECTURES,
            {**RATE, "case": "a", "when": {"path": "model.architecture", "values": ["fasterrcnn"]}},
            {**RATE, "case": "b", "when": {"path": "model.architecture", "values": ["fasterrcnn"]}},
        ]},
        "ImpossibleSpace", "spec.parameters[2].when", "can hold at once",
    ),
    "an objective that nobody measures": (
        {"objectives": [{"metric": "validation/mAP", "goal": "Maximize"}, {"metric": "size/mb", "goal": "Minimize"}]},
        "UnknownMetric", "spec.objectives[1].metric", "size/megabytes",
    ),
    "an objective that is not there on the way": (
        {"objectives": [{"metric": "validation/mAP75", "goal": "Maximize"}]},
        "InvalidInput", "spec.objectives[0].metric", "the scheduler None",
    ),
    "GPU hours without a GPU": (
        {"budget": {"gpuHours": 1}}, "InvalidInput", "spec.budget.gpuHours", "use cpuHours",
    ),
    "weights of one architecture for several": (
        {**template(model={"architecture": "fasterrcnn", "pretrained": {"uri": "s3://models/x"}}),
         "parameters": [ARCHITECTURES]},
        "ImpossibleSpace", "spec.template.spec.model.pretrained", "several are tried",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_can_never_work_is_refused(name: str) -> None:
    given, reason, place, words = SITUATIONS[name]
    sources = [{"name": "lab", "uri": "s3://lab/cells", "format": "COCO"}]
    (error, *others) = impossibilities(
        spec(**given), DatasetSpec.model_validate({"task": "Detection", "sources": sources})
    )
    assert (error.reason, error.location) == (reason, place)
    assert words in str(error)
    assert all(other.location is not None for other in others)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"parameters": [RATE, ARCHITECTURES, choice("training.batchSize", 4, 8)]},
        {"parameters": [ARCHITECTURES,
                        choice("model.options.anchorRatios", [0.5, 1, 2],
                               when={"path": "model.architecture", "values": ["fasterrcnn"]})]},
        {"parameters": [choice("training.optimizer.name", "SGD", "AdamW"),
                        choice("training.optimizer.nesterov", True, False,
                               when={"path": "training.optimizer.name", "values": ["SGD"]})]},
        {"objectives": [{"metric": "validation/mAP75", "goal": "Maximize"}], "stopping": {"scheduler": "None"}},
        {"objectives": [{"metric": "validation/mAP", "goal": "Maximize"},
                        {"metric": "complexity/gigaMacs", "goal": "Minimize", "limit": 2}]},
        {**GPU, "budget": {"gpuHours": 1}},
    ],
)  # fmt: skip
def test_what_can_work_is_not_refused(given: dict[str, Any]) -> None:
    assert impossibilities(spec(**given)) == ()


MIXED = {"parameters": [{"path": "training.epochs", "intUniform": {"min": 2, "max": 8}}]}
BY_RULE: dict[str, tuple[dict[str, Any], str, str]] = {
    # what a sweep says, the field, a part of the message
    "trials of different lengths": (MIXED, "stopping.scheduler", "scheduler None"),
    "a population that hands on weights of another network": (
        {"parameters": [ARCHITECTURES], "search": {"algorithm": "PopulationBased"}}, "search.algorithm", "weights on",
    ),
    "a population of two": (
        {"search": {"algorithm": "PopulationBased"}, "trials": {"max": 2, "parallel": 1}}, "trials.max", "4 trials",
    ),
    "no objective of quality": (
        {"objectives": [{"metric": "size/megabytes", "goal": "Minimize"}]}, "objectives", "must be of validation/",
    ),
    "an objective of the train split": (
        {"objectives": [{"metric": "train/mAP", "goal": "Maximize"}]}, "objectives[0].metric", "validation/",
    ),
    "no validation": (template(evaluation={"splits": ["test"]}), "template.spec.evaluation.splits", "validation split"),
    "a budget of seconds": ({"budget": {"wallClock": "30s"}}, "budget.wallClock", "raise it"),
    "a condition on what has a range": (
        {"parameters": [RATE, choice("training.batchSize", 4, when={"path": RATE["path"], "values": [1]})]},
        "parameters", "has a choice",
    ),
    "two cases of which one holds always": (
        {"parameters": [RATE, ARCHITECTURES,
                        {**RATE, "case": "b", "when": {"path": "model.architecture", "values": ["fasterrcnn"]}}]},
        "parameters", "each needs a when",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_RULE)
def test_rules_refuse_at_apply(name: str) -> None:
    given, place, words = BY_RULE[name]
    with pytest.raises(ValidationError) as error:
        spec(**given)
    found = next(problems(error.value, TuningSweepSpec))
    assert found[0] == place
    assert words in found[1]


def test_a_sweep_has_no_open_architecture() -> None:
    with pytest.raises(ValidationError, match="a sweep compares architectures itself"):
        spec(template={"spec": {"datasetRef": {"name": "cells"}, "model": {"architecture": "Auto"}}})
    (problem,) = impossibilities(spec(parameters=[{"path": "model.architecture", "choice": ["fasterrcnn", "Auto"]}]))
    assert (problem.location, problem.remedy) == ("spec.parameters[0]", "list the architectures to compare")
