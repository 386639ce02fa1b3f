"""One step of training: forward, backward, clipped and applied; the average of the weights follows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from fovea_api.trainingjob import Training
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fovea_trainer.models.network import AnyNetwork, Network
from fovea_trainer.tasks import Targets
from fovea_trainer.training import batch_norm
from fovea_trainer.training.context import Context
from fovea_trainer.training.distillation import Teacher
from fovea_trainer.training.distributed import distributed
from fovea_trainer.training.optimizer import build_optimizer, momentum_of, set_rates
from fovea_trainer.training.precision import Precision
from fovea_trainer.training.schedule import learning_rate_factor, momentum_at
from fovea_trainer.training.state import State, clone

Batch = tuple[Tensor, Targets]
"""Images uint8 [N, 3, H, W], and their ground truth."""
NARROW = 16
"""Fewer input channels may make oneDNN's gradient of a strided 1x1 convolution wrong; 4 to 9 were seen to."""


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of a step, which is still on the device: to read it is to wait for the device.

    Args:
        step: Number of the step, from 0.
        learning_rate: Rate of the step.
        names: Names of the parts of the loss.
        batches: For each batch of the step the parts and their sum, float32 [P + 1].
        shares: Of each batch in the mean over the images of all batches and workers.
    """

    step: int
    learning_rate: float
    names: tuple[str, ...]
    batches: tuple[Tensor, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ReadLoss:
    """This worker's share of the loss of a step, and of each part of it by name."""

    step: int
    learning_rate: float
    value: float
    parts: Mapping[str, float]


def read_losses(losses: Sequence[StepLoss]) -> list[ReadLoss]:
    """The losses of some steps, in one copy from the device."""
    if not losses:
        return []
    rows = iter(torch.stack([batch for loss in losses for batch in loss.batches]).tolist())
    read = []
    for loss in losses:
        weighted = [[number * share for number in next(rows)] for share in loss.shares]
        *parts, value = (sum(numbers) for numbers in zip(*weighted, strict=True))
        read.append(ReadLoss(loss.step, loss.learning_rate, value, dict(zip(loss.names, parts, strict=True))))
    return read


def memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """How images and weights lie in memory: the channels of a pixel together, which is up to a quarter faster.

    On CPUs with AVX-512 oneDNN 3.12 (torch 2.14) writes beyond the gradient of a 1x1 convolution with a stride and few
    input channels in that layout, which ends the process: of `Conv2d(8, 16, 1, stride=2)` on 56 x 56 pixels, as a
    narrow ResNet has it. Such a network keeps each channel's pixels together.
    """
    broken = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < NARROW
        for layer in network.modules()
    )
    return torch.contiguous_format if broken and device.type == "cpu" else torch.channels_last


class Updater:
    """The network on its device with all that changes its weights.

    Args:
        network: What is trained; moved to the context's device.
        training: The recipe of the updates.
        context: The workers.
        precision: Arithmetic of the forward pass.
        state: Where training goes on; a new one: from the network as it is.
        normalize: Gives a batch's images, uint8, as float32 on the device; one batch at a time is there so.
        teacher: Whose answers are a part of the loss.
    """

    def __init__(
        self,
        network: AnyNetwork,
        training: Training,
        context: Context,
        precision: Precision,
        state: State,
        normalize: Callable[[Tensor], Tensor],
        teacher: Teacher | None = None,
    ) -> None:
        if batch_norm.uses_sync(training.sync_batch_norm, training.batch_size, context.workers):
            batch_norm.synchronize(network, context.device)
        self._layout = memory_format(network, context.device)
        self.network = network.to(context.device).to(memory_format=self._layout)
        self.precision = precision
        self._training, self._context, self._normalize, self._teacher = training, context, normalize, teacher
        self._optimizer = build_optimizer(self.network, training.optimizer)
        self._scaler = precision.scaler()
        decay = 0.0 if training.ema is None else training.ema.decay
        self._ema = ModelEmaV3(self.network, decay=decay, use_warmup=True) if decay else None
        if state.network:
            self._restore(state)
        self._model = distributed(self.network, context)

    @property
    def averaged(self) -> AnyNetwork:
        """What is evaluated and exported: the average of the weights, or the weights where none is taken."""
        network = self.network if self._ema is None else self._ema.module
        assert isinstance(network, Network)
        return network

    @property
    def learning_rate(self) -> float:
        """The rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self, batches: Sequence[Batch], step: int, steps_per_epoch: int) -> StepLoss:
        """One update; nothing here waits for a GPU.

        Where the loss is no number, the weights stay as they were on a CPU, and are lost on a GPU: whoever saves them
        reads the losses first.

        Args:
            batches: This worker's parts of the batches whose gradients are added up.
            step: Number of the step, from 0; of fine-tuning, counted anew.
            steps_per_epoch: Steps in an epoch.
        """
        training = self._training
        peak, momentum = training.optimizer.learning_rate, momentum_of(training.optimizer)
        position = (step, steps_per_epoch, training.epochs)
        rate = peak * learning_rate_factor(training.schedule, *position)
        set_rates(self._optimizer, rate, momentum_at(training.schedule, momentum, *position))
        self._optimizer.zero_grad(set_to_none=True)
        names: tuple[str, ...] = ()
        losses, finite = [], True
        for batch in batches:
            names, loss, whole = self._backward(*batch, last=batch is batches[-1])
            losses.append(loss)
            finite &= whole
        shares = tuple(self._share(images) for images, _ in batches)
        result = StepLoss(step, rate, names, tuple(losses), shares)
        if not finite:
            return result
        if training.gradient_clip_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), training.gradient_clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._ema is not None:
            self._ema.update(self.network, step=step + 1)
        return result

    def _share(self, images: Tensor) -> float:
        """Of a batch in the images of a step, over all workers."""
        return len(images) / (self._training.batch_size * self._training.gradient_accumulation_steps)

    def _backward(self, images: Tensor, targets: Targets, last: bool) -> tuple[tuple[str, ...], Tensor, bool]:
        """Adds a batch's gradients to those before it; those of all workers are added up with the last one.

        Gives names and values of the loss's parts, their sum last, and False where that is known to be no number.
        """
        device, model = self._context.device, self._model
        with model.no_sync() if not last and isinstance(model, DistributedDataParallel) else nullcontext():
            with self.precision.autocast(), batch_norm.refusing_single_values():
                with self._watched() as features:
                    raw = model(self._normalize(images).contiguous(memory_format=self._layout))
                parts: Mapping[str, Tensor] = self.network.loss(raw, targets.to(device))
                if self._teacher is not None:
                    parts = self._teacher.mix(parts, self.network.decode(raw), features, images)
            stacked = torch.stack([part.float() for part in parts.values()])
            loss = stacked.sum()
            # To look at it costs nothing on a CPU, where the gradient of what is no number can end the process.
            finite = device.type != "cpu" or math.isfinite(float(loss.detach()))
            if finite:
                # DistributedDataParallel takes the mean over the workers; undo it, each worker brings its own share.
                torch.autograd.backward(self._scaler.scale(loss * self._share(images) * self._context.workers))
        return tuple(parts), torch.cat([stacked, loss[None]]).detach(), finite

    def _watched(self) -> AbstractContextManager[list[Tensor]]:
        """Keeps the feature maps of a forward pass that a teacher is to compare."""
        return nullcontext([]) if self._teacher is None else self._teacher.watched(self.network)

    def align(self) -> None:
        """Gives all workers the first one's statistics of batch norm, so that they validate one and the same model."""
        batch_norm.align(self.averaged, self._context)

    def save(self, state: State) -> None:
        """Puts copies of weights, average and optimizer into the state."""
        state.network = clone(self.network.state_dict())
        state.ema = {} if self._ema is None else clone(self._ema.module.state_dict())
        state.optimizer = copy.deepcopy(self._optimizer.state_dict())
        state.scaler = self._scaler.state_dict()
        state.precision = self.precision.name

    def _restore(self, state: State) -> None:
        self.network.load_state_dict(state.network)
        if state.optimizer:  # none where fine-tuning begins
            self._optimizer.load_state_dict(state.optimizer)
        if self._ema is not None:
            self._ema.module.load_state_dict(state.ema or state.network)
        if state.scaler:
            self._scaler.load_state_dict(state.scaler)
