"""Batch norm with several workers: one set of statistics for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fovea_api.errors import InvalidInput
from timm.layers.norm_act import convert_sync_batchnorm
from timm.utils.distributed import distribute_bn
from torch import Tensor, nn
from torch.nn import functional as F

from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.training.context import Context

ENOUGH_IMAGES = 16
"""Images of a worker whose statistics are good enough: below, the error rises (Wu and He, 2018)."""


def uses_sync(choice: str, batch_size: int, workers: int) -> bool:
    """Whether batch norm goes by the images of all workers; `choice` is the recipe's `syncBatchNorm`."""
    return workers > 1 and (choice == "Always" or (choice == "Auto" and batch_size // workers < ENOUGH_IMAGES))


def synchronize(network: AnyNetwork, device: torch.device) -> None:
    """Makes the network's batch norms go by the images of all workers. Names and values of its state stay."""
    convert = convert_sync_batchnorm if device.type == "cuda" else _of
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            frozen = not any(parameter.requires_grad for parameter in norm.parameters(recurse=False))
            if isinstance(norm, nn.BatchNorm2d) and not frozen:
                parent.add_module(name, convert(norm))


@contextmanager
def refusing_single_values() -> Iterator[None]:
    """Refuses a batch that gives batch norm one value a channel, which has no variance: torch raises a ValueError."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InvalidInput(
            "batch norm has a single value a channel to learn from: one image, whose features have one pixel",
            "spec.training.batchSize",
            "raise it, so that each worker has two images or more, or raise input.size",
        ) from error


def align(network: AnyNetwork, context: Context) -> None:
    """Gives all workers the first one's running statistics, so that they validate one and the same model."""
    if context.workers > 1:
        distribute_bn(network, context.workers, reduce=False)  # type: ignore[no-untyped-call]


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all workers on any device; torch's own is for GPUs alone."""

    act: nn.Module
    drop: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] normalized by mean and variance of all workers' images, which may differ in number."""
        output: Tensor = self.act(self.drop(self._normalized(images)))
        return output

    def _normalized(self, images: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(
                images, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        values = images.float()
        count = _total(values.new_tensor(values.numel() / values.shape[1]))
        mean = _total(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _total((centred * centred).sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale: Tensor = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(images.dtype)


class _Total(torch.autograd.Function):
    """The sum over all workers; the gradient of a worker's part is the sum of the gradients of all of them."""

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> Tensor:
        return _Total.forward(context, *gradients)


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Total.apply(values)
    return total


def _of(norm: nn.BatchNorm2d) -> SyncBatchNorm:
    """The same batch norm, with its parameters, buffers and, in timm's layers, dropout and activation."""
    synced = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum)
    synced.weight, synced.bias = norm.weight, norm.bias
    synced.running_mean, synced.running_var = norm.running_mean, norm.running_var
    synced.num_batches_tracked = norm.num_batches_tracked
    synced.drop, synced.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
    return synced.train(norm.training)
