"""A plain torch state dict, for those who ask; it is never read back by Fovea itself."""

from __future__ import annotations

from pathlib import Path

import torch

from fovea_trainer.export.exporter import Exportable, Exporter, register
from fovea_trainer.export.weights import weights_of


@register
class StateDict(Exporter):
    """Parameters and buffers that `torch.load(weights_only=True)` reads."""

    format, file, runnable = "StateDict", "model.pth", False

    def write(self, model: Exportable, path: Path) -> None:
        torch.save(weights_of(model.weights), path)
