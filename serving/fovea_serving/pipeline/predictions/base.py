"""What every prediction offers, and the registry of them: each file beside this one registers that of one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput, NotSupported
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.tiles import Tile
from fovea_serving.registry import Registry


class DecodingSettings(Protocol):
    """What the way from outputs to predictions goes by; see `Postprocess`."""

    @property
    def top_k(self) -> int: ...
    @property
    def score_threshold(self) -> float: ...
    @property
    def nms_iou(self) -> float: ...
    @property
    def max_detections(self) -> int: ...


class Prediction(ABC):
    """What a model says about one image, in the pixels of the original.

    Attributes:
        tensors: Names of the arrays that it consists of, with datatype and shape of the Open Inference Protocol.
        thresholded: Whether a confidence threshold selects from it.
        tiled: Whether predictions for tiles of an image can be merged.
        outputs: Names of the network's outputs that it is made from. The network's one input is `image`, float32
            `[N, 3, H, W]`, normalized.
    """

    __slots__ = ()
    outputs: ClassVar[tuple[str, ...]]
    thresholded: ClassVar[bool] = False
    tiled: ClassVar[bool] = False
    tensors: ClassVar[Mapping[str, tuple[str, tuple[int, ...]]]] = {}

    @classmethod
    @abstractmethod
    def decode(
        cls, outputs: Mapping[str, NDArray[np.float32]], geometries: Sequence[Geometry], settings: DecodingSettings
    ) -> Sequence[Self]:
        """The predictions of a batch of N images, from the outputs by name and the geometry of each image."""

    @classmethod
    def merge(cls, parts: Sequence[tuple[Self, Tile]], settings: DecodingSettings) -> Self:
        """The prediction for an image, from those for its tiles, each in the pixels of its tile.

        Raises NotSupported where parts of an image do not say what the whole is.
        """
        raise NotSupported("tiles of an image have no meaning for this task", "tile", "ask without it")

    @classmethod
    @abstractmethod
    def from_dict(cls, content: Mapping[str, JsonValue], classes: Sequence[str], size: tuple[int, int]) -> Self:
        """What `to_dict` with masks has written, or a label in that form, as far as it says everything.

        Args:
            content: The JSON form.
            classes: Names of the classes in the order of their index.
            size: Width and height of the image in pixels.

        Raises InvalidInput, which names the field.
        """

    @classmethod
    def stack(cls, predictions: Sequence[Self]) -> Mapping[str, NDArray[np.generic]]:
        """The arrays that `tensors` describes, for N images; none where these cannot be put together."""
        return {}

    @property
    @abstractmethod
    def confidence(self) -> float | None:
        """The best score, from 0 to 1; None where there is none."""

    @abstractmethod
    def counts(self) -> Mapping[int, int]:
        """By the index of the class: objects, or 1 for the class of the image, or 1 for each that occurs in it."""

    @abstractmethod
    def of(self, labels: Collection[int]) -> Self:
        """What is predicted of these classes, by their indices."""

    def first(self, count: int) -> Self:
        """The best objects, as many as are given; itself where there are no objects."""
        return self

    def above(self, score: float, *, overlapping: bool = False) -> Self:
        """What is reported from this score on; itself where every image or pixel has a class.

        Args:
            score: Smallest score.
            overlapping: Whether one object may be reported as several classes.
        """
        return self

    @abstractmethod
    def fingerprint(self) -> NDArray[np.float64]:
        """Numbers from 0 to 1 by which two predictions for one image are compared, of objects the best first."""

    @abstractmethod
    def agreement(self, other: Self, index: NDArray[np.int64]) -> float:
        """How much of two predictions for one image is the same, from 0 to 1; symmetric.

        Args:
            other: Another model's.
            index: For each of the other model's classes its index here; -1: it is not there.
        """

    @abstractmethod
    def to_dict(self, classes: Sequence[str], *, masks: bool = False) -> dict[str, JsonValue]:
        """The JSON form, with the classes by name.

        Args:
            classes: Names of the classes in the order of their index.
            masks: Whether the pixels themselves are given, as COCO run-length encodings.
        """

    @abstractmethod
    def describe(self, classes: Sequence[str]) -> str:
        """In words, on one line."""

    @abstractmethod
    def draw(self, image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
        """A copy of the RGB image `[height, width, 3]` with the prediction drawn on it."""


def labelled(value: JsonValue, field: str, classes: Sequence[str]) -> Iterator[tuple[int, Mapping[str, JsonValue]]]:
    """The parts of a list, each with the index of its class. Raises InvalidInput."""
    if not isinstance(value, list):
        raise InvalidInput(f"`{field}` is no list", field, "give a list of objects with a `class`")
    for part in value:
        name = part.get("class") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or name not in classes:
            raise InvalidInput(f"the class {name!r} is not known", field, f"use one of {', '.join(classes[:20])}")
        yield classes.index(str(name)), part


def number(value: JsonValue, field: str) -> float:
    """A finite number. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise InvalidInput(f"{value!r} is no number", field)
    return float(value)


@dataclass(frozen=True, slots=True)
class NamedPrediction:
    """A prediction with the names of the model's classes, in the order of their index."""

    prediction: Prediction
    classes: tuple[str, ...]

    def to_dict(self, *, masks: bool = False) -> dict[str, JsonValue]:
        """As `Prediction.to_dict`."""
        return self.prediction.to_dict(self.classes, masks=masks)

    def describe(self) -> str:
        """As `Prediction.describe`."""
        return self.prediction.describe(self.classes)

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As `Prediction.draw`."""
        return self.prediction.draw(image, self.classes)


_TYPES: Registry[type[Prediction]] = Registry("fovea_serving.pipeline.predictions", "a prediction")
register = _TYPES.register
"""Decorator of the prediction of a task. A task has one."""


def prediction_type(task: Task) -> type[Prediction]:
    """What models of a task predict. Raises NotSupported."""
    types = _TYPES.entries()
    if task not in types:
        raise NotSupported(f"nothing predicts for {task}", "spec.task", f"use one of {', '.join(sorted(types))}")
    return types[task]
