"""ONNX Runtime, on CPUs and on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fovea_serving.backends.base import INPUT, BackendOptions, Device, InvalidModel
from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.backends.registry import register

PROVIDERS = {Device.CPU: "CPUExecutionProvider", Device.CUDA: "CUDAExecutionProvider"}


class OnnxRuntime:
    """An ONNX file in a session. Its threads sleep between requests, because several sessions share the cores."""

    def __init__(self, model: Path, options: BackendOptions) -> None:
        self._outputs = list(options.outputs)
        self._session = _session(model, options)
        _check(self._session, model, options.outputs)
        used = self._session.get_providers()
        self.device = Device.CUDA if PROVIDERS[Device.CUDA] in used else Device.CPU
        if options.device not in (None, self.device):
            remedy = "give it one, or another device" if options.device is Device.CUDA else None
            raise InvalidModel(f"ONNX Runtime has no {options.device} here", str(model), remedy)
        batch = self._session.get_inputs()[0].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        return dict(zip(self._outputs, self._session.run(self._outputs, {INPUT: batch}), strict=True))


@register(".onnx")
def open_onnx(model: Path, options: BackendOptions) -> OnnxRuntime:
    """A session of an ONNX file. Raises InvalidModel."""
    return OnnxRuntime(model, options)


def providers(device: Device | None, available: list[str]) -> list[str]:
    """ONNX Runtime's execution providers for a device, best first; what one cannot compute, the next one does."""
    chosen = (Device.CUDA, Device.CPU) if device in (None, Device.CUDA) else (Device.CPU,)
    return [PROVIDERS[item] for item in chosen if PROVIDERS[item] in available]


def _session(model: Path, options: BackendOptions) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or usable_cpus()
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    try:
        chosen = providers(options.device, ort.get_available_providers())
        return ort.InferenceSession(str(model), settings, providers=chosen)
    except Exception as error:  # ONNX Runtime raises types of its own, straight below Exception
        raise InvalidModel(f"ONNX Runtime cannot load the model: {error}", str(model), "export it again") from error


def _check(session: ort.InferenceSession, model: Path, required: tuple[str, ...]) -> None:
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs != {INPUT} or not outputs >= set(required):
        raise InvalidModel(
            f"the model has inputs {sorted(inputs)} and outputs {sorted(outputs)}",
            str(model),
            f"export it with input {INPUT} and outputs {', '.join(required)}",
        )
