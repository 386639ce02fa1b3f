"""The training loop: one function of (recipe, dataset version, context)."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice

import torch
from fovea_api.errors import FoveaError, Interrupted, InvalidInput
from fovea_api.trainingjob import Recipe, Size
from torch import Tensor

from fovea_trainer.augmentation import Augment
from fovea_trainer.models.complexity import complexity
from fovea_trainer.models.description import NetworkDescription, fit_shapes, is_same_network
from fovea_trainer.models.fake_quantization import fake_quantize
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.pruning import TRACED_SIZE, layer_channels, prune
from fovea_trainer.models.registry import architecture_of
from fovea_trainer.models.weights import load_state, load_words, read_state
from fovea_trainer.tasks import definition
from fovea_trainer.training.base_weights import BaseWeights
from fovea_trainer.training.context import Context
from fovea_trainer.training.dataset import Normalize, SplitDataset, augmentation, preprocessing, training_order
from fovea_trainer.training.distillation import PLACE as TEACHER
from fovea_trainer.training.distillation import Teacher, TeacherFiles
from fovea_trainer.training.distributed import first_workers, total
from fovea_trainer.training.fitting import Images, fine_tuning, fitted, scale_notes, total_epochs
from fovea_trainer.training.image_cache import ImageCache
from fovea_trainer.training.loading import TrainingBatches, ValidationBatches
from fovea_trainer.training.memory import kept_memory
from fovea_trainer.training.network import Version, make_network
from fovea_trainer.training.order import mix
from fovea_trainer.training.precision import Precision, choose_precision
from fovea_trainer.training.progress import epoch_lines, training_progress
from fovea_trainer.training.selection import check_monitored, keep_best, monitored_metric, stop_early
from fovea_trainer.training.state import State
from fovea_trainer.training.tracking import Tracker
from fovea_trainer.training.update import StepLoss, Updater, read_losses
from fovea_trainer.training.validation import validate

READ_STEPS = 16
"""Steps after which their losses are read from a GPU at the latest: each reading waits until it has done all steps."""
PROGRESS_SECONDS = 1.0
"""Between two reports of progress within an epoch."""
CHECKPOINT_SECONDS = 300.0
"""Between two checkpoints, also within an epoch, at steps whose losses are read: what a killed training loses."""
NO_VALIDATION = "There is no validation split: the weights of the last epoch are kept, whatever the test split says."

log = logging.getLogger(__name__)


class TrainingDiverged(FoveaError):
    """The loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the work is carried out, beside the recipe.

    Args:
        checkpoint_every: Epochs between two checkpoints.
        checkpoint_seconds: Seconds after which there is one in any case.
        base_weights: Weights to start from instead of published ones.
        teacher: Network that the recipe distils from.
        tracker: Keeps the curves; on the first worker only.
        until: Epochs after which training pauses, with a checkpoint. None: at its end.
        image_cache: Keeps decoded images for the epochs after the first; None: they are decoded in each.
        fake_quantized: The network is trained and validated with the rounding of 8-bit integers.
    """

    checkpoint_every: int = 1
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    base_weights: BaseWeights | None = None
    teacher: TeacherFiles | None = None
    tracker: Tracker | None = None
    until: int | None = None
    image_cache: ImageCache | None = None
    fake_quantized: bool = False


def fit(recipe: Recipe, version: Version, context: Context, plan: Plan = Plan()) -> State:
    """Trains, or goes on where the newest checkpoint of the context ends, and gives the state at the end or the pause.

    The weights to export are `state.best_weights`: of the epoch with the best primary metric on the validation
    split (of the last one, where there is no such split), averaged where the recipe has `ema`. Where the recipe prunes,
    the best weights of training are pruned and trained on, and `state.best_weights` are of the pruned network.

    Raises:
        TrainingDiverged: the loss is not finite.
        Interrupted: the context asked to stop; a checkpoint was saved.
    """
    with plan.tracker or nullcontext(), kept_memory(context.device):
        return _Fit(recipe, version, context, plan).run()


class _Fit:
    def __init__(self, recipe: Recipe, version: Version, context: Context, plan: Plan) -> None:
        recipe = fitted(recipe, version)
        self.recipe, self.training, self.context, self.plan = recipe, recipe.training, context, plan
        task = version.manifest.task
        train = version.split("train")
        if len(train) < 2:  # the export is proved on different images
            raise InvalidInput(f"the train split has {len(train)} images", "spec.splits", "give it two at least")
        held_out = version.split("validation") if version.manifest.splits.get("validation") else []
        check_monitored(recipe, task, bool(held_out))
        architecture = architecture_of(recipe.model)
        preprocess = preprocessing(architecture, recipe.input)
        augment, cache = augmentation(architecture, recipe), plan.image_cache
        self.train = SplitDataset(train, definition(task), preprocess, augment, cache)
        self.validation = SplitDataset(held_out, definition(task), preprocess, Augment(()), cache)
        self.order = training_order(recipe, self.train, len(version.manifest.classes), context.workers)
        self.batches = TrainingBatches(self.train, self.order, context)
        self.validation_batches = ValidationBatches(self.validation, self.training.batch_size, context)
        self.monitored = monitored_metric(recipe, task)
        self.version, self.pruning = version, recipe.compression.pruning
        self.teacher: Teacher | None = None
        distillation = recipe.compression.distillation
        if distillation is not None:
            if plan.teacher is None:
                raise InvalidInput("there is no teacher to distil from", TEACHER, "give its bundle to the run")
            plan.teacher.check(task, version.manifest.classes)
            self.teacher = plan.teacher.load(distillation, context.device)
        self.normalize = Normalize(preprocess, context.device)

        self.state = context.resume() or State()
        network = make_network(recipe, version, published=not self.state.network and plan.base_weights is None)
        self.state.description = self.state.description or network.description
        if plan.base_weights is not None and not self.state.network:
            _start_from(plan.base_weights, network, self.state)
        if self.pruning is not None and not self.state.pruned_after:
            self._pruned(network)  # what cannot be pruned is refused before it is trained
        if plan.fake_quantized:
            fake_quantize(network)
        self.resumed = bool(self.state.network)
        self._begin_stage(network)
        self.started, self.cpu_started = time.monotonic() - self.state.seconds, time.process_time()
        self.cpu_before = self.state.cpu_seconds
        self.reported, self.saved, self.speed = 0.0, time.monotonic(), 0.0
        self.unread: list[StepLoss] = []
        self.read_steps = read_steps(context.device)

    # --- Stages ---

    def run(self) -> State:
        self._introduce()
        self._train()
        if self._prunes():
            self._prune()
            self._train()
        return self.state

    def _begin_stage(self, network: AnyNetwork) -> None:
        """Gets ready to train, or to fine-tune what was pruned, from the state or the network as it is."""
        state, training, until = self.state, self.training, self.plan.until
        self.first_epoch, self.epochs = 0, total_epochs(self.recipe)
        if self.pruning is not None and state.pruned_after:
            training = fine_tuning(training, self.pruning.fine_tune_epochs)
            self.first_epoch, self.epochs = state.pruned_after, total_epochs(self.recipe, state.pruned_after)
            network.freeze("None")
        fit_shapes(network, state.network)
        last = self.epochs if state.pruned_after else self.training.epochs
        self.last_epoch = min(last, until or last)
        if self.teacher is not None:
            size = self.train.preprocess.width, self.train.preprocess.height
            self.teacher.check(network.to(self.context.device), *size)
        self.updater = Updater(network, training, self.context, self._precision(), state, self.normalize, self.teacher)

    def _prunes(self) -> bool:
        """Whether training has ended, and what comes next is to prune."""
        state, until = self.state, self.plan.until
        ended = state.stopped or state.epoch >= self.training.epochs
        return self.pruning is not None and not state.pruned_after and ended and (until is None or until > state.epoch)

    def _prune(self) -> None:
        """Prunes the best weights of training and gets ready to fine-tune them; what they are worth as they are is the
        first value that is compared."""
        state, network = self.state, make_network(self.recipe, self.version, published=False)
        trained = copy.deepcopy(network)
        fit_shapes(trained, state.best_weights)
        trained.load_state_dict(state.best_weights)
        weights = first_workers(self._pruned(trained, layer_channels(network)), self.context)
        state.begin_fine_tuning(weights)
        self._begin_stage(network)
        assert self.pruning is not None
        size = (self.train.preprocess.width, self.train.preprocess.height)
        before, after = complexity(trained, *size), complexity(copy.deepcopy(self.updater.averaged), *size)
        note = (
            f"Pruning removed {self.pruning.sparsity:.0%} of the channels: {after.macs / 1e9:.4g} of "
            f"{before.macs / 1e9:.4g} billion multiply-accumulates ({after.macs / before.macs:.0%}) and "
            f"{after.parameters / 1e6:.4g} of {before.parameters / 1e6:.4g} million parameters are left."
        )
        described = NetworkDescription.from_json(state.description)
        state.description = replace(described, notes=(*described.notes, note)).to_json()
        self._log(note)
        metrics = self._validate()
        if metrics:
            values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self._log("pruned and not yet fine-tuned: %s", values)
        keep_best(state, self.monitored, metrics, self.updater.averaged)
        self._save(True)

    def _pruned(self, network: AnyNetwork, channels: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        assert self.pruning is not None
        return prune(network, self.pruning.sparsity, TRACED_SIZE, channels)

    # --- Epochs ---

    def _train(self) -> None:
        while self.state.epoch < self.last_epoch and not self.state.stopped:
            began = time.monotonic()
            loss = self._train_epoch()
            self._end_epoch(loss, began)

    def _validate(self) -> dict[str, float]:
        """Metrics of the validation split, by what would be exported now; none where there is no such split."""
        if not len(self.validation):
            return {}
        return validate(self.updater.averaged, self.validation_batches, self.context, self.updater.precision)

    def _train_epoch(self) -> float:
        """Mean loss of the epoch, over all workers."""
        state, context = self.state, self.context
        steps, accumulated = self.order.steps_per_epoch, self.order.accumulated
        batches = self.batches.epoch(state.epoch, state.step)
        self.updater.network.train()
        began, images_done = time.monotonic(), 0
        while parts := [(images, targets) for images, targets, _ in islice(batches, accumulated)]:
            step = state.epoch * steps + state.step
            torch.manual_seed(mix(self.training.seed, step, context.rank))  # dropout, sampled anchors
            self.unread.append(self.updater.step(parts, step - self.first_epoch * steps, steps))
            state.step += 1
            images_done += self.order.images_per_step
            reading = state.step % self.read_steps == 0  # on all workers alike
            if reading or self._progress_due():
                self._read_losses()
                self.speed = images_done / (time.monotonic() - began)
                if self._progress_due():
                    self._report_progress()
            if context.stopping():
                self._save_within_epoch()
                raise Interrupted(f"training was stopped in epoch {state.epoch + 1} and its state saved")
            if reading and state.step < steps and self._checkpoint_due():
                self._save_within_epoch()
                self._log("checkpoint saved in epoch %d, after %d of %d steps", state.epoch + 1, state.step, steps)
        self._read_losses()
        return total(state.loss_sum, context) / steps

    def _read_losses(self) -> None:
        """Adds up the losses of the steps since the last reading. Raises TrainingDiverged: one of them is no number."""
        state = self.state
        for loss in read_losses(self.unread):
            if not math.isfinite(loss.value):
                epoch, step = divmod(loss.step, self.order.steps_per_epoch)
                epoch += self.first_epoch
                raise TrainingDiverged(
                    f"the loss is {loss.value} in epoch {epoch + 1}, step {step + 1}",
                    "spec.training",
                    "lower optimizer.learningRate, set gradientClipNorm, or use precision FP32",
                )
            state.loss_sum += loss.value
            for name, part in loss.parts.items():
                state.loss_parts[name] = state.loss_parts.get(name, 0.0) + part
            if self.plan.tracker is not None:
                number = loss.step + self.first_epoch * self.order.steps_per_epoch + 1
                self.plan.tracker.log_step(loss.value * self.context.workers, loss.learning_rate, number)
        self.unread.clear()

    def _end_epoch(self, loss: float, began: float) -> None:
        state, updater = self.state, self.updater
        updater.align()
        steps, parts = self.order.steps_per_epoch, sorted(state.loss_parts.items())
        metrics = {"train/loss": loss}
        if len(parts) > 1:
            metrics |= {f"train/loss/{name}": total(part, self.context) / steps for name, part in parts}
        metrics["train/learningRate"] = updater.learning_rate
        state.epoch, state.step, state.loss_sum, state.loss_parts = state.epoch + 1, 0, 0.0, {}
        metrics |= self._validate()
        state.history.append(metrics)
        keep_best(state, self.monitored, metrics, updater.averaged)
        if self.training.early_stopping is not None:
            stop_early(state, self.training.early_stopping, metrics)
        if self.plan.tracker is not None:
            self.plan.tracker.log(metrics, state.epoch)
        last = state.epoch == self.last_epoch or state.stopped
        save = last or state.epoch % self.plan.checkpoint_every == 0 or self._checkpoint_due()
        self._save(save)
        self._log_epoch(metrics, time.monotonic() - began, save)
        self._report_progress()

    # --- State ---

    def _checkpoint_due(self) -> bool:
        """Whether the last checkpoint is long ago; the first worker's clock decides for all."""
        return first_workers(time.monotonic() - self.saved >= self.plan.checkpoint_seconds, self.context)

    def _save_within_epoch(self) -> None:
        state, context = self.state, self.context
        self._read_losses()
        state.loss_sum = total(state.loss_sum, context) / context.workers  # the first worker's is kept
        state.loss_parts = {
            name: total(part, context) / context.workers for name, part in sorted(state.loss_parts.items())
        }
        self._save(True)

    def _save(self, save: bool) -> None:
        state = self.state
        state.seconds = time.monotonic() - self.started
        state.cpu_seconds = self.cpu_before + (time.process_time() - self.cpu_started) * self.context.workers
        if save:
            self.updater.save(state)
        self.context.report(state, save)
        if save:
            self.saved = time.monotonic()

    def _precision(self) -> Precision:
        if self.state.precision:
            return Precision(self.state.precision, self.context.device.type)
        # The workers' GPUs may be of different kinds.
        return first_workers(choose_precision(self.training.precision, self.context.device), self.context)

    # --- Words ---

    def _log(self, message: str, *values: object) -> None:
        if self.context.rank == 0:
            log.info(message, *values)

    def _introduce(self) -> None:
        """Logs what is trained on what."""
        device, workers = self.context.device, self.context.workers
        threads = f"{torch.get_num_threads()} threads"
        place = f"the CPU ({threads})" if device.type == "cpu" else torch.cuda.get_device_name(device)
        self._log(
            "training %s (weights to start from: %s) on %d images of %d x %d pixels for %d epochs of %d steps of %d; "
            "%s, %s on %s",
            self.recipe.model.architecture,
            self.state.base_uri or self.recipe.model.pretrained.weights,
            len(self.train),
            self.train.preprocess.width,
            self.train.preprocess.height,
            self.epochs,
            self.order.steps_per_epoch,
            self.order.images_per_step,
            self.updater.precision.name,
            f"{workers} worker{'s' if workers > 1 else ''}",
            place,
        )
        if len(self.validation):
            self._log("the best epoch is chosen by %s on %d images", self.monitored, len(self.validation))
        else:
            self._log(NO_VALIDATION)
        size = Size(width=self.train.preprocess.width, height=self.train.preprocess.height)
        described = NetworkDescription.from_json(self.state.description).notes
        for note in (*scale_notes(Images.of(self.train.samples), size), *described):
            self._log(note)
        if self.resumed:
            self._log("training goes on after epoch %d, step %d", self.state.epoch, self.state.step)

    def _log_epoch(self, metrics: dict[str, float], seconds: float, saved: bool) -> None:
        for line in epoch_lines(self.state, self.training, self.epochs, metrics, seconds, saved):
            self._log(line)

    def _progress_due(self) -> bool:
        return time.monotonic() - self.reported >= PROGRESS_SECONDS

    def _report_progress(self) -> None:
        """Reports how far training is; the losses of all steps have been read."""
        self.reported = now = time.monotonic()
        loss = self.state.loss_sum * self.context.workers  # about: the others' losses are like this worker's
        self.context.report_progress(
            training_progress(
                self.state,
                self.epochs,
                self.order.steps_per_epoch,
                now - self.started,
                self.speed,
                self.monitored,
                loss,
            )
        )


def read_steps(device: torch.device) -> int:
    """Steps after which their losses are read at the latest. On a CPU there is nothing to wait for."""
    return 1 if device.type == "cpu" else READ_STEPS


def has_ended(recipe: Recipe, state: State) -> bool:
    """Whether a training by a fitted recipe is over, and not just interrupted or paused."""
    if recipe.compression.pruning is not None and not state.pruned_after:
        return False
    return state.stopped or state.epoch >= total_epochs(recipe, state.pruned_after)


def _start_from(base: BaseWeights, network: AnyNetwork, state: State) -> None:
    weights = read_state(base.file)
    if is_same_network(network, base.file):
        fit_shapes(network, weights)  # they may have been pruned
    fresh = load_state(network, weights, base.uri)
    described = NetworkDescription.from_json(network.description)
    notes = (*described.notes, load_words(network, fresh, base.uri))
    state.description = replace(described, notes=notes).to_json()
    state.base_digest, state.base_uri, state.base_run = base.digest, base.uri, base.run or ""
