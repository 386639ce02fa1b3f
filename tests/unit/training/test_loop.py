"""The loop on small real data: it learns, resumes exactly, stops early, and names what is wrong."""

from __future__ import annotations

import math
import resource
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fovea_api.common import Task
from fovea_api.errors import Interrupted, InvalidInput
from fovea_api.run import Progress
from fovea_api.trainingjob import Compression, Input, ModelChoice, Recipe
from fovea_trainer.models import bodies
from fovea_trainer.models.description import NetworkDescription, assemble
from fovea_trainer.training import loop
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.loop import Plan, TrainingDiverged, fit
from fovea_trainer.training.network import make_network
from fovea_trainer.training.precision import Precision, choose_precision
from fovea_trainer.training.state import FILE, CheckpointNotSaved, State
from fovea_trainer.training.tracking import Tracker
from pydantic import JsonValue
from synthetic import squares


def recipe(architecture: str = "resnet18", **training: JsonValue) -> Recipe:
    small: dict[str, JsonValue] = (
        {"width": 0.125, "stem": "Small", "dropout": 0.1} if architecture == "resnet18" else {}
    )
    return Recipe.model_validate(
        {
            "model": {"architecture": architecture, "options": small, "pretrained": {"weights": "None"}},
            "input": {
                "size": {"width": 32, "height": 32},
                "augmentations": [{"horizontalFlip": {}}, {"colorJitter": {"brightness": 0.1}}],
            },
            "training": {"epochs": 3, "batchSize": 8, "precision": "FP32", "ema": {"decay": 0.9}, **training},
        }
    )


class Listener(list[Progress]):
    def __call__(self, progress: Progress) -> None:
        self.append(progress)


class Points(Tracker):
    """A tracker that keeps the points of the curves over the steps."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float, int]] = []

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        pass

    def log_step(self, loss: float, learning_rate: float, step: int) -> None:
        self.points.append((loss, learning_rate, step))

    def __exit__(self, *error: object) -> None:
        pass


def equal(left: State, right: State) -> bool:
    return [item["train/loss"] for item in left.history] == [item["train/loss"] for item in right.history] and all(
        torch.equal(value, right.network[name]) for name, value in left.network.items()
    )


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_it_learns_and_tells_how_far_it_is(tmp_path: Path, optimizer: str) -> None:
    reported = Listener()
    job = recipe(epochs=12, optimizer={"name": optimizer, "learningRate": 0.02})
    state = fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 2, reported))
    assert state.best_value == 1.0
    assert reported[-1].epoch == reported[-1].epochs == 12
    assert reported[-1].best is not None
    assert reported[-1].best.name == "validation/accuracy"
    assert {"train/loss", "validation/accuracy", "validation/loss"} <= set(reported[-1].metrics)
    assert len(list(tmp_path.glob("*-*"))) == 2


def test_resuming_after_an_epoch_gives_what_an_uninterrupted_run_gives(tmp_path: Path) -> None:
    version, job = squares(Task.CLASSIFICATION), recipe(epochs=4)
    whole = fit(job, version, SingleProcess(tmp_path / "whole", 9, Listener()))
    for folder in sorted((tmp_path / "whole").glob("*-*"))[2:]:
        folder.rename(tmp_path / folder.name)
    resumed = fit(job, version, SingleProcess(tmp_path / "whole", 9, Listener()))
    assert equal(whole, resumed)


def test_resuming_within_an_epoch_gives_what_an_uninterrupted_run_gives(tmp_path: Path) -> None:
    version, job = squares(Task.CLASSIFICATION), recipe(epochs=2)
    whole = fit(job, version, SingleProcess(tmp_path / "whole", 2, Listener()))
    stop = threading.Event()
    stop.set()
    for _ in range(4):
        with pytest.raises(Interrupted):
            fit(job, version, SingleProcess(tmp_path / "parts", 2, Listener(), stop))
    parts = fit(job, version, SingleProcess(tmp_path / "parts", 2, Listener()))
    assert equal(whole, parts)


def pruned_recipe(epochs: int, **training: JsonValue) -> Recipe:
    """What learns the squares, is pruned and fine-tuned."""
    job = recipe(epochs=4, optimizer={"learningRate": 0.02}, **training)
    pruning = {"pruning": {"sparsity": 0.5, "fineTuneEpochs": epochs}}
    return job.model_copy(update={"compression": Compression.model_validate(pruning)})


def test_the_best_weights_are_pruned_and_fine_tuned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    reported, version, job = Listener(), squares(Task.CLASSIFICATION), pruned_recipe(3)
    state = fit(job, version, SingleProcess(tmp_path, 2, reported))
    assert (state.epoch, state.pruned_after, len(state.history)) == (7, 4, 7)
    assert state.best_epoch >= 4
    assert state.best_value == 1.0
    channels = {name: value.shape[0] for name, value in state.unpruned.items() if value.ndim == 4}
    assert {name: state.best_weights[name].shape[0] for name in channels} == {
        name: count // 2 for name, count in channels.items()
    }
    stages = dict.fromkeys((report.stage, report.epochs) for report in reported)
    assert list(stages) == [("Training", 7), ("FineTuning", 7)]
    rates = [epoch["train/learningRate"] for epoch in state.history]
    assert max(rates[:4]) > 1e-3 > rates[3], "the rate has fallen when training ends"
    assert max(rates[4:]) > 1e-3 > rates[6], "and rises and falls once more"
    (note,) = NetworkDescription.from_json(state.description).notes
    assert note.startswith("Pruning removed 50% of the channels: ")
    assert note in caplog.text
    assert "pruned and not yet fine-tuned: validation/accuracy" in caplog.text
    assert len(assemble(NetworkDescription.from_json(state.description), state.best_weights, "test").state_dict())


@pytest.mark.parametrize("freeze", ["Backbone", "BackboneExceptNorm"])
def test_a_frozen_backbone_that_was_pruned_is_fine_tuned_whole(tmp_path: Path, freeze: str) -> None:
    job = pruned_recipe(1)
    job = job.model_copy(update={"model": job.model.model_copy(update={"freeze": freeze})})
    version = squares(Task.CLASSIFICATION)
    state = fit(job, version, SingleProcess(tmp_path, 99, Listener()))
    frozen = make_network(job, version).state_dict()
    pruned = State.load(tmp_path / "000004-00000000")
    for name, statistic in (("body.layer1.0.conv1.weight", False), ("body.bn1.running_mean", True)):
        moved = not torch.equal(state.unpruned[name], frozen[name])
        assert moved == (statistic and freeze == "BackboneExceptNorm"), "frozen in training"
        assert not torch.equal(state.network[name], pruned.network[name]), "and trained once channels are missing"


def test_published_weights_are_loaded_where_training_begins_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    create = bodies.create

    def counted(name: str, pretrained: bool, **arguments: Any) -> torch.nn.Module:
        loaded.append(pretrained)
        return create(name, False, **arguments)

    monkeypatch.setattr(bodies, "create", counted)
    job, version = pruned_recipe(1), squares(Task.CLASSIFICATION)
    published = ModelChoice.model_validate({"architecture": "timm/test_resnet"})
    job = job.model_copy(update={"model": published, "training": job.training.model_copy(update={"epochs": 1})})
    fit(job, version, SingleProcess(tmp_path, 99, Listener()))
    assert loaded == [True, False, False, False], "what is trained, what is fine-tuned, and two checks of what is left"
    loaded.clear()
    fit(job, version, SingleProcess(tmp_path, 99, Listener()))
    assert not any(loaded), "all is in the checkpoint"


def test_resuming_within_fine_tuning_gives_what_an_uninterrupted_run_gives(tmp_path: Path) -> None:
    version, job = squares(Task.CLASSIFICATION), pruned_recipe(2)
    whole = fit(job, version, SingleProcess(tmp_path / "whole", 99, Listener()))
    for name in ("000004-00000000", "000005-00000000"):  # as it was pruned; in the middle of fine-tuning
        context = SingleProcess(tmp_path / name, 99, Listener())
        State.load(tmp_path / "whole" / name).save(tmp_path / name / name)
        assert equal(whole, fit(job, version, context))
    stop = threading.Event()
    stop.set()
    killed = SingleProcess(tmp_path / "killed", 99, Listener(), stop)
    State.load(tmp_path / "whole" / "000004-00000000").save(tmp_path / "killed" / "000004-00000000")
    with pytest.raises(Interrupted, match="epoch 5"):
        fit(job, version, killed)
    assert equal(whole, fit(job, version, SingleProcess(tmp_path / "killed", 99, Listener())))


def test_without_fine_tuning_the_pruned_weights_are_kept(tmp_path: Path) -> None:
    version = squares(Task.CLASSIFICATION)
    state = fit(pruned_recipe(0), version, SingleProcess(tmp_path, 1, Listener()))
    assert (state.epoch, state.best_epoch, state.pruned_after) == (4, 4, 4)
    assert state.best_weights["body.conv1.weight"].shape[0] == state.unpruned["body.conv1.weight"].shape[0] // 2
    assert State.load(tmp_path / "000004-00000000").pruned_after == 4, "the checkpoint has them"


def test_what_cannot_be_pruned_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    model = ModelChoice.model_validate({"architecture": "timm/test_vit", "pretrained": {"weights": "None"}})
    size = Input.model_validate({"size": {"width": 160, "height": 160}, "augmentations": []})
    job = pruned_recipe(1).model_copy(update={"model": model, "input": size})
    with pytest.raises(InvalidInput, match="cannot be pruned"):
        fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 1, Listener()))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_read_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    version, job = squares(Task.CLASSIFICATION), recipe()
    whole = fit(job, version, SingleProcess(tmp_path, 2, Listener()))
    newest = sorted(tmp_path.glob("*-*"))[-1] / FILE
    newest.write_bytes(newest.read_bytes()[:-1000])
    half = tmp_path / "000009-00000000"  # a kill before the rename
    half.mkdir()
    (half / f"{FILE}.1").write_bytes(b"half")
    resumed = fit(job, version, SingleProcess(tmp_path, 1, Listener()))
    assert equal(whole, resumed)
    assert "training goes on from the one before" in caplog.text
    assert [folder.name for folder in tmp_path.glob("*-*")] == ["000003-00000000"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    version, job = squares(Task.CLASSIFICATION), recipe(epochs=2)
    whole = fit(job, version, SingleProcess(tmp_path / "whole", 1, Listener()))
    fit(recipe(epochs=1), version, SingleProcess(tmp_path / "parts", 1, Listener()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # stands for the full disk
    try:
        with pytest.raises(CheckpointNotSaved, match=r"checkpoint of epoch 2 cannot be written.*\(make room\)"):
            fit(job, version, SingleProcess(tmp_path / "parts", 1, Listener()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob(f"parts/*/{FILE}.*"))
    assert equal(whole, fit(job, version, SingleProcess(tmp_path / "parts", 1, Listener())))


def test_the_seed_decides(tmp_path: Path) -> None:
    version = squares(Task.CLASSIFICATION)
    runs = [fit(recipe(seed=seed), version, SingleProcess(tmp_path / f"{index}", 1, Listener()))
            for index, seed in enumerate((1, 1, 2))]  # fmt: skip
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("asked", "device", "name"), [("Auto", "cpu", "FP32"), ("BF16", "cpu", "BF16"), ("FP16", "cuda", "FP16")]
)
def test_the_precision_is_what_was_asked_and_auto_goes_by_the_kind_of_device(
    asked: str, device: str, name: str
) -> None:
    assert choose_precision(asked, torch.device(device)) == Precision(name, device)


def test_early_stopping_ends_training_and_the_best_epoch_is_kept(tmp_path: Path) -> None:
    job = recipe(epochs=20, earlyStopping={"metric": "validation/accuracy", "patience": 2, "minDelta": 1.0})
    state = fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 1, Listener()))
    assert state.epoch == 3
    assert state.best_epoch <= 3


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path: Path) -> None:
    job = recipe()
    tiny = {"mean": [0, 0, 0], "std": [1e-42] * 3}  # as a float32 its inverse is infinite
    job = Recipe.model_validate(job.to_dict() | {"input": {"normalize": tiny, "size": {"width": 32, "height": 32}}})
    with pytest.raises(TrainingDiverged, match="lower optimizer"):
        fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 1, Listener()))


def test_the_curves_do_not_depend_on_how_often_losses_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's losses are read every few steps; here, with 3 steps in an epoch, every 2 and at its end."""
    curves = []
    for steps in (1, 2):
        monkeypatch.setattr(loop, "read_steps", lambda device, steps=steps: steps)
        tracker = Points()
        state = fit(recipe(), squares(Task.CLASSIFICATION), SingleProcess(tmp_path / str(steps), 1, Listener()),
                    Plan(tracker=tracker))  # fmt: skip
        curves.append((tracker.points, state.history))
    assert [step for _, _, step in curves[0][0]] == list(range(1, 10))
    assert curves[0] == curves[1]


def test_workers_agree_on_a_checkpoint_only_where_losses_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time, all of them wait for the first one."""
    asked: list[bool] = []
    monkeypatch.setattr(loop, "read_steps", lambda device: 2)
    monkeypatch.setattr(loop, "first_workers", lambda value, context: asked.append(value) or value)
    fit(recipe(), squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 2, Listener()))
    assert len(asked) == 1 + 3, "the precision, and after step 2 of 3 in each epoch"


def test_a_loss_that_is_no_number_is_never_part_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "read_steps", lambda device: 2)
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", 1000.0)
    job = recipe()
    tiny = {"mean": [0, 0, 0], "std": [1e-42] * 3}
    job = Recipe.model_validate(job.to_dict() | {"input": {"normalize": tiny, "size": {"width": 32, "height": 32}}})
    for seconds in (0.0, 1000.0):  # a checkpoint after two steps; one after the epoch
        with pytest.raises(TrainingDiverged, match="in epoch 1, step 1"):
            fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 1, Listener()),
                Plan(checkpoint_seconds=seconds))  # fmt: skip
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("retinanet-efficientnet-lite0", Task.DETECTION),
        ("fasterrcnn", Task.DETECTION),
        ("maskrcnn", Task.INSTANCE_SEGMENTATION),
        ("unet-efficientnet-lite0", Task.SEMANTIC_SEGMENTATION),
        ("mobilenet-v3", Task.CLASSIFICATION),
    ],
)
def test_every_task_trains(architecture: str, task: Task, tmp_path: Path) -> None:
    job = recipe(architecture, epochs=2, gradientClipNorm=5)
    state = fit(job, squares(task), SingleProcess(tmp_path, 1, Listener()))
    losses = [item["train/loss"] for item in state.history]
    assert losses[1] < losses[0]


def test_an_architecture_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"resnet18 is for Classification, the dataset for Detection"):
        fit(recipe(), squares(Task.DETECTION), SingleProcess(tmp_path, 1, Listener()))


def test_an_unknown_metric_is_named_with_those_there_are(tmp_path: Path) -> None:
    job = recipe(earlyStopping={"metric": "validation/mAP"})
    with pytest.raises(InvalidInput, match=r"validation/mAP is not measured.*validation/accuracy"):
        fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 1, Listener()))


def test_without_a_validation_split_the_last_epoch_is_kept(tmp_path: Path) -> None:
    version = squares(Task.CLASSIFICATION, validation=0)
    state = fit(recipe(), version, SingleProcess(tmp_path, 1, Listener()))
    assert (state.best_epoch, state.best_value) == (3, None)
    assert all(torch.equal(value, state.ema[name]) for name, value in state.best_weights.items())


def test_what_cannot_be_watched_is_refused_before_the_first_epoch(tmp_path: Path) -> None:
    reported = Listener()
    job = recipe(earlyStopping={"metric": "validation/accuracy"})
    with pytest.raises(InvalidInput, match=r"earlyStopping: there is no validation split.*splits\.ratios"):
        fit(job, squares(Task.CLASSIFICATION, validation=0), SingleProcess(tmp_path, 1, reported))
    with pytest.raises(InvalidInput, match=r"primaryMetric: mAP is not measured"):
        fit(Recipe.model_validate(recipe().to_dict() | {"evaluation": {"primaryMetric": "mAP"}}),
            squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 1, reported))  # fmt: skip
    assert reported == []


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_metric_that_is_no_number_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    """What a network's overflow in half precision gives; the double stands for the one epoch in which it does."""
    values = iter([math.nan, 0.5, math.inf if metric == "accuracy" else -math.inf, math.nan])
    monkeypatch.setattr(loop, "validate", lambda *_: {f"validation/{metric}": next(values)})
    reported = Listener()
    job = recipe(epochs=4, earlyStopping={"metric": f"validation/{metric}", "patience": 2})
    job = Recipe.model_validate(job.to_dict() | {"evaluation": {"primaryMetric": metric}})
    state = fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path, 1, reported))
    assert (state.best_epoch, state.best_value, state.epoch) == (2, 0.5, 4)
    assert all(math.isfinite(value) for progress in reported for value in progress.metrics.values())


def test_class_weights_and_focal_loss_train(tmp_path: Path) -> None:
    for index, balance in enumerate(["ClassWeights", "FocalLoss", "Oversample", "Undersample"]):
        job = recipe(epochs=1)
        job = job.model_copy(update={"input": job.input.model_copy(update={"balance": balance})})
        assert fit(job, squares(Task.CLASSIFICATION), SingleProcess(tmp_path / str(index), 1, Listener())).epoch == 1


class Killed(Exception):
    """Stands for a worker that is gone from one moment to the next."""


def test_a_killed_training_loses_no_more_than_the_time_between_checkpoints(tmp_path: Path) -> None:
    version, job = squares(Task.CLASSIFICATION), recipe(epochs=2)
    whole = fit(job, version, SingleProcess(tmp_path / "whole", 2, Listener()))

    class Mortal(SingleProcess):
        def report(self, state: State, save: bool) -> None:
            super().report(state, save)
            if (state.epoch, state.step) == (1, 2):
                raise Killed

    with pytest.raises(Killed):
        fit(job, version, Mortal(tmp_path / "parts", 2, Listener()), Plan(checkpoint_every=10, checkpoint_seconds=0))
    saved = SingleProcess(tmp_path / "parts", 2, Listener()).resume()
    assert saved is not None
    assert (saved.epoch, saved.step) == (1, 2)
    assert equal(whole, fit(job, version, SingleProcess(tmp_path / "parts", 2, Listener())))
