"""What the gateway and a replica of Ray Serve send to each other, as safetensors: raw arrays behind a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fovea_serving.pipeline.predictions import prediction_type
from fovea_serving.upstreams.base import Answer, PredictOptions

CONTENT_TYPE = "application/vnd.fovea.v1+safetensors"
"""Of requests and answers."""

Arrays = Mapping[str, NDArray[np.generic]]


class UnreadableMessage(InvalidInput):
    """The bytes are not what the other side writes: its version may be another."""


def write_request(images: Sequence[bytes], options: PredictOptions) -> bytes:
    """Image files, and what is asked about them."""
    arrays: dict[str, NDArray[np.generic]] = {
        f"image.{index}": np.frombuffer(image, np.uint8) for index, image in enumerate(images)
    }
    for field in fields(options):
        if (value := getattr(options, field.name)) is not None:
            arrays[field.name] = np.asarray(value)
    return bytes(save(arrays))


def read_request(data: bytes) -> tuple[list[bytes], PredictOptions]:
    """The image files and options of a request. Raises UnreadableMessage."""
    arrays = _load(data)
    images = [image.tobytes() for image in _numbered("image", arrays)]
    chosen = {field.name: _value(arrays[field.name]) for field in fields(PredictOptions) if field.name in arrays}
    return images, PredictOptions(**chosen)


def write_answers(answers: Sequence[Answer]) -> bytes:
    """Answers with their predictions, whatever arrays and numbers these are made of."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for index, answer in enumerate(answers):
        arrays[f"answer.{index}"] = np.array([answer.width, answer.height, answer.batch_size or 0], np.int64)
        for field in fields(answer.prediction):  # type: ignore[arg-type]  # every prediction is a dataclass
            arrays[f"{field.name}.{index}"] = np.asarray(getattr(answer.prediction, field.name), order="C")
    return bytes(save(arrays))


def read_answers(data: bytes, task: Task) -> list[Answer]:
    """The answers of a model of this task. Raises UnreadableMessage."""
    arrays, kind = _load(data), prediction_type(task)
    answers = []
    for index, size in enumerate(_numbered("answer", arrays)):
        width, height, batch = (int(value) for value in size)
        try:
            parts = {field.name: arrays[f"{field.name}.{index}"] for field in fields(kind)}  # type: ignore[arg-type]
        except KeyError as missing:
            raise UnreadableMessage(f"the answer has no {missing.args[0]}") from None
        parts = {name: part if part.ndim else part.item() for name, part in parts.items()}
        answers.append(Answer(kind(**parts), width, height, batch or None))
    return answers


def _load(data: bytes) -> Arrays:
    try:
        arrays: Arrays = load(data)
    except SafetensorError as error:
        raise UnreadableMessage(f"no safetensors: {error}", None, "use one version of Fovea on both sides") from None
    return arrays


def _numbered(name: str, arrays: Arrays) -> list[NDArray[np.generic]]:
    """Those called `name.0`, `name.1`, and so on."""
    count = sum(key.startswith(f"{name}.") for key in arrays)
    return [arrays[f"{name}.{index}"] for index in range(count)]


def _value(array: NDArray[np.generic]) -> Any:
    return tuple(array.tolist()) if array.ndim else array.item()
