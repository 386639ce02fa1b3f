"""Torch module to one self-contained ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from fovea_api.common import Task
from fovea_api.errors import FoveaError
from fovea_serving.pipeline import OUTPUTS
from fovea_serving.predictor import INPUT
from torch import Tensor, nn

OPSET = 18
"""ONNX operator set: the newest that the runtimes of interest (ONNX Runtime, TensorRT 10) read in full."""

log = logging.getLogger(__name__)


class ExportError(FoveaError):
    """The model cannot be written in a format that was asked for."""


class NamedOutputs(nn.Module):
    """Gives the outputs as a tuple in the order of their names, whatever form the module gives them in."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        super().__init__()
        self.module = module
        self.names = OUTPUTS[task]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor] = self.module(image)
        if isinstance(outputs, Tensor):
            return (outputs,)
        if isinstance(outputs, Mapping):
            return tuple(outputs[name] for name in self.names)
        return tuple(outputs)


def export_onnx(
    module: nn.Module,
    path: Path,
    input_size: tuple[int, int],
    *,
    task: Task,
    dynamic_batch: bool = True,
    opset: int = OPSET,
) -> Path:
    """Writes the module as one ONNX file with input `image` and the outputs of its task (see OUTPUTS).

    The exporter on torch.export is tried first; where it cannot follow the module, the one on TorchScript is.
    The module is left in evaluation mode.

    Args:
        module: Takes normalized float32 `[N, 3, H, W]`; gives a tensor, a tuple or a dict of the outputs.
        path: The file to write.
        input_size: (width, height) in pixels; fixed in the file.
        task: Says how the outputs are called.
        dynamic_batch: Whether N may be any number; otherwise it is 1.
        opset: ONNX operator set.

    Raises:
        ExportError: neither exporter can write the module; the message has the words of both.
    """
    wrapped = NamedOutputs(module.cpu().eval(), task).eval()
    width, height = input_size
    example = torch.zeros(2 if dynamic_batch else 1, 3, height, width)  # a batch of 1 would be taken for a constant
    failures = []
    for exporter in (_with_torch_export, _with_torchscript):
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                exporter(wrapped, example, path, wrapped.names, dynamic_batch, opset)
            _check(path)
            return path
        except Exception as error:  # the exporters raise types of every kind
            failures.append(f"{exporter.__name__.lstrip('_')}: {type(error).__name__}: {str(error)[:500]}")
            log.info("ONNX export %s", failures[-1])
    raise ExportError("the model cannot be exported as ONNX: " + "; ".join(failures), str(path))


def _with_torch_export(
    module: nn.Module, example: Tensor, path: Path, names: tuple[str, ...], dynamic_batch: bool, opset: int
) -> None:
    torch.onnx.export(
        module,
        (example,),
        str(path),
        input_names=[INPUT],
        output_names=list(names),
        dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
        opset_version=opset,
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def _with_torchscript(
    module: nn.Module, example: Tensor, path: Path, names: tuple[str, ...], dynamic_batch: bool, opset: int
) -> None:
    torch.onnx.export(
        module,
        (example,),
        str(path),
        input_names=[INPUT],
        output_names=list(names),
        dynamic_axes={name: {0: "batch"} for name in (INPUT, *names)} if dynamic_batch else None,
        opset_version=opset,
        dynamo=False,
    )


def _check(path: Path) -> None:
    """The file is valid and whole: weights that an exporter laid beside it are taken in."""
    model = onnx.load(str(path))
    beside = path.with_name(path.name + ".data")
    if beside.exists():
        onnx.save(model, str(path))
        beside.unlink()
    onnx.checker.check_model(model, full_check=True)
