"""8-bit integers by ONNX Runtime's static quantization (QDQ)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fovea_serving.predictor import INPUT
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization import quantize_static as ort_quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

OPERATIONS = ["Conv", "Gemm", "MatMul"]
"""Where the time goes. The decoding of boxes stays in floating point: 256 steps are too coarse for pixels."""


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[NDArray[np.float32]]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantize_static(
    model: Path, path: Path, batches: Iterable[NDArray[np.float32]], *, for_tensorrt: bool = False
) -> Path:
    """Writes the ONNX model with 8-bit weights (per channel) and activations.

    Weights use 7 of the 8 bits, because processors without VNNI saturate otherwise. TensorRT knows no zero points
    other than 0 and no 8-bit biases, and its weights take all 8 bits.

    Args:
        model: The ONNX model in floating point.
        path: The file to write.
        batches: Normalized float32 `[N, 3, H, W]` of train images, on which the ranges are measured.
        for_tensorrt: Whether TensorRT is to read the file.
    """
    with tempfile.TemporaryDirectory() as folder, _root_logger_in_use():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        ort_quantize_static(
            str(prepared),
            str(path),
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATIONS,
            per_channel=True,
            reduce_range=not for_tensorrt,
            activation_type=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "QuantizeBias": False} if for_tensorrt else {},
        )
    return path


@contextmanager
def _root_logger_in_use() -> Iterator[None]:
    """Keeps ONNX Runtime from setting up the root logger, after which all is logged twice."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
