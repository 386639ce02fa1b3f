"""ONNX in one self-contained file: what is evaluated and served."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from fovea_serving.bundle import MODEL
from fovea_serving.predictor import INPUT

from fovea_trainer.export.exporter import Exportable, Exporter, ExportError, register

OPSET = 18
"""ONNX operator set: the newest that the runtimes of interest (ONNX Runtime, TensorRT 10) read in full."""

log = logging.getLogger(__name__)


@register
class Onnx(Exporter):
    """Input `image` and the outputs that the task's predictions are made from.

    The exporter on torch.export is tried first; where it cannot follow the module, the one on TorchScript is.
    """

    format, file, runnable = "ONNX", MODEL, True

    def write(self, model: Exportable, path: Path) -> None:
        module, example = model.traced()
        failures = []
        for name, options in _exporters(module.names, model.dynamic_batch).items():
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")
                    torch.onnx.export(
                        module,
                        (example,),
                        str(path),
                        input_names=[INPUT],
                        output_names=list(module.names),
                        opset_version=OPSET,
                        **options,
                    )
                _check(path)
                return
            except Exception as error:  # the exporters raise types of every kind
                failures.append(f"with {name}: {type(error).__name__}: {str(error)[:500]}")
                log.info("ONNX export %s", failures[-1])
        raise ExportError("the model cannot be exported as ONNX: " + "; ".join(failures), str(path))


def _exporters(outputs: tuple[str, ...], dynamic_batch: bool) -> Mapping[str, Mapping[str, Any]]:
    """Arguments of `torch.onnx.export` that choose an exporter, by its name, the preferred one first."""
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    axes = {name: {0: "batch"} for name in (INPUT, *outputs)} if dynamic_batch else None
    return {
        "torch.export": {"dynamo": True, "external_data": False, "verbose": False, "dynamic_shapes": shapes},
        "TorchScript": {"dynamo": False, "dynamic_axes": axes},
    }


def _check(path: Path) -> None:
    """The file is valid and whole: weights that an exporter laid beside it are taken in."""
    model = onnx.load(str(path))
    beside = path.with_name(path.name + ".data")
    if beside.exists():
        onnx.save(model, str(path))
        beside.unlink()
    onnx.checker.check_model(model, full_check=True)
