"""Curves for TensorBoard, for MLflow where MLFLOW_TRACKING_URI is set, and for Weights & Biases where WANDB_PROJECT is.

None of them ever ends a training.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fovea_api.errors import FoveaError, Interrupted
from fovea_store import StorePath
from torch.utils.tensorboard import SummaryWriter

from fovea_trainer.data.sources import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

TRACKING_URI = "MLFLOW_TRACKING_URI"
WANDB_PROJECT = "WANDB_PROJECT"
RUN_TAG = "fovea.run"
"""Tag of MLflow's run with the name of ours, by which a later attempt finds it."""
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds that an epoch may wait for a server that hangs
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # what was not taken is offered again after the next epoch
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""How MLflow behaves unless the environment says otherwise."""
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000
"""What a server takes in one request."""
PARAM_LENGTH = 500
"""Characters of a value that servers of all versions take."""

STEPS_BETWEEN = 10
"""Steps between two points of the curves over the steps; the first ones are all written, as most goes wrong there."""

log = logging.getLogger(__name__)


class Tracker:
    """Writes metrics as they come; a context, which reports to MLflow how training ended.

    Args:
        folder: Local folder for the event files.
        target: Where they are copied after each epoch; None: nowhere.
        name: Name of the run.
        experiment: Name of MLflow's experiment, unless MLFLOW_EXPERIMENT_NAME names one.
        parameters: The recipe, flattened, for MLflow.
    """

    def __init__(
        self, folder: Path, target: StorePath | None, name: str, experiment: str, parameters: Mapping[str, object]
    ) -> None:
        self._folder, self._target = folder, target
        self._events = SummaryWriter(str(folder))
        self._mlflow = MLflowRun(name, experiment, parameters) if os.environ.get(TRACKING_URI) else None
        self._wandb = WandbRun(name, experiment, parameters) if os.environ.get(WANDB_PROJECT) else None

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Metrics after an epoch, counted from 1."""
        for name, value in metrics.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()
        if self._mlflow is not None:
            self._mlflow.log(metrics, epoch)
        if self._wandb is not None:
            self._wandb.log(metrics, epoch)
        if self._target is not None:
            try:
                self._target.upload_tree(self._folder)
            except FoveaError as error:
                log.warning("the curves for TensorBoard were not copied to the store: %s", error)

    def log_step(self, loss: float, learning_rate: float, step: int) -> None:
        """Loss (of several workers about) and learning rate after a step, counted from 1 over all epochs."""
        if step % STEPS_BETWEEN == 0 or step <= STEPS_BETWEEN:
            self._events.add_scalar("step/loss", loss, step)
            self._events.add_scalar("step/learningRate", learning_rate, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._events.close()
        stopped = kind is not None and (issubclass(kind, Interrupted) or not issubclass(kind, Exception))
        if self._wandb is not None:
            self._wandb.end(failed=kind is not None)
        if self._mlflow is not None:
            self._mlflow.end("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")


class MLflowRun:
    """A run in MLflow; later attempts go on in the same one.

    A server that cannot be reached is reported once. What it misses is kept and offered again after each epoch.
    """

    def __init__(self, name: str, experiment: str, parameters: Mapping[str, object]) -> None:
        for variable, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(variable, value)
        from mlflow.entities import Param

        self._name, self._experiment = name, os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment
        self._params: list[Param] = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in parameters.items()]
        self._metrics: list[Metric] = []
        self._status = "RUNNING"
        self._id: str | None = None
        self._away = False
        self._send()

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Metrics after an epoch, counted from 1."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._metrics += [Metric(name, float(value), now, epoch) for name, value in metrics.items()]
        self._send()

    def end(self, status: str) -> None:
        """Reports how training ended: FINISHED, FAILED or KILLED."""
        self._status = status
        self._send()

    def _send(self) -> None:
        uri = os.environ[TRACKING_URI]
        shown = without_secrets(uri)
        try:
            self._deliver()
        except Exception as error:  # of whatever kind: a tracker is no reason to lose a training
            if not self._away:
                reason = str(error).replace(uri, shown)
                log.warning("MLflow at %s takes nothing; it is offered again after each epoch: %s", shown, reason)
            self._away = True
        else:
            if self._away:
                log.info("MLflow at %s has what it missed", shown)
            self._away = False

    def _deliver(self) -> None:
        from mlflow import MlflowClient

        client = MlflowClient()
        if self._id is None:
            self._id = self._find(client)
        while self._params:
            client.log_batch(self._id, params=self._params[:PARAMS_AT_ONCE])
            del self._params[:PARAMS_AT_ONCE]
        while self._metrics:
            client.log_batch(self._id, metrics=self._metrics[:METRICS_AT_ONCE])
            del self._metrics[:METRICS_AT_ONCE]
        if self._status != "RUNNING":
            client.set_terminated(self._id, self._status)

    def _find(self, client: MlflowClient) -> str:
        """Id of the run that an earlier attempt made, which runs again, or of a new one."""
        known = client.get_experiment_by_name(self._experiment)
        experiment = client.create_experiment(self._experiment) if known is None else known.experiment_id
        runs = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{self._name}'", max_results=1)
        if not runs:
            made = client.create_run(experiment, run_name=self._name, tags={RUN_TAG: self._name})
            return str(made.info.run_id)
        client.update_run(runs[0].info.run_id, status="RUNNING")
        return str(runs[0].info.run_id)


class WandbRun:
    """A run in Weights & Biases, whose package is installed by who wants it; later attempts go on in the same one.

    Its own variables (WANDB_API_KEY, WANDB_ENTITY, WANDB_MODE, …) say where it goes. wandb sends in the background.
    """

    def __init__(self, name: str, experiment: str, parameters: Mapping[str, object]) -> None:
        self._run: Any = None
        try:
            import wandb

            os.environ.setdefault("WANDB_SILENT", "true")
            self._run = wandb.init(id=name, name=name, group=experiment, config=dict(parameters), resume="allow")
        except ImportError as error:
            log.warning("Weights & Biases takes nothing: %s (`pip install wandb`, in the image on a cluster)", error)
        except Exception as error:  # of whatever kind: a tracker is no reason to lose a training
            log.warning("Weights & Biases takes nothing: %s: %s", type(error).__name__, error)

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Metrics after an epoch, counted from 1."""
        self._try(lambda: self._run.log({**metrics, "epoch": epoch}, step=epoch))

    def end(self, *, failed: bool) -> None:
        """Tells how training ended."""
        self._try(lambda: self._run.finish(exit_code=1 if failed else 0))

    def _try(self, work: Callable[[], object]) -> None:
        if self._run is None:
            return
        try:
            work()
        except Exception as error:
            log.warning("Weights & Biases takes nothing more: %s: %s", type(error).__name__, error)
            self._run = None
