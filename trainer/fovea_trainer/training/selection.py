"""Which epoch is the best, and when training ends early."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fovea_api.common import Task
from fovea_api.compatibility import wrong_monitored
from fovea_api.errors import InvalidInput, refuse
from fovea_api.metrics import PRIMARY
from fovea_api.trainingjob import EarlyStopping, Recipe
from torch import nn

from fovea_trainer.training.state import State, clone


def monitored_metric(recipe: Recipe, task: Task) -> str:
    """The metric that picks the best epoch."""
    return f"validation/{recipe.evaluation.primary_metric or PRIMARY[task]}"


def check_monitored(recipe: Recipe, task: Task, has_validation: bool) -> None:
    """Refuses, before the first epoch, metrics to monitor that there will not be. Raises InvalidInput."""
    if not has_validation:
        if recipe.training.early_stopping is None:
            return
        raise InvalidInput(
            "there is no validation split whose metrics could be monitored",
            "spec.training.earlyStopping",
            "remove it, or give validation a share in the Dataset's splits.ratios",
        )
    refuse(wrong_monitored(task, recipe))


def improves(metric: str, value: float | None, best: float | None, min_delta: float = 0.0) -> bool:
    """Whether a value is better than the best so far by more than `min_delta`; what is no number never is.

    Less is better for a loss, more for everything else.
    """
    if value is None or not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if metric.endswith("/loss") else value > best + min_delta


def keep_best(state: State, metric: str, metrics: Mapping[str, float], network: nn.Module) -> None:
    """Keeps the weights of the best epoch, or of the last one as long as there is no value to compare."""
    value = metrics.get(metric)
    better = improves(metric, value, state.best_value)
    if better or state.best_value is None:
        state.best_epoch, state.best_weights = state.epoch, clone(network.state_dict())
        state.best_value = value if better else None


def stop_early(state: State, stopping: EarlyStopping, metrics: Mapping[str, float]) -> None:
    """Counts the epochs without improvement of the monitored metric; ends training after `patience` of them."""
    value = metrics[stopping.metric]
    if improves(stopping.metric, value, state.monitored_best, stopping.min_delta):
        state.monitored_best, state.epochs_without_improvement = value, 0
    else:
        state.epochs_without_improvement += 1
        state.stopped = state.epochs_without_improvement >= stopping.patience
