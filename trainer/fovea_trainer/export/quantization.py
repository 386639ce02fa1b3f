"""8-bit integers by ONNX Runtime's static (QDQ) and dynamic quantization, and how much each layer suffers from them."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import torch
from fovea_serving.backends import usable_cpus
from fovea_serving.predictor import INPUT
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic
from onnxruntime.quantization import quantize_static as ort_quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from fovea_trainer.models.fake_quantization import round_weights

MATRIX_PRODUCTS = ["Gemm", "MatMul"]
OPERATIONS = ["Conv", *MATRIX_PRODUCTS]
"""Where the time goes. The decoding of boxes stays in floating point: 256 steps are too coarse for pixels."""
ACTIVATIONS = ["Relu", "Clip"]
"""What follows a layer and disappears in the rounding of its output, whose range is then that of the activation. Left
in floating point it costs two conversions, which were a quarter of the time of a YOLO on EfficientNet-Lite."""

Images = NDArray[np.float32]
"""Normalized float32 [N, 3, H, W]."""


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """How much a model's outputs suffer where a single layer is quantized.

    Args:
        node: Name of the layer's node in the ONNX graph.
        layer: Name of its weights: that of the layer in the network, where the exporter kept it.
        decibels: Signal-to-quantization-noise ratio of the outputs: the lower, the more sensitive is the layer.
    """

    node: str
    layer: str
    decibels: float


class QuantizableModel(ABC):
    """An ONNX model of which any layers can be quantized.

    Args:
        model: The ONNX model in floating point.
        folder: An empty folder, which it needs as long as it lives.
    """

    operations: ClassVar[Sequence[str]]
    """Types of the nodes that are layers."""
    scope: ClassVar[str] = ""
    """What to add of which layers these are, where they are not all of the network's."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._prepared, self._everything = folder / "prepared.onnx", folder / "everything.onnx"
        with _root_logger_in_use():
            quant_pre_process(str(model), str(self._prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(self._prepared)).graph
        weights = {tensor.name: tensor for tensor in graph.initializer}
        layers = [node for node in graph.node if self._is_layer(node, weights)]
        uses = Counter(name for node in graph.node for name in node.input)
        added = {
            tensor: other
            for node in graph.node
            if node.op_type == "Add"
            for tensor, other in (node.input, reversed(node.input))
            if uses[other] == 1  # the exporter keeps equal parameters once, under the name of the first
        }
        self.layers: dict[str, str] = {
            node.name: _layer_name(node.name, node.input[1], added.get(node.output[0], "")) for node in layers
        }
        """Names of the layers that can be quantized, by the names of their nodes."""
        self._weight_decibels = {
            node.name: weight_decibels(_rows(node, numpy_helper.to_array(weights[node.input[1]])))
            for node in layers
            if node.input[1] in weights
        }

    def write(self, path: Path, floating: Iterable[str] = ()) -> Path:
        """Writes the model with 8-bit weights (per channel) and activations of its layers.

        Args:
            path: The file.
            floating: Names of the nodes that stay in floating point.
        """
        left = list(floating)
        return self._write(path, exclude=left) if left else shutil.copyfile(self._everything, path)

    def sensitivities(self, images: Images, seconds: float = math.inf) -> list[LayerSensitivity]:
        """Of the layers, the most sensitive first: each is quantized by itself and the outputs are compared.

        Args:
            images: What the outputs are compared on.
            seconds: Time after which no further layer is begun. Those whose weights alone lose most are compared first,
                so that what is left out of a large network is what matters least; one is compared in any case.
        """
        expected, until = _outputs(self._prepared, images), time.monotonic() + seconds
        found: list[LayerSensitivity] = []
        with tempfile.TemporaryDirectory() as folder:
            for node in sorted(self.layers, key=lambda node: self._weight_decibels.get(node, math.inf)):
                if found and time.monotonic() >= until:
                    break
                single = self._write(Path(folder) / "single.onnx", only=[node])
                found.append(LayerSensitivity(node, self.layers[node], decibels(expected, _outputs(single, images))))
        return sorted(found, key=lambda each: each.decibels)

    def _is_layer(self, node: onnx.NodeProto, weights: Container[str]) -> bool:
        return node.op_type in self.operations

    @abstractmethod
    def _write(self, path: Path, *, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
        """Writes the model with all layers in 8 bits, with some of them, or with all but some."""


class CalibratedModel(QuantizableModel):
    """An ONNX model whose ranges of activations are known: variants of it in 8 bits cost no further calibration.

    Args:
        model: The ONNX model in floating point.
        folder: An empty folder, which it needs as long as it lives; `calibrated` gives it one.
        batches: Train images, on which the ranges are measured.
        for_tensorrt: Whether TensorRT is to read the file.
    """

    operations = OPERATIONS

    def __init__(self, model: Path, folder: Path, batches: Iterable[Images], for_tensorrt: bool) -> None:
        super().__init__(model, folder)
        self._ranges, self._for_tensorrt = folder / "ranges.json", for_tensorrt
        self._quantize(self._everything, batches)

    def _write(self, path: Path, *, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
        return self._quantize(path, None, exclude, only)

    def _quantize(
        self, path: Path, batches: Iterable[Images] | None, exclude: Sequence[str] = (), only: Sequence[str] = ()
    ) -> Path:
        tensorrt = self._for_tensorrt
        with _root_logger_in_use():
            ort_quantize_static(
                str(self._prepared),
                str(path),
                None if batches is None else _Batches(batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*OPERATIONS, *ACTIVATIONS],
                nodes_to_quantize=list(only),
                nodes_to_exclude=list(exclude),
                per_channel=True,
                reduce_range=not tensorrt,
                activation_type=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibration_cache_path=self._ranges,
                extra_options={"ActivationSymmetric": True, "QuantizeBias": False} if tensorrt else {},
            )
        return path


class DynamicModel(QuantizableModel):
    """An ONNX model whose ranges of activations are computed as it runs, over all images of a batch.

    Products of activations and weights become 8-bit integers; convolutions would be slower so on CPUs, and products
    of two activations (attention) gain nothing. The arguments are those of `QuantizableModel`.
    """

    operations, scope = MATRIX_PRODUCTS, " in products of matrices"

    def __init__(self, model: Path, folder: Path) -> None:
        super().__init__(model, folder)
        self._write(self._everything)

    def _is_layer(self, node: onnx.NodeProto, weights: Container[str]) -> bool:
        return super()._is_layer(node, weights) and node.input[1] in weights

    def _write(self, path: Path, *, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
        with _root_logger_in_use():
            ort_quantize_dynamic(
                str(self._prepared),
                str(path),
                op_types_to_quantize=MATRIX_PRODUCTS,
                nodes_to_quantize=_products_of(only or self.layers),
                nodes_to_exclude=_products_of(exclude),
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
        return path


@contextmanager
def calibrated(model: Path, batches: Iterable[Images], *, for_tensorrt: bool = False) -> Iterator[CalibratedModel]:
    """The model with its ranges of activations, as long as the context lasts.

    Weights use 7 of the 8 bits, because processors without VNNI saturate otherwise. TensorRT knows no zero points
    other than 0 and no 8-bit biases, and its weights take all 8 bits.

    Args:
        model: The ONNX model in floating point.
        batches: Train images, on which the ranges are measured.
        for_tensorrt: Whether TensorRT is to read the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield CalibratedModel(model, Path(folder), batches, for_tensorrt)


@contextmanager
def dynamic(model: Path) -> Iterator[DynamicModel]:
    """The ONNX model, which needs no calibration, as long as the context lasts. Weights use 7 of the 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        yield DynamicModel(model, Path(folder))


def quantize_static(model: Path, path: Path, batches: Iterable[Images], *, for_tensorrt: bool = False) -> Path:
    """Writes the ONNX model with all its layers in 8 bits; see `calibrated`."""
    with calibrated(model, batches, for_tensorrt=for_tensorrt) as ready:
        return ready.write(path)


def decibels(expected: Sequence[Images], measured: Sequence[Images]) -> float:
    """Signal-to-quantization-noise ratio: 10 log10 of the power of the outputs over that of their error.

    Of several outputs the mean of the relative errors counts, so that each has a say whatever its unit.
    """
    noise = [
        float(np.square(other.astype(np.float64) - one).sum() / max(np.square(one.astype(np.float64)).sum(), 1e-30))
        for one, other in zip(expected, measured, strict=True)
    ]
    return -10 * math.log10(max(float(np.mean(noise)), 1e-30))


def weight_decibels(weights: NDArray[np.float32]) -> float:
    """Signal-to-quantization-noise ratio of weights [O, ...], each row on a scale of 7 bits of its own; a vector is one
    row."""
    rows = np.atleast_2d(weights)
    return decibels([rows], [round_weights(torch.tensor(rows)).numpy()])


def _outputs(model: Path, images: Images) -> list[Images]:
    """All outputs of a model, image by image, as it also runs that takes one at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    rows = [session.run(None, {INPUT: images[index : index + 1]}) for index in range(len(images))]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def _products_of(nodes: Iterable[str]) -> list[str]:
    """Names of the matrix products of nodes: dynamic quantization makes a MatMul and an Add of a Gemm first."""
    return [name for node in nodes for name in (node, f"{node}_MatMul")]


def _rows(node: onnx.NodeProto, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights of a layer, outputs first; of a matrix product they come last."""
    return weights.T if node.op_type == "MatMul" else weights


def _layer_name(node: str, *parameters: str) -> str:
    """The name of a layer in the network, by that of its weights or, where the exporter has transposed these and
    called them otherwise, of its bias; that of the node where it has no such name."""
    layers = (name.rpartition(".")[0] for name in parameters if name.endswith((".weight", ".bias")))
    return next(layers, node).removeprefix("module.network.")


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[Images]) -> None:
        self._batches: Iterator[Images] = iter(batches)

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _root_logger_in_use() -> Iterator[None]:
    """Keeps ONNX Runtime from setting up the root logger, after which all is logged twice."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
