"""Fake quantization: layers compute in floating point with the rounding that 8-bit integers will have.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018). It
follows what `export.quantization` does to the same layers: weights on a scale of each output, 7 of 8 bits; activations
with a zero point. The range of activations is that of each batch, so that nothing has to be learned, kept or restored
beside the weights, and a network that was trained so is exported like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    Layer = nn.Conv2d
else:
    Layer = object
WEIGHT_STEPS, ACTIVATION_STEPS = 64, 255
"""Steps from 0 to the largest weight, and from the least to the largest activation."""
LEAST_RANGE = 1e-12


class FakeQuantized(Layer):
    """Put before the class of a layer with weights: it rounds its input and its weights. Their gradients are those of
    the values that were rounded."""

    def forward(self, values: Tensor) -> Tensor:
        """As of the layer."""
        return super().forward(round_activations(values))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The rounded weights; the parameter stays as it is."""
        parameter = self._parameters["weight"]
        assert parameter is not None
        return round_weights(parameter)


def fake_quantize(network: nn.Module) -> None:
    """Has all convolutions and linear layers of a network compute so, in place. Names and values of its state stay."""
    for module in network.modules():
        kind = type(module)
        if isinstance(module, nn.Conv2d | nn.Linear) and not issubclass(kind, FakeQuantized):
            module.__class__ = type(f"FakeQuantized{kind.__name__}", (FakeQuantized, kind), {})


def round_weights(weights: Tensor) -> Tensor:
    """Weights [O, ...] rounded to WEIGHT_STEPS steps up to the largest of each output."""
    values = weights.float()
    scale = (values.detach().flatten(1).abs().amax(1) / WEIGHT_STEPS).clamp(min=LEAST_RANGE)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(values, scale, zeros, 0, -WEIGHT_STEPS, WEIGHT_STEPS).to(
        weights.dtype
    )


def round_activations(values: Tensor) -> Tensor:
    """Values rounded to ACTIVATION_STEPS steps over their range, which contains 0."""
    numbers = values.float()
    low, high = numbers.detach().aminmax()
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / ACTIVATION_STEPS).clamp(min=LEAST_RANGE)
    zero = (-low / scale).round().int()
    rounded = torch.fake_quantize_per_tensor_affine(numbers, scale, zero, 0, ACTIVATION_STEPS)
    return rounded.to(values.dtype)
