"""The arithmetic of the forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


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
