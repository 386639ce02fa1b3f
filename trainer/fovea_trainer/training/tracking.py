"""Curves for TensorBoard, and for MLflow where MLFLOW_TRACKING_URI is set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fovea_api.errors import MissingExtra
from torch.utils.tensorboard import SummaryWriter

from fovea_trainer.store import Place


class Tracker:
    """Writes metrics as they come.

    Args:
        folder: Local folder for the event files.
        target: Where they are copied after each epoch; None: nowhere.
        name: Name of the run.
        parameters: The recipe, flattened, for MLflow.
    """

    def __init__(self, folder: Path, target: Place | None, name: str, parameters: Mapping[str, object]) -> None:
        self._folder, self._target = folder, target
        self._events = SummaryWriter(str(folder))
        self._mlflow = _mlflow(name, parameters) if os.environ.get("MLFLOW_TRACKING_URI") else None

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Metrics after an epoch, counted from 1."""
        for name, value in metrics.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()
        if self._mlflow is not None:
            self._mlflow.log_metrics({name: float(value) for name, value in metrics.items()}, step=epoch)
        if self._target is not None:
            self._target.upload_tree(self._folder)

    def close(self) -> None:
        self._events.close()
        if self._mlflow is not None:
            self._mlflow.end_run()


def _mlflow(name: str, parameters: Mapping[str, object]) -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise MissingExtra("mlflow", "MLflow tracking (MLFLOW_TRACKING_URI is set)") from error
    mlflow.start_run(run_name=name)
    mlflow.log_params(dict(parameters))
    return mlflow
