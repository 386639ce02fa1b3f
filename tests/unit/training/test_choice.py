"""`model.architecture: Auto` on real cells of blood smears: what is compared, chosen, kept, and taken up again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml
from fovea_api.bundle import MANIFEST
from fovea_api.choice import Candidate
from fovea_api.presets import with_preset
from fovea_api.run import BundleInput, Progress, RunResult, RunSpec, RunType, frozen_recipe
from fovea_api.trainingjob import Recipe
from fovea_serving.bundle import read_manifest
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.local import train_manifest
from fovea_trainer.training import choice
from fovea_trainer.training.choice import NoCandidate, NoCandidateWithinLimits, choose, rank
from fovea_trainer.training.training_run import TrainingRun
from real_images import CELLS, blood_cells
from synthetic import class_folders

SPLITS = {"train": 24, "validation": 12, "test": 8}
CANDIDATES = ["timm/test_resnet", "mobilenet-v3", "timm/test_efficientnet"]
SMALL = {"metric": "size/megabytes", "max": 8}
"""What mobilenet-v3 is too large for."""


class Died(BaseException):
    """The death of the process: nothing that catches errors sees it."""


class Listener:
    """Hears progress, and dies where a message has these words."""

    def __init__(self, dies_at: str = "") -> None:
        self.dies_at, self.heard = dies_at, list[str]()

    def report(self, progress: Progress) -> None:
        if progress.stage == "Choosing":
            self.heard.append(progress.message or "")
            if self.dies_at and self.dies_at in self.heard[-1]:
                raise Died

    def finish(self, result: RunResult) -> None:
        pass


def manifest(folder: Path, *criteria: dict[str, Any], **model: Any) -> Path:
    """Crops of red and white cells, and a training whose architecture is open."""
    dataset = class_folders(folder / "cells", SPLITS, blood_cells(), CELLS)
    job = {
        "datasetRef": {"name": "cells"},
        "model": {"architecture": "Auto", "pretrained": {"weights": "None"}} | model,
        "input": {"size": {"width": 64, "height": 64}},
        "training": {"epochs": 20, "batchSize": 8},
        "successCriteria": list(criteria),
    }
    path = folder / "manifest.yaml"
    objects = [
        {"apiVersion": "fovea.dev/v1alpha1", "kind": kind, "metadata": {"name": "cells"}, "spec": content}
        for kind, content in (("Dataset", dataset), ("TrainingJob", job))
    ]
    path.write_text(yaml.safe_dump_all(objects))
    return path


def better_words(result: RunResult) -> str:
    assert result.training is not None
    return f"{result.training.architecture} was "


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("validation/mAP", {"small": 0.2, "middle": 0.4, "large": 0.3}, "middle"),
        ("validation/loss", {"small": 0.4, "middle": 0.5, "large": 0.3}, "large"),
        ("validation/mAP", {"large": 0.4, "middle": 0.4, "small": 0.3}, "middle"),
    ],
)
def test_candidates_are_ordered_by_the_metric_and_of_equals_by_what_they_compute(
    metric: str, values: dict[str, float], best: str
) -> None:
    macs = {"small": 1.0, "middle": 2.0, "large": 3.0}
    known = [
        Candidate(architecture=name, metrics={metric: value, "complexity/gigaMacs": macs[name]})
        for name, value in values.items()
    ]
    assert min(known, key=lambda each: rank(each, metric)).architecture == best


def preset_of(architecture: str) -> Recipe:
    recipe = {"model": {"architecture": architecture, "pretrained": {"weights": "None"}}, "training": {"batchSize": 8}}
    return with_preset(Recipe.model_validate(recipe))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auto")


@pytest.fixture(scope="module")
def chosen(folder: Path) -> tuple[RunResult, list[str], list[str]]:
    """A training that died while its last candidate was trained, and went on; what each attempt worked on."""
    path, store = manifest(folder, SMALL, candidates=CANDIDATES), str(folder / "store")
    first, second = Listener("timm/test_efficientnet is trained"), Listener()
    with pytest.raises(Died):
        train_manifest(path, store, reporter=first)
    return train_manifest(path, store, reporter=second), first.heard, second.heard


def test_the_best_within_the_limits_is_chosen_and_trained_by_the_whole_recipe(
    chosen: tuple[RunResult, list[str], list[str]],
) -> None:
    result = chosen[0]
    assert result.training is not None
    resnet, mobilenet, efficientnet = result.training.candidates
    assert [each.architecture for each in result.training.candidates] == CANDIDATES
    assert mobilenet.reason is not None
    assert mobilenet.reason.startswith("size/megabytes ")
    assert mobilenet.reason.endswith("(required ≤ 8)")
    assert not any(name.startswith("validation/") for name in mobilenet.metrics)
    better, worse = sorted((resnet, efficientnet), key=lambda each: each.reason is not None)
    assert result.training.architecture == better.architecture
    assert worse.reason is not None
    assert worse.reason.startswith(f"{better.architecture} was ")
    assert (better.epochs, worse.epochs) == (2, 2), "a tenth of the epochs"
    ranks = [(-each.metrics["validation/accuracy"], each.metrics["complexity/gigaMacs"]) for each in (better, worse)]
    assert ranks == sorted(ranks)
    for name in ("size/megabytes", "complexity/gigaMacs", "complexity/megaParameters"):
        assert better.metrics[name] == pytest.approx(result.metrics[name], rel=0.03), "measured as it will be served"
    assert result.training.epochs == 20


def test_bundle_and_report_have_the_comparison(chosen: tuple[RunResult, list[str], list[str]]) -> None:
    result = chosen[0]
    assert result.training is not None
    bundle = read_manifest(Path(str(result.artifact)) / MANIFEST)
    assert bundle.architecture == result.training.architecture
    assert bundle.lineage.candidates == result.training.candidates
    recipe = Recipe.model_validate(bundle.lineage.recipe)
    assert recipe.model.architecture == bundle.architecture
    assert recipe.training.optimizer == preset_of(bundle.architecture).training.optimizer
    text = Path(str(result.report)).read_text()
    for words in ("Choice of the architecture", *CANDIDATES, "(required ≤ 8)", better_words(result)):
        assert words in text, words


def test_a_run_that_died_repeats_no_candidate(chosen: tuple[RunResult, list[str], list[str]]) -> None:
    _, first, second = chosen
    assert [each.partition(" is ")[0] for each in first] == [*CANDIDATES, CANDIDATES[0], CANDIDATES[2]]
    assert [each.partition(",")[0] for each in second] == ["timm/test_efficientnet is trained for a short time"]


def test_what_no_candidate_keeps_names_the_nearest_with_its_value(
    folder: Path, chosen: tuple[RunResult, list[str], list[str]]
) -> None:
    sizes = {each.architecture: each.metrics["size/megabytes"] for each in chosen[0].training.candidates}  # type: ignore[union-attr]
    nearest = min(sizes, key=lambda name: sizes[name])
    path = manifest(folder, {"metric": "size/megabytes", "max": 0.1}, candidates=CANDIDATES)
    with pytest.raises(NoCandidateWithinLimits) as raised:
        train_manifest(path, str(folder / "store"), reporter=Listener())
    assert f"the nearest is {nearest}: size/megabytes {sizes[nearest]:g} (required ≤ 0.1)" in str(raised.value)
    assert raised.value.location == "spec.successCriteria"


def run_of(result: RunResult, folder: Path, **model: Any) -> TrainingRun:
    """The run of a result with another model in its recipe, in a folder of its own."""
    bundle = read_manifest(Path(str(result.artifact)) / MANIFEST)
    recipe = Recipe.model_validate({"model": {"architecture": "Auto"} | model})
    version = next((folder / "store/dataset/cells").glob("sha256-*"))
    spec = RunSpec.model_validate(
        {
            "type": RunType.TRAINING,
            "owner": {"kind": "TrainingJob", "name": "other"},
            "identity": bundle.lineage.identity,
            "recipe": frozen_recipe(recipe),
            "inputs": {"dataset": {"name": "cells", "version": version.name, "artifact": str(version)}},
            "store": str(folder / "other"),
        }
    )
    return TrainingRun(spec, RunEnvironment("r-0123456789", 1, folder / "work", ray=False))


def test_a_retraining_from_the_current_model_keeps_its_architecture_and_compares_nothing(
    folder: Path, chosen: tuple[RunResult, list[str], list[str]]
) -> None:
    result, listener = chosen[0], Listener()
    run = run_of(result, folder, pretrained={"from": "Current"})
    current = BundleInput(digest=str(result.digest), artifact=str(result.artifact))
    spec = run.spec.model_copy(update={"inputs": run.spec.inputs.model_copy(update={"base_weights": current})})
    found = choose(replace(run, spec=spec), listener.report, Event())
    assert found.recipe.model.architecture == result.training.architecture  # type: ignore[union-attr]
    assert found.recipe.model.pretrained.from_ == "Current"
    assert found.recipe.training.ema == preset_of(found.recipe.model.architecture).training.ema
    assert (found.candidates, listener.heard) == ((), [])


def test_what_kills_its_process_twice_is_left_out(
    folder: Path, chosen: tuple[RunResult, list[str], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(chosen[0], folder, candidates=["timm/test_resnet"], pretrained={"weights": "None"})
    for _ in range(choice.ATTEMPTS):
        with pytest.raises(Died):
            choose(run, Listener("is measured").report, Event())
    with caplog.at_level(logging.INFO), pytest.raises(NoCandidate, match="timm/test_resnet: its process died 2 times"):
        choose(run, Listener("is measured").report, Event())
