"""Optimizer, learning rate and precision of a recipe."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from fovea_api.trainingjob import Optimizer, Schedule
from torch import nn

WARMUP_START = 0.04
"""Share of the learning rate that warm-up starts at (1/25, as in torch's OneCycleLR)."""
ONE_CYCLE_END = 1e-4
"""Share of the learning rate that OneCycle ends at."""


def build_optimizer(network: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """The optimizer over what is trained; biases and norms get no weight decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.name == "SGD":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum)
    kind = torch.optim.Adam if recipe.name == "Adam" else torch.optim.AdamW
    return kind(groups, recipe.learning_rate)


def learning_rate_factor(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Share of the learning rate at a step, counted from 0: a pure function, so a resume needs no state."""
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return WARMUP_START + (1 - WARMUP_START) * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, epochs * steps_per_epoch - warmup)
    if schedule.name == "OneCycle":
        return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * (1 + math.cos(math.pi * done)) / 2
    if schedule.name == "Cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if schedule.name == "Step" and schedule.step_epochs is not None:
        return float(schedule.step_factor ** (step // steps_per_epoch // schedule.step_epochs))
    return 1.0


@dataclass(frozen=True, slots=True)
class Precision:
    """Arithmetic of the forward pass: FP32, BF16 or FP16 (with scaled gradients)."""

    name: str
    device: str

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        if self.name == "FP32":
            return nullcontext()
        return torch.autocast(self.device, torch.bfloat16 if self.name == "BF16" else torch.float16)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the gradients of FP16; does nothing otherwise."""
        return torch.amp.GradScaler(self.device, enabled=self.name == "FP16")


def choose_precision(asked: str, device: torch.device) -> Precision:
    """The precision for what was asked; Auto depends on the kind of device alone, so that a training can be repeated.

    That is BF16 on a GPU that has it, FP16 on other GPUs, and FP32 on a CPU, where BF16 helps some networks and slows
    others down.

    Args:
        asked: Auto, FP32, BF16 or FP16.
        device: Where training runs.
    """
    if asked != "Auto":
        return Precision(asked, device.type)
    if device.type != "cuda":
        return Precision("FP32", device.type)
    return Precision("BF16" if torch.cuda.is_bf16_supported(including_emulation=False) else "FP16", device.type)
