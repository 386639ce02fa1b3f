"""TensorRT: an engine built from the ONNX file that is served, for the GPU that is here; and the backend that runs one.

TensorRT has a licence of NVIDIA's, so no requirement of Fovea's names it: an image of its own has it
(`images/tensorrt`). Networks are strongly typed, which is all that TensorRT 11 knows: it computes in the types of the
ONNX file, in 8-bit integers between QuantizeLinear and DequantizeLinear, and in TF32 where that says float32. So it
needs no calibration of its own.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from fovea_api.engine import PLAN
from fovea_api.errors import NotSupported
from fovea_serving.backends import BackendOptions, Device, InvalidModel
from fovea_serving.backends import register as register_backend
from fovea_serving.engines import gpu, tensorrt_version
from fovea_serving.predictor import INPUT
from numpy.typing import NDArray

from fovea_trainer.export.exporter import Exportable, Exporter, ExportError, register

BATCHES = (1, 8, 32)
"""Images at once of a model with a dynamic batch: the fewest, as many as it is tuned for (the default of
`inference.batching.maxSize`), and the most, for which memory is set aside."""
_LAST_ERRORS = 3
_WORDS = 1000

log = logging.getLogger(__name__)


@register
class TensorRt(Exporter):
    """Input and outputs are called as in ONNX."""

    format, file, runnable, served = "TensorRT", PLAN, True, True

    def write(self, model: Exportable, path: Path) -> None:
        assert model.onnx is not None, "an engine is built from an ONNX file"
        path.write_bytes(build_plan(model.onnx))

    def libraries(self) -> Mapping[str, str]:
        return {"tensorrt": installed_version()}


def installed_version() -> str:
    """Version of the TensorRT that builds, as the key of an engine has it. Raises NotSupported."""
    major = str(_library().__version__).partition(".")[0]
    return tensorrt_version(f"libnvinfer.so.{major}")


def build_plan(onnx: Path) -> bytes:
    """The serialized engine of an ONNX file, for the GPU that is here; minutes.

    Args:
        onnx: With the one input `image`, float32 [N, 3, height, width] of fixed size; a dynamic N becomes one from the
            first to the last of `BATCHES`.

    Raises:
        NotSupported: TensorRT is not installed.
        NoGpu: there is no GPU.
        ExportError: TensorRT cannot read the file or build the engine; the message has its own words.
    """
    trt = _library()
    gpu()  # without one TensorRT answers no more than that CUDA failed
    words = _log_of(trt)
    try:
        builder = trt.Builder(words)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, words)
        if not parser.parse_from_file(str(onnx)):
            unread = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
            raise ExportError(f"TensorRT cannot read the model: {unread[-_WORDS:]}", str(onnx))
        config = builder.create_builder_config()
        image = network.get_input(0)
        fixed = tuple(image.shape)[1:]
        if image.shape[0] == -1:
            profile = builder.create_optimization_profile()
            profile.set_shape(INPUT, *((batch, *fixed) for batch in BATCHES))
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
    except TypeError as error:  # what its bindings make of a null pointer
        raise ExportError(f"TensorRT cannot work here: {words.last or error}", str(onnx)) from error
    if plan is None:
        raise ExportError(f"TensorRT builds no engine: {words.last}", str(onnx), "the log has all that it said")
    return bytes(plan)


class TensorRtEngine:
    """An engine in a context, which computes one request at a time, on the GPU that torch uses."""

    device = Device.CUDA

    def __init__(self, model: Path, options: BackendOptions) -> None:
        if options.device not in (None, Device.CUDA):
            raise InvalidModel(f"TensorRT has no {options.device}", str(model), "use ONNX on a CPU")
        trt = _library()
        gpu()
        words, self._names = _log_of(trt), options.outputs
        engine = trt.Runtime(words).deserialize_cuda_engine(model.read_bytes())
        if engine is None:
            remedy = "an engine runs with the TensorRT and on the type of GPU that built it; build it here"
            raise InvalidModel(f"TensorRT cannot load the engine: {words.last}", str(model), remedy)
        known = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if missing := {INPUT, *options.outputs} - known:
            raise InvalidModel(f"the engine has no {', '.join(sorted(missing))}", str(model), "export it again")
        if loose := [name for name in options.outputs if -1 in tuple(engine.get_tensor_shape(name))[1:]]:
            raise InvalidModel(f"the size of {', '.join(loose)} depends on the image", str(model), "serve ONNX")
        self._engine, self._context = engine, engine.create_execution_context()
        batch = int(engine.get_tensor_shape(INPUT)[0])
        self.fixed_batch = None if batch == -1 else batch
        self._lock = threading.Lock()

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with self._lock:
            if not self._context.set_input_shape(INPUT, batch.shape):
                raise InvalidModel(f"the engine takes no batch of {batch.shape}", None, f"{BATCHES[-1]} images at most")
            tensors = {
                name: torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda") for name in self._names
            }
            tensors[INPUT] = torch.from_numpy(np.ascontiguousarray(batch)).cuda()
            for name, tensor in tensors.items():
                self._context.set_tensor_address(name, tensor.data_ptr())
            stream = torch.cuda.current_stream()
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError(f"TensorRT failed on a batch of {batch.shape}")
            stream.synchronize()
            return {name: tensors[name].cpu().numpy() for name in self._names}


@register_backend(Path(PLAN).suffix)
def open_engine(model: Path, options: BackendOptions) -> TensorRtEngine:
    """An engine in TensorRT. Raises InvalidModel, NotSupported, NoGpu."""
    return TensorRtEngine(model, options)


def _library() -> ModuleType:
    """NVIDIA's Python package. Raises NotSupported."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        remedy = "use an image with it (images/tensorrt), or pip install tensorrt-cu12 under NVIDIA's licence"
        raise NotSupported(f"TensorRT is not installed: {error}", None, remedy) from error


def _log_of(trt: ModuleType) -> Any:
    """A logger for TensorRT that hands on what it says, and keeps its errors."""
    levels = {trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR, trt.ILogger.Severity.ERROR: logging.ERROR}

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in levels:
                self.errors.append(message)
            log.log(levels.get(severity, logging.DEBUG), "TensorRT: %s", message)

        @property
        def last(self) -> str:
            return "; ".join(self.errors[-_LAST_ERRORS:])[-_WORDS:] or "it does not say why"

    return Log()
