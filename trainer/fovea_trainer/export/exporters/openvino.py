"""OpenVINO's intermediate representation: the graph as XML, the weights beside it; made from the ONNX file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from fovea_serving.backends import OPENVINO

from fovea_trainer.export.exporter import Exportable, Exporter, ExportError, register
from fovea_trainer.export.exporters.onnx import Onnx


@register
class OpenVino(Exporter):
    """Input and outputs are called as in ONNX. Weights stay float32."""

    format, file, runnable = "OpenVINO", "openvino/model.xml", True

    def write(self, model: Exportable, path: Path) -> None:
        openvino = OPENVINO.load()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            source = model.onnx or Path(folder) / Onnx.file
            if model.onnx is None:
                Onnx().write(model, source)
            try:
                # Not convert_model, which reports to its maker who uses it for what.
                graph = openvino.Core().read_model(str(source))
                openvino.save_model(graph, str(path), compress_to_fp16=False)
            except RuntimeError as error:
                raise ExportError(f"OpenVINO cannot convert the model: {str(error)[:500]}", str(path)) from error

    def libraries(self) -> Mapping[str, str]:
        return OPENVINO.version

    def files(self, path: Path) -> tuple[Path, ...]:
        return path, path.with_suffix(".bin")
