"""Everything that training needs to go on, as one file that is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fovea_api.errors import CorruptData, Recoverable
from torch import Tensor

FILE = "state.pt"


class CheckpointNotSaved(Recoverable):
    """The disk is full or fails."""


@dataclass
class State:
    """The state of training between two steps. Random numbers are a function of seed and position: none are kept.

    Args:
        epoch: Epochs done.
        step: Steps done of the next epoch.
        best_epoch: The epoch with the best value, from 1; 0: none yet.
        epochs_without_improvement: Those that early stopping counts, up to now.
        stopped: Whether early stopping has ended training.
        base_digest: Digest of the weights that training has started from, with `base_uri` and `base_run` as in
            BaseWeights; empty: published weights, or none.
        pruned_after: Epochs that were trained before the network was pruned; 0: it was not.
        unpruned: The weights that were pruned.
        loss_sum: Loss of the steps done of the next epoch, summed; `loss_parts` the same of each of its parts.
        description: What the network is made of, as `NetworkDescription` writes it.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    monitored_best: float | None = None
    epochs_without_improvement: int = 0
    stopped: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    precision: str = ""
    base_digest: str = ""
    base_uri: str = ""
    base_run: str = ""
    description: str = ""
    pruned_after: int = 0
    unpruned: dict[str, Tensor] = field(default_factory=dict)
    loss_sum: float = 0.0
    loss_parts: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    network: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    def begin_fine_tuning(self, weights: Mapping[str, Tensor]) -> None:
        """Goes on from the pruned weights of the best epoch; which epoch is the best is open again."""
        self.pruned_after, self.unpruned, self.network = self.epoch, self.best_weights, dict(weights)
        self.ema, self.optimizer, self.scaler = {}, {}, {}
        self.best_epoch, self.best_value, self.best_weights = 0, None, {}
        self.monitored_best, self.epochs_without_improvement, self.stopped = None, 0, False

    def save(self, folder: Path) -> Path:
        """Writes the state into a folder. Raises CheckpointNotSaved; earlier checkpoints stay as they are."""
        temporary = folder / f"{FILE}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save({name: getattr(self, name) for name in self.__dataclass_fields__}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / FILE)
        except (OSError, RuntimeError) as error:  # torch wraps what its writer meets
            temporary.unlink(missing_ok=True)
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise CheckpointNotSaved(
                f"the checkpoint of epoch {self.epoch} cannot be written: {reason}", str(folder), "make room"
            ) from error
        return folder

    @classmethod
    def load(cls, folder: Path) -> State:
        """Reads the state; nothing is unpickled but tensors and plain values."""
        try:
            content: Mapping[str, Any] = torch.load(folder / FILE, "cpu", weights_only=True)
            return cls(**content)
        except Exception as error:
            raise CorruptData(f"the checkpoint cannot be read: {error}", str(folder / FILE), "delete it") from error


def clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


__all__ = ["FILE", "CheckpointNotSaved", "State", "clone"]
