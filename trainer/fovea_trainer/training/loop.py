"""The training loop: one function of (recipe, dataset version, context)."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import numpy as np
import torch
from fovea_api.common import Task, format_duration
from fovea_api.errors import FoveaError, Interrupted, InvalidInput, refuse
from fovea_api.impossible import ignored_by_loss, wrong_task, wrong_watched
from fovea_api.metrics import PRIMARY
from fovea_api.run import Best, Progress
from fovea_api.trainingjob import EarlyStopping, Recipe
from fovea_api.version import DatasetVersion
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from fovea_trainer.augmentation import Augment
from fovea_trainer.models.losses import LossSettings, choose_loss
from fovea_trainer.models.network import Network, Targets
from fovea_trainer.models.registry import build_network, registry
from fovea_trainer.models.weights import load_state, read_state
from fovea_trainer.training.base_weights import BaseWeights
from fovea_trainer.training.context import Context
from fovea_trainer.training.examples import (
    Examples,
    Sample,
    class_weights,
    classes_of,
    collate,
    preprocessing,
)
from fovea_trainer.training.optimization import (
    Precision,
    build_optimizer,
    choose_precision,
    learning_rate_factor,
)
from fovea_trainer.training.order import Order, WorkerBatches, mix, shares
from fovea_trainer.training.state import State, clone
from fovea_trainer.training.tracking import Tracker
from fovea_trainer.training.validation import validate

TRAINING_PERCENT = 90
"""Share of a run that training is; export, evaluation and report are the rest."""
TELL_SECONDS = 1.0
"""Between two reports of progress within an epoch."""
CHECKPOINT_SECONDS = 300.0
"""Between two checkpoints at most, also within an epoch: what a training loses that is killed."""
NO_VALIDATION = "There is no validation split: the weights of the last epoch are kept, whatever the test split says."

log = logging.getLogger(__name__)


class TrainingDiverged(FoveaError):
    """The loss is no longer a number."""


class Version(Protocol):
    """What is read of a dataset version."""

    @property
    def manifest(self) -> DatasetVersion: ...
    def split(self, name: str) -> Sequence[Sample]: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How the work is carried out, beside the recipe. It changes no result.

    Args:
        checkpoint_every: Epochs between two checkpoints.
        checkpoint_seconds: Seconds after which there is one in any case.
        base_weights: Weights to start from instead of published ones.
        tracker: Keeps the curves; on the first worker only.
    """

    checkpoint_every: int = 1
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    base_weights: BaseWeights | None = None
    tracker: Tracker | None = None


def make_network(recipe: Recipe, version: Version) -> Network:
    """The network of a recipe for the classes of a dataset version, before training."""
    architecture = registry()[recipe.model.architecture].architecture
    manifest = version.manifest
    refuse(wrong_task(architecture, manifest.task))
    refuse(ignored_by_loss(architecture, recipe))
    balance = recipe.input.balance
    weights: tuple[float, ...] = ()
    if balance == "ClassWeights":
        weights = class_weights(version.split("train"), manifest.task, len(manifest.classes))
    loss = choose_loss(architecture, recipe.training.loss, balance == "FocalLoss")
    settings = LossSettings(loss, weights, recipe.training.label_smoothing)
    torch.manual_seed(recipe.training.seed)
    return build_network(recipe.model, len(manifest.classes), settings)


def fit(recipe: Recipe, version: Version, context: Context, plan: Plan = Plan()) -> State:
    """Trains, or goes on where the newest checkpoint of the context ends, and gives the final state.

    The weights to export are `state.best_weights`: of the epoch with the best primary metric on the validation
    split (of the last one, where there is no such split), averaged where the recipe has `ema`.

    Raises:
        TrainingDiverged: the loss is not finite.
        Interrupted: the context asked to stop; a checkpoint was saved.
    """
    with plan.tracker or nullcontext():
        return _Fit(recipe, version, context, plan).run()


class _Fit:
    def __init__(self, recipe: Recipe, version: Version, context: Context, plan: Plan) -> None:
        self.recipe, self.training, self.context, self.plan = recipe, recipe.training, context, plan
        task = version.manifest.task
        samples = version.split("train")
        if len(samples) < 2:  # the export is proved on different images
            raise InvalidInput(f"the train split has {len(samples)} images", "spec.splits", "give it two at least")
        preprocess = preprocessing(registry()[recipe.model.architecture].architecture, recipe.input)
        self.train = Examples(samples, task, preprocess, Augment(recipe.input.augmentations))
        held_out = version.split("validation") if version.manifest.splits.get("validation") else []
        self.validation = Examples(held_out, task, preprocess, Augment(()))
        if held_out or self.training.early_stopping is not None:
            _check_watched(recipe, task, bool(held_out))
        balanced = recipe.input.balance in ("Oversample", "Undersample")
        shown = shares(classes_of(samples, task), recipe.input.balance) if balanced else np.ones(len(samples))
        self.order = Order(shown, self.training.batch_size, self.training.seed)
        if context.workers > self.training.batch_size:
            raise InvalidInput(
                f"a batch of {self.training.batch_size} cannot be shared by {context.workers} workers",
                "spec.training.batchSize",
                "use fewer workers or larger batches",
            )

        self.network = make_network(recipe, version)
        self.state = context.resume() or State()
        if plan.base_weights is not None and not self.state.network:
            self._start_from(plan.base_weights)
        self.network.to(context.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.network, self.training.optimizer)
        ema = self.training.ema
        self.ema = None if ema is None else ModelEmaV3(self.network, decay=ema.decay, use_warmup=True)
        if self.state.network:
            self._restore()
        self.precision = self._choose_precision()
        self.scaler = self.precision.scaler()
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)
        self.primary = watched_metric(recipe, task)
        self.started, self.cpu_started = time.monotonic() - self.state.seconds, time.process_time()
        self.cpu_before = self.state.cpu_seconds
        self.told, self.saved = 0.0, time.monotonic()

    # --- Epochs ---

    def run(self) -> State:
        self._introduce()
        model = self._distributed()
        while self.state.epoch < self.training.epochs and not self.state.stopped:
            began = time.monotonic()
            loss = self._train_epoch(model)
            self._end_epoch(loss, began)
        return self.state

    def _introduce(self) -> None:
        """Logs what is trained on what."""
        training, device, workers = self.training, self.context.device, self.context.workers
        threads = f"{torch.get_num_threads()} threads"
        place = f"the CPU ({threads})" if device.type == "cpu" else torch.cuda.get_device_name(device)
        self._log(
            "training %s (weights to start from: %s) on %d images for %d epochs of %d steps of %d; %s, %s on %s",
            self.recipe.model.architecture,
            self.state.base_uri or self.recipe.model.pretrained.weights,
            len(self.train),
            training.epochs,
            self.order.steps_per_epoch,
            training.batch_size,
            self.precision.name,
            f"{workers} worker{'s' if workers > 1 else ''}",
            place,
        )
        if len(self.validation):
            self._log("each epoch is judged by %s on %d images", self.primary, len(self.validation))
        else:
            self._log(NO_VALIDATION)
        if self.state.network:
            self._log("training goes on after epoch %d, step %d", self.state.epoch, self.state.step)

    def _log(self, message: str, *values: object) -> None:
        if self.context.rank == 0:
            log.info(message, *values)

    def _distributed(self) -> torch.nn.Module:
        if self.context.workers == 1:
            return self.network
        devices = [self.context.device] if self.context.device.type == "cuda" else None
        return DistributedDataParallel(self.network, device_ids=devices)

    def _train_epoch(self, model: torch.nn.Module) -> float:
        """Mean loss of the epoch, over all workers."""
        state, context = self.state, self.context
        steps = self.order.steps_per_epoch
        batches = WorkerBatches(self.order, state.epoch, state.step, context.rank, context.workers)
        loader = DataLoader(
            self.train,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=context.loader_processes,
        )
        model.train()
        began, images_done = time.monotonic(), 0
        for images, targets, _ in loader:
            step = state.epoch * steps + state.step
            torch.manual_seed(mix(self.training.seed, step, context.rank))  # dropout, sampled anchors
            factor = learning_rate_factor(self.training.schedule, step, steps, self.training.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = self.training.optimizer.learning_rate * factor
            state.loss_sum += self._step(model, images, targets)
            state.step += 1
            if self.ema is not None:
                self.ema.update(self.network, step=step + 1)
            images_done += self.training.batch_size
            self._tell(images_done / (time.monotonic() - began))
            if context.stopping():
                self._save(True)
                raise Interrupted(f"training was stopped in epoch {state.epoch + 1} and its state saved")
            if state.step < steps and self._due():
                state.loss_sum = self._total(state.loss_sum) / context.workers  # the first worker's is kept, for all
                self._save(True)
                self._log("checkpoint saved in epoch %d, after %d of %d steps", state.epoch + 1, state.step, steps)
        return self._total(state.loss_sum) / steps

    def _total(self, value: float) -> float:
        """The sum over all workers."""
        if self.context.workers == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.context.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def _due(self) -> bool:
        """Whether the last checkpoint is long ago; the first worker's clock decides for all."""
        due = time.monotonic() - self.saved >= self.plan.checkpoint_seconds
        if self.context.workers == 1:
            return due
        told = torch.tensor(int(due), device=self.context.device)
        torch.distributed.broadcast(told, 0)
        return bool(told)

    def _step(self, model: torch.nn.Module, images: Tensor, targets: Targets) -> float:
        """One step; gives this worker's share of the loss. Workers count by their number of images."""
        share = len(images) / self.training.batch_size
        with self.precision.autocast():
            parts: Mapping[str, Tensor] = model(
                images.to(self.context.device, non_blocking=True), targets.to(self.context.device)
            )
        loss = torch.stack([part.float() for part in parts.values()]).sum()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingDiverged(
                f"the loss is {value} in epoch {self.state.epoch + 1}, step {self.state.step + 1}",
                "spec.training",
                "lower optimizer.learningRate, set gradientClipNorm, or use precision FP32",
            )
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over the workers; undo it, each worker brings its own share.
        torch.autograd.backward(self.scaler.scale(loss * share * self.context.workers))
        if self.training.gradient_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.training.gradient_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value * share

    def _end_epoch(self, loss: float, began: float) -> None:
        state = self.state
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        metrics = {"train/loss": loss, "train/learningRate": float(self.optimizer.param_groups[0]["lr"])}
        shown = self.network if self.ema is None else self.ema.module
        if len(self.validation):
            metrics |= validate(shown, self.validation, self.training.batch_size, self.context, self.precision)
        state.history.append(metrics)
        self._remember_best(metrics, shown)
        if self.training.early_stopping is not None:
            self._watch(self.training.early_stopping, metrics)
        if self.plan.tracker is not None:
            self.plan.tracker.log(metrics, state.epoch)
        last = state.epoch == self.training.epochs or state.stopped
        save = last or state.epoch % self.plan.checkpoint_every == 0 or self._due()
        self._save(save)
        self._log(
            "epoch %d/%d in %.0f s: %s%s%s",
            state.epoch,
            self.training.epochs,
            time.monotonic() - began,
            ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
            " (the best so far)" if state.best_value is not None and state.best_epoch == state.epoch else "",
            "; checkpoint saved" if save else "",
        )
        if state.stopped:
            assert self.training.early_stopping is not None
            watched = self.training.early_stopping
            self._log("training ends early: %s got no better for %d epochs", watched.metric, watched.patience)
        self._tell(None)

    def _remember_best(self, metrics: Mapping[str, float], network: Network) -> None:
        """Keeps the weights of the best epoch, or of the last one as long as there is no value to compare."""
        state, value = self.state, _finite(metrics.get(self.primary))
        if state.best_value is None or (value is not None and _better(self.primary, value, state.best_value, 0.0)):
            state.best_epoch, state.best_value, state.best_weights = state.epoch, value, clone(network.state_dict())

    def _watch(self, stopping: EarlyStopping, metrics: Mapping[str, float]) -> None:
        state, value, best = self.state, _finite(metrics[stopping.metric]), self.state.watched_best
        if value is not None and (best is None or _better(stopping.metric, value, best, stopping.min_delta)):
            state.watched_best, state.stale_epochs = value, 0
        else:
            state.stale_epochs += 1
            state.stopped = state.stale_epochs >= stopping.patience

    # --- State ---

    def _save(self, save: bool) -> None:
        state = self.state
        state.seconds = time.monotonic() - self.started
        state.cpu_seconds = self.cpu_before + (time.process_time() - self.cpu_started) * self.context.workers
        if save:
            state.network = clone(self.network.state_dict())
            state.ema = {} if self.ema is None else clone(self.ema.module.state_dict())
            state.optimizer = copy.deepcopy(self.optimizer.state_dict())
            state.scaler = self.scaler.state_dict()
            state.precision = self.precision.name
        self.context.report(state, save)
        if save:
            self.saved = time.monotonic()

    def _start_from(self, base: BaseWeights) -> None:
        load_state(self.network, read_state(base.file), base.uri)
        self.state.base_digest, self.state.base_uri, self.state.base_run = base.digest, base.uri, base.run or ""

    def _restore(self) -> None:
        self.network.load_state_dict(self.state.network)
        self.optimizer.load_state_dict(self.state.optimizer)
        if self.ema is not None:
            self.ema.module.load_state_dict(self.state.ema)

    def _choose_precision(self) -> Precision:
        if self.state.precision:
            return Precision(self.state.precision, self.context.device.type)
        chosen = [choose_precision(self.training.precision, self.context.device)]
        if self.context.workers > 1:  # their GPUs may be of different kinds
            torch.distributed.broadcast_object_list(chosen)
        return chosen[0]

    def _tell(self, images_per_second: float | None) -> None:
        now = time.monotonic()
        if images_per_second is not None and now - self.told < TELL_SECONDS:
            return
        self.told = now
        state, epochs = self.state, self.training.epochs
        done = state.epoch + state.step / self.order.steps_per_epoch
        if images_per_second is not None:
            self.speed = images_per_second
        left = (
            timedelta(seconds=(now - self.started) / done * (epochs - done) * 100 / TRAINING_PERCENT) if done else None
        )
        metrics = latest_metrics(state)
        if state.step:
            metrics["train/loss"] = rounded(state.loss_sum * self.context.workers / state.step)
        self.context.tell(
            Progress(
                stage="Training",
                epoch=round(done, 2),
                epochs=epochs,
                percent=int(TRAINING_PERCENT * done / epochs),
                eta=None if left is None else format_duration(left),
                images_per_second=round(self.speed, 1),
                metrics=metrics,
                best=best_of(state, self.primary),
            )
        )

    speed = 0.0


def watched_metric(recipe: Recipe, task: Task) -> str:
    """The metric that picks the best epoch."""
    return f"validation/{recipe.evaluation.primary_metric or PRIMARY[task]}"


def latest_metrics(state: State) -> dict[str, float]:
    """The metrics of the last whole epoch, as people read them; those that are no numbers are left out."""
    last = state.history[-1] if state.history else {}
    return {name: rounded(value) for name, value in last.items() if math.isfinite(value)}


def best_of(state: State, metric: str) -> Best | None:
    """The best value of the watched metric so far; None where nothing is watched."""
    if state.best_value is None:
        return None
    return Best(name=metric, value=rounded(state.best_value), epoch=state.best_epoch)


def rounded(value: float) -> float:
    """Four significant digits: what a column or a line shows."""
    return float(f"{value:.4g}")


def _better(metric: str, value: float, than: float, by: float) -> bool:
    return value < than - by if metric.endswith("/loss") else value > than + by


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _check_watched(recipe: Recipe, task: Task, held_out: bool) -> None:
    """Refuses, before the first epoch, metrics to watch that there will not be."""
    if not held_out:
        raise InvalidInput(
            "there is no validation split whose metrics could be watched",
            "spec.training.earlyStopping",
            "remove it, or give validation a share in the Dataset's splits.ratios",
        )
    refuse(wrong_watched(task, recipe))
