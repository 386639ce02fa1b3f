"""The Open Inference Protocol, version 2 (KServe's, Triton's): images in, the prediction's arrays out.

Inputs, one of them: `image`, BYTES `[N]`, whole image files (in JSON as base64); or `pixels`, UINT8 `[N, H, W, 3]`.
Outputs: `prediction`, BYTES `[N]`, the JSON of `/v1/predict` for each image; and the arrays of the task, see
`Prediction.tensors`. Parameters of a request are those of `/v1/predict`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from starlette.datastructures import QueryParams

from fovea_serving.gateway.answers import prediction_json
from fovea_serving.gateway.gateway import Call, Gateway
from fovea_serving.gateway.problems import UnknownModel
from fovea_serving.gateway.requests import options_of
from fovea_serving.gateway.routing import Version
from fovea_serving.pipeline import prediction_type

PLATFORM = "fovea"
IMAGE, PIXELS, PREDICTION = "image", "pixels", "prediction"
DTYPES: Mapping[str, np.dtype[Any]] = {
    "UINT8": np.dtype("<u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
}
"""Datatypes of the protocol that are used here, beside BYTES."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array of the protocol. BYTES are an array of objects."""

    name: str
    data: NDArray[Any]

    @property
    def datatype(self) -> str:
        """Its name in the protocol."""
        if self.data.dtype == np.object_:
            return "BYTES"
        return next(name for name, dtype in DTYPES.items() if dtype == self.data.dtype)

    def to_bytes(self) -> bytes:
        """The raw form: little-endian rows; of BYTES each with its length before it."""
        if self.data.dtype != np.object_:
            return self.data.tobytes()
        return b"".join(struct.pack("<I", len(each)) + each for each in self.data.ravel())

    @classmethod
    def from_bytes(cls, name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
        """Of the raw form. Raises InvalidInput."""
        if datatype == "BYTES":
            return cls(name, _array(name, _strings(name, raw), shape))
        if datatype not in DTYPES:
            raise InvalidInput(f"datatype {datatype} is not read", f"inputs.{name}", "send BYTES or UINT8")
        dtype = DTYPES[datatype]
        if min(shape, default=0) < 0 or len(raw) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise InvalidInput(f"{len(raw)} bytes are no {datatype} of shape {list(shape)}", f"inputs.{name}")
        return cls(name, np.frombuffer(raw, dtype).reshape(shape))

    @classmethod
    def of_strings(cls, name: str, values: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        """BYTES. Raises InvalidInput where shape and number differ."""
        return cls(name, _array(name, values, shape))


def model_name(gateway: Gateway) -> str:
    """The one model's name: that of the ModelDeployment, or else of the TrainingJob."""
    return gateway.name or gateway.routing.main.model.manifest.lineage.job


def check_model(gateway: Gateway, name: str) -> Version:
    """The version that stands for the model. Raises UnknownModel, UpstreamUnavailable."""
    version = gateway.routing.main
    if name != model_name(gateway):
        raise UnknownModel(f"there is no model {name!r}", "model", f"the one model is {model_name(gateway)}")
    return version


def metadata(gateway: Gateway, name: str) -> dict[str, Any]:
    """The protocol's description of the model. Raises UnknownModel, UpstreamUnavailable."""
    manifest = check_model(gateway, name).model.manifest
    tensors = prediction_type(manifest.task).tensors
    return {
        "name": name,
        "versions": [version.name for version in gateway.routing.answering],
        "platform": PLATFORM,
        "inputs": [
            {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ],
        "outputs": [
            {"name": PREDICTION, "datatype": "BYTES", "shape": [-1]},
            *({"name": key, "datatype": kind, "shape": list(shape)} for key, (kind, shape) in tensors.items()),
        ],
    }


async def infer(
    gateway: Gateway, call: Call, name: str, inputs: Sequence[Tensor], parameters: Mapping[str, object]
) -> tuple[Version, dict[str, Tensor]]:
    """All outputs by name. Raises what `Gateway.predict` raises, InvalidInput, UnknownModel."""
    check_model(gateway, name)
    if not (images := _images(inputs)):
        raise InvalidInput("there is no image", "inputs", "send at least one")
    query = QueryParams({key: str(value) for key, value in parameters.items()})
    answered = await gateway.predict(call, images, partial(options_of, query))
    manifest = answered.version.model.manifest
    texts = [json.dumps(prediction_json(answer, manifest.classes)).encode() for answer in answered.answers]
    arrays = prediction_type(manifest.task).stack([answer.prediction for answer in answered.answers])
    outputs = [Tensor.of_strings(PREDICTION, texts, [len(texts)]), *(Tensor(*each) for each in arrays.items())]
    return answered.version, {tensor.name: tensor for tensor in outputs}


def chosen(outputs: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
    """The outputs that were asked for, or all. Raises InvalidInput for one that there is not."""
    if unknown := [name for name in names if name not in outputs]:
        raise InvalidInput(f"there is no output {unknown[0]!r}", "outputs", f"choose from {', '.join(outputs)}")
    return [outputs[name] for name in names or outputs]


def _images(inputs: Sequence[Tensor]) -> list[bytes]:
    if len(inputs) != 1 or inputs[0].name not in (IMAGE, PIXELS):
        names = ", ".join(tensor.name for tensor in inputs) or "none"
        raise InvalidInput(f"inputs are {names}", "inputs", f"send {IMAGE} (BYTES) or {PIXELS} (UINT8)")
    (tensor,) = inputs
    if tensor.name == IMAGE:
        if tensor.datatype != "BYTES":
            raise InvalidInput(f"datatype {tensor.datatype}", f"inputs.{IMAGE}", "send BYTES: whole image files")
        return list(tensor.data.ravel())
    pixels = tensor.data[None] if tensor.data.ndim == 3 else tensor.data
    if tensor.datatype != "UINT8" or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        found = f"{tensor.datatype} {list(tensor.data.shape)}"
        raise InvalidInput(f"pixels are {found}", f"inputs.{PIXELS}", "send UINT8 [N, H, W, 3], RGB")
    return [cv2.imencode(".bmp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in pixels]


def _strings(name: str, raw: bytes) -> list[bytes]:
    values, position = [], 0
    while position < len(raw):
        length = int.from_bytes(raw[position : position + 4], "little")
        position += 4 + length
        if position > len(raw):
            raise InvalidInput("the BYTES are cut off", f"inputs.{name}")
        values.append(raw[position - length : position])
    return values


def _array(name: str, values: Sequence[bytes], shape: Sequence[int]) -> NDArray[Any]:
    if len(values) != int(np.prod(shape, dtype=np.int64)):
        raise InvalidInput(f"{len(values)} values are no shape {list(shape)}", f"inputs.{name}")
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(shape)
