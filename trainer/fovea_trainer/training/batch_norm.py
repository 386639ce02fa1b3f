"""Batch norm with several workers: one set of statistics for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
        output, mean, variance = _Normalized.apply(images.float(), self.weight, self.bias, self.eps)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        normalized: Tensor = output.to(images.dtype)
        return normalized


class _Normalized(torch.autograd.Function):
    """Batch norm over the images of all workers, by torch's own kernels and with one message each way.

    The gradient is that of Ioffe and Szegedy, "Batch Normalization" (2015), section 3, with sums over all workers. That
    of weight and bias is this worker's part, which is added to the others' with all other gradients.
    """

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        """The images [N, C, H, W] normalized, N > 0 for each worker; mean and unbiased variance [C] of all images."""
        own_mean, own_variance = torch.batch_norm_update_stats(images, None, None, 0.0)
        count = images.new_tensor([images.numel() / images.shape[1]])
        every = _of_all(torch.cat([count, own_mean, own_variance]))
        counts, (means, variances) = every[:, :1], every[:, 1:].chunk(2, dim=1)
        total = counts.sum()
        shares = counts / total
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        context.save_for_backward(images, weight, mean, variance, total)
        context.eps = eps
        unbiased = variance * total / (total - 1)
        context.mark_non_differentiable(mean, unbiased)
        return F.batch_norm(images, mean, variance, weight, bias, False, 0.0, eps), mean, unbiased

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, variance, total = context.saved_tensors
        gradient = gradients[0].contiguous(memory_format=_layout(images))
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, images, weight, mean, variance, None, None, False, context.eps, [False, True, True]
        )
        sums = torch.cat([of_weight, of_bias])
        torch.distributed.all_reduce(sums)
        along, constant = (sums / total).split(len(mean))  # means of gradient times normalized value, and of gradient
        scale = torch.rsqrt(variance + context.eps)
        shift = along * scale * mean - constant
        slope, factor = (each[:, None, None] for each in (-along * scale, weight * scale))
        of_images = torch.addcmul(shift[:, None, None], images, slope).add_(gradient).mul_(factor)
        return of_images, of_weight, of_bias, None


def _layout(images: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if images.is_contiguous(memory_format=last) else torch.contiguous_format


def _of_all(values: Tensor) -> Tensor:
    """The values [K] of each worker, [workers, K]."""
    rows = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(rows, values)
    return torch.stack(rows)


def _of(norm: nn.BatchNorm2d) -> SyncBatchNorm:
    """The same batch norm, with its parameters, buffers and, in timm's layers, dropout and activation."""
    synced = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum)
    synced.weight, synced.bias = norm.weight, norm.bias
    synced.running_mean, synced.running_var = norm.running_mean, norm.running_var
    synced.num_batches_tracked = norm.num_batches_tracked
    synced.drop, synced.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
    return synced.train(norm.training)
