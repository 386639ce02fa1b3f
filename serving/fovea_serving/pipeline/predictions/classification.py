"""One class for an image."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_serving.pipeline.drawing import color_of, write_label
from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.predictions.base import DecodingSettings, Prediction, labelled, number, register

IN_WORDS = 3
"""Classes that a description names at most."""


@register(Task.CLASSIFICATION)
@dataclass(frozen=True, slots=True)
class Classification(Prediction):
    """One class for the image. `probabilities` is `[C]` and sums to 1; `top_k` classes are reported."""

    outputs = ("logits",)
    tensors = {"probabilities": ("FP32", (-1, -1))}

    probabilities: NDArray[np.float32]
    top_k: int = 5

    @classmethod
    def decode(
        cls, outputs: Mapping[str, NDArray[np.float32]], geometries: Sequence[Geometry], settings: DecodingSettings
    ) -> list[Classification]:
        """From `logits` `[N, C]`."""
        return [cls(row, settings.top_k) for row in softmax(outputs["logits"])]

    @classmethod
    def from_dict(
        cls, content: Mapping[str, JsonValue], classes: Sequence[str], size: tuple[int, int]
    ) -> Classification:
        """From `classes`, each with `class` and perhaps `score`; one without is certain. The rest has probability 0."""
        found = list(labelled(content.get("classes"), "classes", classes))
        if not found:
            raise InvalidInput("no class is given", "classes", "name the class of the image")
        probabilities = np.zeros(len(classes), np.float32)
        for label, part in found:
            probabilities[label] = number(part.get("score", 1.0), "score")
        return cls(probabilities, len(found))

    @property
    def label(self) -> int:
        """Index of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return float(self.probabilities.max())

    def top(self, k: int) -> list[tuple[int, float]]:
        """The k most probable classes as (index, probability), best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(int(index), float(self.probabilities[index])) for index in order]

    @classmethod
    def stack(cls, predictions: Sequence[Classification]) -> dict[str, NDArray[np.generic]]:
        """`probabilities` `[N, C]`."""
        return {"probabilities": np.stack([each.probabilities for each in predictions]).astype(np.float32)}

    @property
    def confidence(self) -> float:
        return self.score

    def counts(self) -> dict[int, int]:
        return {self.label: 1}

    def of(self, labels: Collection[int]) -> Classification:
        """The others have no probability any more, and are not reported."""
        kept = np.isin(np.arange(len(self.probabilities)), list(labels))
        return Classification(np.where(kept, self.probabilities, 0), min(self.top_k, int(kept.sum())))

    def fingerprint(self) -> NDArray[np.float64]:
        """The probabilities, in the order of the classes."""
        return self.probabilities.astype(np.float64)

    def agreement(self, other: Classification, index: NDArray[np.int64]) -> float:
        """1 if the most probable class is the same."""
        return float(index[other.label] == self.label)

    def to_dict(self, classes: Sequence[str], *, masks: bool = False) -> dict[str, JsonValue]:
        """`classes`: the most probable ones with their probability as `score`, best first."""
        return {
            "classes": [{"class": classes[label], "score": round(score, 6)} for label, score in self.top(self.top_k)]
        }

    def describe(self, classes: Sequence[str]) -> str:
        return ", ".join(f"{classes[label]} {score:.2f}" for label, score in self.top(IN_WORDS))

    def draw(self, image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
        canvas = image.copy()
        write_label(canvas, f"{classes[self.label]} {self.score:.2f}", (0, 0), color_of(self.label))
        return canvas


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities
