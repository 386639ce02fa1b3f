"""What the workers of a training do together. With one worker there is nothing to do."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fovea_trainer.training.context import Context

T = TypeVar("T")


def distributed(network: nn.Module, context: Context) -> nn.Module:
    """The network with gradients averaged over the workers."""
    if context.workers == 1:
        return network
    devices = [context.device] if context.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices)


def total(value: float, context: Context) -> float:
    """The sum of a number over all workers."""
    if context.workers == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=context.device)
    torch.distributed.all_reduce(tensor)
    return float(tensor)


def first_workers(value: T, context: Context) -> T:
    """The first worker's value, on all workers: what each could answer otherwise, such as the time."""
    values = [value]
    if context.workers > 1:
        torch.distributed.broadcast_object_list(values)
    return values[0]


def gather(value: T, context: Context) -> list[T]:
    """The values of all workers, in the order of their ranks, on all of them."""
    if context.workers == 1:
        return [value]
    values: list[T | None] = [None] * context.workers
    torch.distributed.all_gather_object(values, value)
    return [item for item in values if item is not None]
