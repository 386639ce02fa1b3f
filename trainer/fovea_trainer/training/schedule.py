"""The learning rate and the momentum at each step: pure functions of the step, so a resume needs no state."""

from __future__ import annotations

import math

from fovea_api.trainingjob import Schedule

WARMUP_START = 0.04
"""Share of the peak that the learning rate rises from (1/25, as in torch's OneCycleLR)."""
ONE_CYCLE_END = WARMUP_START * 1e-4
"""Share of the peak that OneCycle ends at (as in torch's OneCycleLR)."""
MOMENTUM_SWING = 0.05
"""OneCycle's momentum moves this far to either side of the optimizer's: 0.95 to 0.85, as in Smith's paper, for 0.9."""


def learning_rate_factor(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Share of the peak learning rate at a step, counted from 0.

    OneCycle is that of Smith and Topin, "Super-Convergence" (2017), in two half waves as in torch's OneCycleLR; the
    others rise linearly and then follow torch's CosineAnnealingLR, StepLR, or stay.
    """
    warmup, steps = schedule.warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if schedule.name == "OneCycle":
        return _one_cycle(step, warmup, steps, WARMUP_START, 1.0, ONE_CYCLE_END)
    if step < warmup:
        return WARMUP_START + (1 - WARMUP_START) * step / warmup
    if schedule.name == "Cosine":
        return _half_wave(1.0, 0.0, (step - warmup) / max(1.0, steps - warmup))
    if schedule.name == "Step" and schedule.step_epochs is not None:
        return float(schedule.step_factor ** (step // steps_per_epoch // schedule.step_epochs))
    return 1.0


def momentum_at(schedule: Schedule, momentum: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The momentum, or Adam's beta1, at a step: under OneCycle low where the learning rate is high.

    Args:
        schedule: Only OneCycle moves the momentum.
        momentum: The optimizer's; 0 stays 0.
        step: Counted from 0.
        steps_per_epoch: Steps in an epoch.
        epochs: Epochs in all.
    """
    if schedule.name != "OneCycle" or momentum == 0:
        return momentum
    high, low = min(momentum + MOMENTUM_SWING, (1 + momentum) / 2), max(momentum - MOMENTUM_SWING, 0.0)
    return _one_cycle(step, schedule.warmup_epochs * steps_per_epoch, epochs * steps_per_epoch, high, low, high)


def _one_cycle(step: int, warmup: float, steps: int, start: float, middle: float, end: float) -> float:
    """From the start to the middle within `warmup` steps, then to the end at the last of all steps."""
    peak = warmup - 1
    if step < peak:
        return _half_wave(start, middle, step / peak)
    return _half_wave(middle, end, (step - peak) / max(1.0, steps - 1 - peak))


def _half_wave(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
