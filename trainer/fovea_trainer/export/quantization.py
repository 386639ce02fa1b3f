"""8-bit integers by ONNX Runtime's static quantization (QDQ), kept only while the metric holds."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


def quantize_static(model: Path, path: Path, batches: Iterable[NDArray[np.float32]]) -> Path:
    """Writes the ONNX model with 8-bit weights (per channel) and activations.

    Weights use 7 of the 8 bits, because processors without VNNI saturate otherwise.

    Args:
        model: The ONNX model in floating point.
        path: The file to write.
        batches: Normalized float32 `[N, 3, H, W]` of train images, on which the ranges are measured.
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
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
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


@dataclass(frozen=True, slots=True)
class QuantizationChoice:
    """Whether the 8-bit model is delivered, and why, in words for the report."""

    quantized: bool
    reason: str


def choose_quantized(metric: str, before: float, after: float, max_drop: float) -> QuantizationChoice:
    """The 8-bit model if the metric (higher is better) drops by at most `max_drop`, otherwise FP32."""
    drop = before - after
    change = f"{metric} is {after:.4f} with 8-bit integers and {before:.4f} in FP32"
    if drop <= max_drop:
        return QuantizationChoice(True, f"INT8 is delivered: {change}, within the allowed drop of {max_drop:g}.")
    return QuantizationChoice(False, f"FP32 is delivered: {change}, more than the allowed drop of {max_drop:g}.")
