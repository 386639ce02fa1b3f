"""How far a training is, as its Run's status and the log show it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import timedelta

from fovea_api.common import format_duration
from fovea_api.run import Best, Progress
from fovea_api.trainingjob import Training

from fovea_trainer.training.state import State

TRAINING_PERCENT = 90
"""Share of a run that training is; export, evaluation and report are the rest."""


def training_progress(
    state: State, epochs: int, steps_per_epoch: int, seconds: float, images_per_second: float, metric: str, loss: float
) -> Progress:
    """Progress within a training.

    Args:
        state: The state of training.
        epochs: Epochs in all.
        steps_per_epoch: Steps in an epoch.
        seconds: Since the start, earlier attempts included.
        images_per_second: Of the current epoch, over all workers.
        metric: The monitored metric.
        loss: Sum of the losses of the current epoch's steps, over all workers.
    """
    done = state.epoch + state.step / steps_per_epoch
    left = timedelta(seconds=seconds / done * (epochs - done) * 100 / TRAINING_PERCENT) if done else None
    metrics = latest_metrics(state)
    if state.step:
        metrics["train/loss"] = rounded(loss / state.step)
    return Progress(
        stage="FineTuning" if state.pruned_after else "Training",
        epoch=round(done, 2),
        epochs=epochs,
        percent=int(TRAINING_PERCENT * done / epochs),
        eta=None if left is None else format_duration(left),
        images_per_second=round(images_per_second, 1),
        metrics=metrics,
        best=best_of(state, metric),
    )


def epoch_lines(
    state: State, training: Training, epochs: int, metrics: Mapping[str, float], seconds: float, saved: bool
) -> Iterator[str]:
    """What the log says of an epoch that has ended: its metrics, and why training ends early where it does.

    Args:
        state: The state after the epoch.
        training: How long training may go on.
        epochs: Epochs in all.
        metrics: Of the epoch.
        seconds: That it took.
        saved: Whether there is a checkpoint of it.
    """
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    best = " (the best so far)" if state.best_value is not None and state.best_epoch == state.epoch else ""
    yield f"epoch {state.epoch}/{epochs} in {seconds:.0f} s: {values}{best}{'; checkpoint saved' * saved}"
    stopping = training.early_stopping
    if state.stopped and stopping is not None:
        yield f"training ends early: {stopping.metric} got no better for {stopping.patience} epochs"


def latest_metrics(state: State) -> dict[str, float]:
    """The metrics of the last whole epoch, as people read them; those that are no numbers are left out."""
    last = state.history[-1] if state.history else {}
    return {name: rounded(value) for name, value in last.items() if math.isfinite(value)}


def best_of(state: State, metric: str) -> Best | None:
    """The best value of the monitored metric so far; None where nothing is monitored."""
    if state.best_value is None:
        return None
    return Best(name=metric, value=rounded(state.best_value), epoch=state.best_epoch)


def rounded(value: float) -> float:
    """Four significant digits: what a column or a line shows."""
    return float(f"{value:.4g}")
