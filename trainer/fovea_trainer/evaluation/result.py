"""What an evaluation gives: figures, curves, confusion, a score for each image, an error analysis in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from fovea_api.common import Task
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_trainer.evaluation.bootstrap import Draws, Interval, intervals

NAME_LENGTH = 128
"""Longest name of a metric that a Run's status takes."""
METRICS_PER_SPLIT = 1000
"""Metrics of one split that are kept, the summary first; thousands of classes would not fit into a status."""


class LabelledSample(Protocol):
    """What is read of a sample to evaluate a prediction; see the dataset version."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> int: ...
    @property
    def boxes(self) -> NDArray[np.float32]: ...
    @property
    def labels(self) -> NDArray[np.int32]: ...
    @property
    def difficult(self) -> NDArray[np.bool_]: ...
    @property
    def mask_bytes(self) -> bytes | None: ...
    @property
    def masks(self) -> tuple[bytes, ...]: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each labelled class (row) was predicted as what (column)."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a figure: a class's precision over recall, or accuracy over confidence."""

    kind: str
    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None
    """How many images or objects stand behind each point, where that differs."""


@dataclass(frozen=True, slots=True)
class ImageScore:
    """How well an image was predicted: 0 is all wrong, 1 all right. `index` is its place in the split."""

    index: int
    name: str
    score: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Slice:
    """The primary metric on a part of the split: `by` says by what it was split."""

    by: str
    name: str
    images: int
    value: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """An object that was missed, or a detection where there is none of its class.

    Args:
        kind: Which of the two.
        index: Place of the image in the split.
        image: Its name.
        class_name: Class of the object, or of the detection.
        box: Left, top, right, bottom in pixels of the image.
        score: Of the detection.
    """

    kind: Literal["FalsePositive", "Miss"]
    index: int
    image: str
    class_name: str
    box: tuple[float, float, float, float]
    score: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An exported model's quality on one split.

    `metrics` are named `<split>/<metric>` and `<split>/<metric>/<class>`; `errors` counts a detector's errors by
    kind; `threshold` is its confidence threshold, at which precision, recall and confusion are given.
    """

    task: Task
    split: str
    classes: tuple[str, ...]
    images: int
    primary: str
    metrics: Mapping[str, float]
    confusion: Confusion
    curves: tuple[Curve, ...]
    image_scores: tuple[ImageScore, ...]
    slices: tuple[Slice, ...]
    error_analysis: tuple[str, ...]
    errors: Mapping[str, int]
    threshold: float | None = None
    draws: Mapping[str, Draws] = field(default_factory=dict)
    """Of metrics of the whole split by their short names: their values in the bootstrap's resamples."""
    mistakes: tuple[Mistake, ...] = ()
    """The worst ones of a detector, those with the highest score and the largest objects first."""

    def metric(self, name: str, class_name: str | None = None) -> float | None:
        """A metric of this split by its short name, such as mAP50, or of one class."""
        return self.metrics.get(f"{self.split}/{name}" + (f"/{class_name}" if class_name is not None else ""))

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """Of metrics of the whole split by their short names: the bounds between which 95 % of the draws lie."""
        return intervals(self.draws)

    @property
    def worst(self) -> tuple[ImageScore, ...]:
        """The images, worst first."""
        return tuple(sorted(self.image_scores, key=lambda image: (image.score, image.name)))

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form, for the bundle's `evaluation/<split>.json`."""
        return {
            "task": self.task.value,
            "split": self.split,
            "classes": list(self.classes),
            "images": self.images,
            "primaryMetric": self.primary,
            "metrics": dict(self.metrics),
            "confusion": {
                "rows": list(self.confusion.rows),
                "columns": list(self.confusion.columns),
                "counts": self.confusion.counts.tolist(),
            },
            "curves": [
                {
                    "kind": curve.kind,
                    "name": curve.name,
                    "x": _rounded(curve.x),
                    "y": _rounded(curve.y),
                    "weights": None if curve.weights is None else _rounded(curve.weights),
                }
                for curve in self.curves
            ],
            "imageScores": [
                {"name": image.name, "score": round(image.score, 6), "note": image.note} for image in self.image_scores
            ],
            "slices": [
                {"by": part.by, "name": part.name, "images": part.images, "value": part.value} for part in self.slices
            ],
            "errors": dict(self.errors),
            "threshold": self.threshold,
            "errorAnalysis": list(self.error_analysis),
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "mistakes": [
                {
                    "kind": each.kind,
                    "image": each.image,
                    "class": each.class_name,
                    "score": None if each.score is None else round(each.score, 6),
                    "box": [round(edge, 2) for edge in each.box],
                }
                for each in self.mistakes
            ],
        }


def named(
    split: str,
    classes: Sequence[str],
    summary: Mapping[str, float],
    per_class: Mapping[str, NDArray[np.float64]],
) -> dict[str, float]:
    """Metrics by their full names. Values that are not finite (a class that does not occur) are left out."""
    metrics = {f"{split}/{name}": float(value) for name, value in summary.items() if math.isfinite(value)}
    for metric, values in per_class.items():
        for class_name, value in zip(classes, values, strict=True):
            name = f"{split}/{metric}/{class_name}"
            fits = len(name) <= NAME_LENGTH and "/" not in class_name and len(metrics) < METRICS_PER_SPLIT
            if fits and math.isfinite(value):
                metrics[name] = float(value)
    return metrics


def slices_of(
    columns: Sequence[Mapping[str, str]], slices: Sequence[str], primary: Callable[[Sequence[int]], float]
) -> tuple[Slice, ...]:
    """The primary metric on parts of a split.

    Args:
        columns: For each image the values by which it can be sliced, such as its source.
        slices: Names of the columns that are asked for.
        primary: The metric on the images of these indices.
    """
    parts = []
    for by in [name for name in ("source", "group") if name in slices]:
        for value in sorted({image[by] for image in columns}):
            inside = [index for index, image in enumerate(columns) if image[by] == value]
            parts.append(Slice(by, value, len(inside), primary(inside)))
    return tuple(parts)


def _rounded(values: NDArray[np.float64]) -> list[JsonValue]:
    return [round(float(value), 6) for value in values]
