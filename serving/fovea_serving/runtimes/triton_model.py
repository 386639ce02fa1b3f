"""The `model.py` of a model in Triton's Python backend: ONNX Runtime runs the file beside it.

It is copied into the repository and runs in that backend's environment, which has numpy and ONNX Runtime and nothing of
Fovea. With numpy 2.4 that backend returns outputs of no bytes and no error, hence the check.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton

MODEL = "model.onnx"
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class TritonPythonModel:
    """One instance of the model, in a process of its own; Triton's batcher decides which requests come together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the session. Raises RuntimeError where the environment would give wrong answers."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise RuntimeError(f"numpy {np.__version__}: Triton's Python backend needs numpy < 2")
        config = json.loads(args["model_config"])
        self._input = config["input"][0]["name"]
        self._outputs = [output["name"] for output in config["output"]]
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
        settings.inter_op_num_threads = 1
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = Path(args["model_repository"]) / args["model_version"] / MODEL
        providers = [name for name in PROVIDERS if name in ort.get_available_providers()]
        self._session = ort.InferenceSession(str(file), settings, providers=providers)

    def execute(self, requests: Sequence[triton.InferenceRequest]) -> list[triton.InferenceResponse]:
        """The outputs of each request; all of them go through the network at once."""
        batches = [triton.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        images = batches[0] if len(batches) == 1 else np.concatenate(batches)
        outputs = self._session.run(self._outputs, {self._input: images})
        responses, start = [], 0
        for batch in batches:
            end = start + len(batch)
            pairs = zip(self._outputs, outputs, strict=True)
            responses.append(triton.InferenceResponse([triton.Tensor(name, each[start:end]) for name, each in pairs]))
            start = end
        return responses
