"""LiteRT, the runtime of TFLite files, on CPUs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fovea_serving.backends.base import BackendOptions, Device, InvalidModel
from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.backends.library import LITERT
from fovea_serving.backends.registry import register


class LiteRt:
    """An interpreter, which computes one request at a time.

    No name survives the conversion to TFLite: outputs are `output_0`, `output_1`, … in the order of the task's.
    """

    device = Device.CPU

    def __init__(self, model: Path, options: BackendOptions) -> None:
        if options.device not in (None, Device.CPU):
            raise InvalidModel(f"LiteRT has no {options.device} here", str(model), "use ONNX on a GPU")
        interpreter = LITERT.load()
        try:
            self._interpreter = interpreter.Interpreter(str(model), num_threads=options.threads or usable_cpus())
            self._runner = self._interpreter.get_signature_runner()
            inputs, outputs = self._runner.get_input_details(), self._runner.get_output_details()
        except (RuntimeError, ValueError) as error:
            raise InvalidModel(f"LiteRT cannot load the model: {error}", str(model), "export it again") from error
        self._outputs = {name: f"output_{index}" for index, name in enumerate(options.outputs)}
        if len(inputs) != 1 or set(outputs) != set(self._outputs.values()):
            raise InvalidModel(
                f"the model has {len(inputs)} inputs and outputs {sorted(outputs)}",
                str(model),
                f"export it with one input and {len(self._outputs)} outputs: {', '.join(self._outputs)}",
            )
        ((self._input, details),) = inputs.items()
        self.fixed_batch = int(details["shape"][0])
        self._lock = threading.Lock()

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with self._lock:
            results = self._runner(**{self._input: batch})
            return {name: np.array(results[key]) for name, key in self._outputs.items()}


@register(".tflite")
def open_litert(model: Path, options: BackendOptions) -> LiteRt:
    """An interpreter of a TFLite file. Raises InvalidModel, MissingExtra."""
    return LiteRt(model, options)
