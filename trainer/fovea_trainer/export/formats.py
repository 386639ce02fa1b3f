"""The further formats of a bundle. Only safetensors is ever read back by Fovea."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Writes parameters and buffers as safetensors, with texts that say what they are of."""
    save_file(_weights(module), str(path), metadata={"format": "pt", **(metadata or {})})
    return path


def save_state_dict(module: nn.Module, path: Path) -> Path:
    """Writes a plain state dict that `torch.load(weights_only=True)` reads."""
    torch.save(_weights(module), path)
    return path


def save_exported_program(module: nn.Module, path: Path, input_size: tuple[int, int], *, dynamic_batch: bool) -> Path:
    """Writes a `torch.export` program for input `[N, 3, H, W]`; `input_size` is (width, height)."""
    width, height = input_size
    example = torch.zeros(2 if dynamic_batch else 1, 3, height, width)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    with torch.no_grad():
        program = torch.export.export(module.cpu().eval(), (example,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU; tensors that share memory become copies."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
