"""The models: identity of runs, judging criteria, merging partial recipes, scalars, errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fovea_api.architectures import Architecture, catalogue
from fovea_api.common import (
    Resources,
    format_duration,
    parse_duration,
    parse_quantity,
)
from fovea_api.criteria import Criterion, evaluate_criteria
from fovea_api.dataset import Dataset
from fovea_api.dataset import references as dataset_references
from fovea_api.errors import InvalidInput, InvalidManifest, MissingExtra, Retryable, problems
from fovea_api.metrics import headline
from fovea_api.modeldeployment import ModelDeployment, Retraining
from fovea_api.partial import merge
from fovea_api.run import DatasetInput, RunInputs, RunOwner, RunType, read_recipe, run_identity, run_name
from fovea_api.trainingjob import Recipe, TrainingJobSpec
from fovea_api.trainingjob import references as training_references
from fovea_api.tuningsweep import SWEEPABLE, TuningSweepSpec
from pydantic import ValidationError

OWNER = RunOwner(kind="TrainingJob", name="cells")


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"model": {"architecture": "resnet18"}} | changes)


def inputs(version: str = "0", place: str = "s3://a") -> RunInputs:
    return RunInputs(dataset=DatasetInput(name="cells", version=f"sha256-{version * 64}", artifact=place))


def identity(recipe_: Recipe, inputs_: RunInputs | None = None, nonce: str = "") -> str:
    return run_identity(RunType.TRAINING, OWNER, recipe_, inputs_ or inputs(), nonce)


class TestIdentity:
    def test_is_stable(self) -> None:
        """A changed constant here means that an upgrade would train every model again."""
        first = read_recipe(RunType.TRAINING, {"model": {"architecture": "resnet18"}}, Recipe)
        found = identity(first)
        assert found == "sha256-d4e6695e2ede4c66ebf6c4632235f668a24f86e0afbc34528d12ef4e0515a3f3"
        assert run_name(found) == f"r-{found[7:17]}"

    def test_a_default_spelled_out_is_the_same_recipe(self) -> None:
        spelled = recipe(training={"seed": 0, "optimizer": {"momentum": 0.9, "nesterov": False}})
        assert identity(spelled) == identity(recipe())

    def test_imagenet_weights_are_what_absent_weights_mean(self) -> None:
        """Runs of before, frozen with the weights spelled out, are the runs of today's specs without them."""
        spelled = recipe(model={"architecture": "resnet18", "pretrained": {"weights": "ImageNet"}})
        assert spelled == recipe()
        assert identity(spelled) == identity(recipe())

    @pytest.mark.parametrize("architecture", catalogue().values(), ids=lambda each: each.name)
    def test_every_architecture_has_the_weights_that_are_the_default(self, architecture: Architecture) -> None:
        assert recipe().model.pretrained.weights in architecture.weights

    def test_survives_the_api_server(self) -> None:
        once = recipe(training={"epochs": 3, "gradientClipNorm": 5})
        assert identity(Recipe.model_validate(once.to_dict())) == identity(once)

    @pytest.mark.parametrize(
        "other",
        [
            identity(recipe(training={"epochs": 11})),
            identity(recipe(training={"ema": {"decay": 0.99}})),
            identity(recipe(), inputs("1")),
            identity(recipe(), nonce="again"),
            run_identity(RunType.TRAINING, RunOwner(kind="TrainingJob", name="x"), recipe(), inputs()),
        ],
    )
    def test_changes_with_what_determines_the_result(self, other: str) -> None:
        assert other != identity(recipe())

    def test_places_do_not_matter(self) -> None:
        assert identity(recipe(), inputs(place="s3://moved")) == identity(recipe())

    def test_criteria_and_compute_are_no_part_of_the_recipe(self) -> None:
        spec = TrainingJobSpec.model_validate(
            {
                "datasetRef": {"name": "cells"},
                "model": {"architecture": "resnet18"},
                "successCriteria": [{"metric": "test/accuracy", "min": 0.9}],
                "compute": {"workers": 7},
            }
        )
        assert spec.recipe() == recipe()


class TestCriteria:
    CRITERIA = (
        Criterion(metric="test/mAP50", min=0.85),
        Criterion(metric="latency/p95Milliseconds", max=60),
        Criterion(metric="size/megabytes", min=1, max=20),
    )

    def test_bounds_are_included(self) -> None:
        metrics = {"test/mAP50": 0.85, "latency/p95Milliseconds": 60.0, "size/megabytes": 20.0}
        assert all(result.met for result in evaluate_criteria(self.CRITERIA, metrics))

    def test_each_is_checked_alone(self) -> None:
        metrics = {"test/mAP50": 0.84, "latency/p95Milliseconds": 61.0, "size/megabytes": 0.5}
        assert [result.met for result in evaluate_criteria(self.CRITERIA, metrics)] == [False, False, False]

    def test_what_was_not_measured_is_not_met(self) -> None:
        (result,) = evaluate_criteria(self.CRITERIA[:1], {})
        assert not result.met
        assert str(result) == "test/mAP50 not measured (required ≥ 0.85)"

    def test_says_what_was_required_and_measured(self) -> None:
        (result,) = evaluate_criteria(self.CRITERIA[2:], {"size/megabytes": 25.25})
        assert str(result) == "size/megabytes 25.25 (required ≥ 1 and ≤ 20)"


class TestMerge:
    def test_blocks_are_merged_and_values_replaced(self) -> None:
        whole = recipe(training={"epochs": 8, "batchSize": 4}, evaluation={"splits": ["test"]})
        merged = merge(whole, {"training": {"epochs": 2}, "evaluation": {"splits": ["validation"]}})
        assert (merged.training.epochs, merged.training.batch_size) == (2, 4)
        assert merged.evaluation.splits == ("validation",)

    @pytest.mark.parametrize(
        "below",
        [{}, {"pretrained": {"weights": "ImageNet"}}, {"pretrained": {"trainingJobRef": {"name": "base"}}}],
        ids=["absent", "weights", "trainingJobRef"],
    )
    def test_the_parts_own_choice_wins(self, below: dict[str, Any]) -> None:
        whole = recipe(model={"architecture": "resnet18", **below})
        merged = merge(whole, {"model": {"pretrained": {"from": "Current"}}})
        assert merged.model.pretrained.to_dict() == {"from": "Current"}
        assert merged.model.architecture == "resnet18"

    def test_the_same_choice_is_replaced(self) -> None:
        whole = recipe(model={"architecture": "resnet18", "pretrained": {"trainingJobRef": {"name": "base"}}})
        merged = merge(whole, {"model": {"pretrained": {"trainingJobRef": {"name": "other"}}}})
        assert merged.model.pretrained.to_dict() == {"trainingJobRef": {"name": "other"}}

    def test_the_result_keeps_the_rules(self) -> None:
        with pytest.raises(ValidationError, match="must contain ONNX"):
            merge(recipe(), {"export": {"formats": ["TFLite"]}})

    def test_a_part_has_no_defaults(self) -> None:
        part = {"training": {"epochs": 4}, "model": {"pretrained": {"from": "Current"}}}
        retraining = Retraining.model_validate({"triggers": {"newDatasetVersion": True}, "recipe": part})
        assert retraining.recipe == part

    def test_a_part_is_checked(self) -> None:
        with pytest.raises(ValidationError, match=r"recipe\.training\.epoch\b"):
            Retraining.model_validate({"triggers": {"newDatasetVersion": True}, "recipe": {"training": {"epoch": 4}}})


class TestScalars:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("12h", 43200), ("10m", 600), ("1h30m", 5400), ("3m10s", 190), ("0s", 0)]
    )
    def test_durations(self, text: str, seconds: int) -> None:
        assert parse_duration(text) == timedelta(seconds=seconds)
        assert format_duration(timedelta(seconds=seconds)) == text

    @pytest.mark.parametrize("text", ["", "30d", "1.5h", "10", "m10", "-1h", "1m1h"])
    def test_not_durations(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration(text)

    @pytest.mark.parametrize("text", ["87601h", "87600h1s", "999999999999h", "9999999999999999999s"])
    def test_durations_that_no_clock_can_add(self, text: str) -> None:
        with pytest.raises(ValueError, match="at most 87600h"):
            parse_duration(text)

    @pytest.mark.parametrize(
        ("text", "value"), [("2", 2), ("500m", 0.5), ("4Gi", 4 * 2**30), ("1.5k", 1500), ("1e3", 1000)]
    )
    def test_quantities(self, text: str, value: float) -> None:
        assert parse_quantity(text) == pytest.approx(value)

    def test_a_whole_number_is_a_quantity(self) -> None:
        assert Resources.model_validate({"requests": {"cpu": 2}}).requests == {"cpu": "2"}

    @pytest.mark.parametrize("value", ["8", True, 8.5, None])
    def test_numbers_are_not_guessed(self, value: object) -> None:
        with pytest.raises(ValidationError):
            recipe(training={"epochs": value})


class TestErrors:
    def test_exit_codes(self) -> None:
        assert (InvalidInput("x").exit_code, Retryable("x").exit_code) == (1, 75)

    def test_say_place_and_remedy(self) -> None:
        error = InvalidInput("empty box", "a.xml:12", "remove it")
        assert str(error) == "a.xml:12: empty box (remove it)"
        assert error.reason == "InvalidInput"

    def test_name_the_missing_extra(self) -> None:
        assert "pip install 'fovea[trainer]'" in str(MissingExtra("trainer", "fovea train"))

    def test_a_manifest_names_every_wrong_field(self) -> None:
        manifest = {
            "metadata": {"name": "cells"},
            "spec": {
                "task": "Detection",
                "sources": [{"name": "a", "uri": "https://x/y.zip", "format": "COCO"}],
                "splits": {"ratios": {"train": 0.5, "validation": 0.1, "test": 0.1}, "sed": 1},
            },
        }
        with pytest.raises(ValidationError) as refusal:
            Dataset.model_validate(manifest)
        error = InvalidManifest.from_validation(refusal.value, "cells.yaml")
        assert str(error).startswith("cells.yaml: spec.sources[0].sha256: an https:// source needs the sha256")
        assert "spec.splits.ratios: train, validation and test must sum to 1" in str(error)
        assert "spec.splits.sed: " in str(error)


def test_references_name_their_fields() -> None:
    spec = TrainingJobSpec.model_validate(
        {
            "datasetRef": {"name": "cells"},
            "model": {"architecture": "resnet18", "pretrained": {"trainingJobRef": {"name": "base"}}},
            "compression": {"distillation": {"teacherRef": {"name": "large"}}},
        }
    )
    assert [(each.kind, each.name, each.path) for each in training_references(spec)] == [
        ("Dataset", "cells", "spec.datasetRef"),
        ("TrainingJob", "base", "spec.model.pretrained.trainingJobRef"),
        ("TrainingJob", "large", "spec.compression.distillation.teacherRef"),
    ]


def test_dataset_references() -> None:
    manifest = {
        "metadata": {"name": "cells"},
        "spec": {
            "task": "Detection",
            "sources": [{"name": "a", "uri": "s3://b/c", "format": "COCO", "secretRef": {"name": "keys"}}],
        },
    }
    (reference,) = dataset_references(Dataset.model_validate(manifest).spec)
    assert (reference.kind, reference.name, reference.path) == ("Secret", "keys", "spec.sources[0].secretRef")


def test_sweeps_may_set_what_a_recipe_has() -> None:
    assert {"training.optimizer.learningRate", "input.size", "model.architecture"} <= set(SWEEPABLE)
    assert not any(path.startswith(("compute", "successCriteria", "evaluation")) for path in SWEEPABLE)


def test_the_headline_of_a_model_is_its_tasks_metric_on_test_else_on_validation() -> None:
    assert headline({"test/mAP": 0.6124, "validation/mAP": 0.7, "test/mAP50": 0.9}) == "test/mAP 0.612"
    assert headline({"validation/accuracy": 0.9, "size/megabytes": 3.0}) == "validation/accuracy 0.900"
    assert headline({"size/megabytes": 3.0}) is None


def test_a_list_is_not_said_to_be_empty_because_its_only_item_is_wrong() -> None:
    parameter = {"path": "training.optimiser.learningRate", "choice": [0.1]}
    objective = {"metric": "validation/accuracy", "goal": "Maximize"}
    template = {"spec": {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}}}

    def problems_of(parameters: list[dict[str, Any]]) -> list[str]:
        with pytest.raises(ValidationError) as caught:
            TuningSweepSpec.model_validate({"template": template, "parameters": parameters, "objectives": [objective]})
        return [path for path, _ in problems(caught.value)]

    assert problems_of([parameter]) == ["parameters[0].path"]
    assert problems_of([]) == ["parameters"]


@pytest.mark.parametrize("uri", ["https://bucket.example/captures", "ftp://x/y"])
def test_captures_are_kept_in_a_store(uri: str) -> None:
    """Nothing can be written to a web server."""
    spec = {"model": {"uri": "s3://m/b"}, "monitoring": {"captures": {"uri": uri}}}
    given = {"apiVersion": "fovea.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "cells"}, "spec": spec}
    with pytest.raises(ValidationError):
        ModelDeployment.model_validate(given)
