"""The curves of learning rate and momentum, held against those of torch and timm, step by step."""

from __future__ import annotations

import pytest
import torch
from fovea_api.trainingjob import Schedule
from fovea_trainer.training.schedule import learning_rate_factor, momentum_at
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import OneCycleLR, SequentialLR

STEPS, EPOCHS = 7, 6
TOTAL = STEPS * EPOCHS
RATE = 0.3


def curve(**schedule: object) -> list[float]:
    chosen = Schedule.model_validate(schedule)
    return [RATE * learning_rate_factor(chosen, step, STEPS, EPOCHS) for step in range(TOTAL)]


def optimizer(momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], RATE, momentum=momentum)


def torchs(scheduler: torch.optim.lr_scheduler.LRScheduler) -> tuple[list[float], list[float]]:
    """Learning rates and momenta of all steps."""
    group = scheduler.optimizer.param_groups[0]
    rates, momenta = [], []
    for _ in range(TOTAL):
        rates.append(group["lr"])
        momenta.append(group["momentum"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates, momenta


@pytest.mark.parametrize("warmup", [0, 2, 1.5, 6])
def test_one_cycle_is_torchs_with_its_momentum(warmup: float) -> None:
    reference = optimizer()
    share = warmup / EPOCHS
    rates, momenta = torchs(OneCycleLR(reference, RATE, total_steps=TOTAL + 1 if share == 1 else TOTAL,
                                       pct_start=TOTAL * share / (TOTAL + 1) if share == 1 else share))  # fmt: skip
    schedule = Schedule(name="OneCycle", warmup_epochs=warmup)
    assert curve(name="OneCycle", warmupEpochs=warmup) == pytest.approx(rates, rel=1e-6, abs=1e-9)
    mine = [momentum_at(schedule, 0.9, step, STEPS, EPOCHS) for step in range(TOTAL)]
    assert mine == pytest.approx(momenta, rel=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 2.5])
def test_cosine_is_timms_with_its_linear_warm_up(warmup: float) -> None:
    steps = warmup * STEPS
    reference = CosineLRScheduler(
        optimizer(), TOTAL - steps, warmup_t=steps, warmup_lr_init=RATE / 25, warmup_prefix=True, t_in_epochs=False
    )
    expected = [reference._get_lr(step)[0] for step in range(TOTAL)]
    assert curve(name="Cosine", warmupEpochs=warmup) == pytest.approx(expected, rel=1e-6)


def test_step_is_torchs_by_epochs() -> None:
    reference = torch.optim.lr_scheduler.StepLR(optimizer(), 2 * STEPS, 0.25)
    assert curve(name="Step", stepEpochs=2, stepFactor=0.25, warmupEpochs=0) == pytest.approx(torchs(reference)[0])


def test_constant_is_torchs_after_a_linear_warm_up() -> None:
    reference, warmup = optimizer(), 2 * STEPS
    rising = torch.optim.lr_scheduler.LinearLR(reference, 1 / 25, total_iters=warmup)
    staying = torch.optim.lr_scheduler.ConstantLR(reference, 1.0)
    rates, _ = torchs(SequentialLR(reference, [rising, staying], [warmup]))
    assert curve(name="Constant", warmupEpochs=2) == pytest.approx(rates)


def test_one_cycle_and_cosine_differ_in_rise_and_momentum() -> None:
    one_cycle, cosine = (curve(name=name, warmupEpochs=3) for name in ("OneCycle", "Cosine"))
    assert max(abs(left - right) for left, right in zip(one_cycle, cosine, strict=True)) > 0.1 * RATE
    moved = {momentum_at(Schedule(name="OneCycle"), 0.9, step, STEPS, EPOCHS) for step in range(TOTAL)}
    stays = {momentum_at(Schedule(name="Cosine"), 0.9, step, STEPS, EPOCHS) for step in range(TOTAL)}
    assert (min(moved), max(moved)) == (pytest.approx(0.85), pytest.approx(0.95))
    assert stays == {0.9}


@pytest.mark.parametrize(("momentum", "high", "low"), [(0.99, 0.995, 0.94), (0.02, 0.07, 0.0), (0.0, 0.0, 0.0)])
def test_a_momentum_stays_a_momentum(momentum: float, high: float, low: float) -> None:
    moved = [momentum_at(Schedule(name="OneCycle"), momentum, step, STEPS, EPOCHS) for step in range(TOTAL)]
    assert (max(moved), min(moved)) == (pytest.approx(high), pytest.approx(low))


@pytest.mark.parametrize("name", ["OneCycle", "Cosine", "Constant"])
def test_a_training_of_one_step_has_a_rate(name: str) -> None:
    assert 0 < learning_rate_factor(Schedule(name=name, warmup_epochs=1), 0, 1, 1) <= 1
