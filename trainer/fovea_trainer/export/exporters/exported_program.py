"""A program of `torch.export`, and the backend that runs one; serving itself has no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from fovea_serving.backends import BackendOptions, Device, InvalidModel
from fovea_serving.backends import register as register_backend
from numpy.typing import NDArray

from fovea_trainer.export.exporter import Exportable, Exporter, ExportError, register


@register
class ExportedProgram(Exporter):
    """Outputs as a tuple in the order of the task's names."""

    format, file, runnable = "ExportedProgram", "model.pt2", True

    def write(self, model: Exportable, path: Path) -> None:
        module, example = model.traced()
        shapes = ({0: torch.export.Dim("batch")},) if model.dynamic_batch else None
        try:
            with torch.no_grad():
                program = torch.export.export(module, (example,), dynamic_shapes=shapes)
            torch.export.save(program, path)
        except Exception as error:  # torch.export raises types of every kind
            raise ExportError(f"torch.export cannot write the model: {str(error)[:500]}", str(path)) from error


class TorchProgram:
    """An exported program, run by torch."""

    def __init__(self, model: Path, options: BackendOptions) -> None:
        try:
            program = torch.export.load(model)
        except Exception as error:
            raise InvalidModel(f"torch cannot load the program: {error}", str(model), "export it again") from error
        cuda = torch.cuda.is_available() and options.device is not Device.CPU
        self.device = Device.CUDA if cuda else Device.CPU
        self._place = torch.device("cuda" if cuda else "cpu")
        self._names, self._module = options.outputs, program.module().to(self._place)
        image = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
        batch = image.meta["val"].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with torch.no_grad():
            outputs = self._module(torch.from_numpy(batch).to(self._place))
        return {name: output.float().cpu().numpy() for name, output in zip(self._names, outputs, strict=True)}


@register_backend(".pt2")
def open_program(model: Path, options: BackendOptions) -> TorchProgram:
    """A program in torch. Raises InvalidModel."""
    return TorchProgram(model, options)
