"""OpenVINO, on CPUs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea_serving.backends.base import INPUT, BackendOptions, Device, InvalidModel
from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.backends.library import OPENVINO
from fovea_serving.backends.registry import register


class OpenVino:
    """A compiled model; each thread has a request of its own, because a request belongs to one."""

    device = Device.CPU

    def __init__(self, model: Path, options: BackendOptions) -> None:
        if options.device not in (None, Device.CPU):
            raise InvalidModel(f"OpenVINO has no {options.device} here", str(model), "use ONNX on a GPU")
        openvino = OPENVINO.load()
        self._outputs = options.outputs
        try:
            self._model = openvino.Core().compile_model(str(model), "CPU", _settings(options))
        except RuntimeError as error:
            raise InvalidModel(f"OpenVINO cannot load the model: {error}", str(model), "export it again") from error
        self._check(model)
        batch = self._model.input(INPUT).partial_shape[0]
        self.fixed_batch = None if batch.is_dynamic else int(batch.get_length())
        self._requests = threading.local()

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        if not hasattr(self._requests, "own"):
            self._requests.own = self._model.create_infer_request()
        results = self._requests.own.infer({INPUT: batch})
        return {name: np.array(results[name]) for name in self._outputs}

    def _check(self, model: Path) -> None:
        inputs = {name for port in self._model.inputs for name in port.get_names()}
        outputs = {name for port in self._model.outputs for name in port.get_names()}
        if len(self._model.inputs) != 1 or INPUT not in inputs or not outputs >= set(self._outputs):
            raise InvalidModel(
                f"the model has inputs {sorted(inputs)} and outputs {sorted(outputs)}",
                str(model),
                f"export it with input {INPUT} and outputs {', '.join(self._outputs)}",
            )


@register(".xml")
def open_openvino(model: Path, options: BackendOptions) -> OpenVino:
    """A compiled model of an IR file and the weights beside it. Raises InvalidModel, MissingExtra."""
    return OpenVino(model, options)


def _settings(options: BackendOptions) -> Mapping[str, Any]:
    """In float32, which OpenVINO leaves for bfloat16 by itself where the CPU has that."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads or usable_cpus(),
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
