"""MLflow's own store, in a folder, and a server that is away (a server needs far more packages than its client); a
stand-in for Weights & Biases; TensorBoard's own reader."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fovea_api.common import Task
from fovea_api.errors import Interrupted
from fovea_api.trainingjob import Recipe
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.loop import Plan, TrainingDiverged, fit
from fovea_trainer.training.state import State
from fovea_trainer.training.tracking import Tracker
from synthetic import squares
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ports import free_port

EPOCHS = 3
RECIPE = Recipe.model_validate(
    {
        "model": {
            "architecture": "resnet18",
            "options": {"width": 0.125, "stem": "Small"},
            "pretrained": {"weights": "None"},
        },
        "input": {"size": {"width": 32, "height": 32}},
        "training": {"epochs": EPOCHS, "batchSize": 8, "precision": "FP32"},
    }
)
OVERFLOWING = RECIPE.to_dict() | {"input": {"normalize": {"mean": [0, 0, 0], "std": [1e-42] * 3}}}


@pytest.fixture(autouse=True)
def _mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_REQUEST_TIMEOUT", "HTTP_REQUEST_MAX_RETRIES", "DISABLE_TELEMETRY"):
        monkeypatch.delenv(f"MLFLOW_{variable}", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")


def train(folder: Path, recipe: Recipe = RECIPE, stop: threading.Event | None = None) -> State:
    tracker = Tracker(folder / "events", None, "r-0123456789", "squares", {"training.epochs": 3, "model.x": "y" * 900})
    context = SingleProcess(folder / "checkpoints", 1, lambda _: None, stop)
    return fit(recipe, squares(Task.CLASSIFICATION), context, Plan(tracker=tracker))


def runs(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"file://{folder}/mlflow")
    experiment = client.get_experiment_by_name("squares")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def curve(folder: Path, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"file://{folder}/mlflow")
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def test_parameters_the_metrics_of_each_epoch_and_the_end_arrive(tmp_path: Path) -> None:
    state = train(tmp_path)
    (run,) = runs(tmp_path)
    assert (run.info.run_name, run.info.status) == ("r-0123456789", "FINISHED")
    assert run.data.params["training.epochs"] == "3"
    assert run.data.params["model.x"] == "y" * 500
    for metric in ("train/loss", "validation/accuracy"):
        expected = [(epoch, item[metric]) for epoch, item in enumerate(state.history, 1)]
        assert curve(tmp_path, run, metric) == expected


def test_an_attempt_that_was_stopped_is_gone_on_with_in_the_same_run(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        train(tmp_path, stop=stop)
    assert [run.info.status for run in runs(tmp_path)] == ["KILLED"]
    train(tmp_path)
    (run,) = runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in curve(tmp_path, run, "train/loss")] == [1, 2, 3]


def test_a_training_that_fails_is_shown_as_failed(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged):
        train(tmp_path, Recipe.model_validate(OVERFLOWING))
    assert [run.info.status for run in runs(tmp_path)] == ["FAILED"]


def test_a_server_that_is_away_is_told_of_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert train(tmp_path).epoch == EPOCHS
    (message,) = [record.getMessage() for record in caplog.records if "MLflow" in record.getMessage()]
    assert message.startswith(
        f"MLflow at http://127.0.0.1:{port} takes nothing; it is offered again after each epoch: "
    )
    assert "hunter2" not in caplog.text


def test_what_a_tracker_missed_it_gets_when_it_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "mlflow"
    blocked.write_text("no folder")
    tracker = Tracker(tmp_path / "events", None, "r-0123456789", "squares", {"a": 1})
    with caplog.at_level(logging.INFO, "fovea_trainer"), tracker:
        tracker.log({"train/loss": 2.0}, 1)
        blocked.unlink()
        tracker.log({"train/loss": 1.0}, 2)
    (run,) = runs(tmp_path)
    assert curve(tmp_path, run, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert run.data.params == {"a": "1"}
    assert "has what it missed" in caplog.text


class StandIn:
    """For the package `wandb`, which is not installed with Fovea: keeps what it is given."""

    def __init__(self, broken: bool = False) -> None:
        self.given: list[tuple[str, Any]] = []
        self.broken = broken

    def init(self, **settings: Any) -> StandIn:
        self.given.append(("init", settings))
        return self

    def log(self, metrics: dict[str, float], step: int) -> None:
        if self.broken:
            raise OSError("away")
        self.given.append((f"step {step}", metrics))

    def finish(self, exit_code: int) -> None:
        self.given.append(("finish", exit_code))


@pytest.mark.parametrize("broken", [False, True])
def test_weights_and_biases_gets_the_same_where_its_project_is_named(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("WANDB_PROJECT", "vision")
    monkeypatch.setitem(sys.modules, "wandb", wandb := StandIn(broken))
    state = train(tmp_path)
    first, *rest = wandb.given
    assert first[1] | {"config": {}} == {
        "id": "r-0123456789", "name": "r-0123456789", "group": "squares", "config": {}, "resume": "allow",
    }  # fmt: skip
    if broken:
        assert rest == []
        assert caplog.text.count("Weights & Biases takes nothing more: OSError: away") == 1
    else:
        assert [name for name, _ in rest] == ["step 1", "step 2", "step 3", "finish"]
        assert rest[0][1] == {**state.history[0], "epoch": 1}
        assert rest[-1] == ("finish", 0)


def test_without_its_package_weights_and_biases_is_told_of_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("WANDB_PROJECT", "vision")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(tmp_path).epoch == EPOCHS
    assert "(`pip install wandb`, in the image on a cluster)" in caplog.text


def test_tensorboard_has_the_first_steps_and_then_every_tenth(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, None, "r-0123456789", "squares", {})
    with tracker:
        for step in range(1, 36):
            tracker.log_step(1 / step, 1e-3, step)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [*range(1, 11), 20, 30]
    assert events.Scalars("step/loss")[-1].value == pytest.approx(1 / 30)
    assert len(events.Scalars("step/learningRate")) == 12
