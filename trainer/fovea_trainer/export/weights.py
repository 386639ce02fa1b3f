"""The weights of a bundle, from which trainings go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Writes parameters and buffers as safetensors, with texts that say what they are of."""
    save_file(weights_of(module), str(path), metadata={"format": "pt", **(metadata or {})})
    return path


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU; tensors that share memory become copies."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
