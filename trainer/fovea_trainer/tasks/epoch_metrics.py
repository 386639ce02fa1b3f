"""The metrics of an epoch in the making, as torchmetrics has them: updated image by image, merged, computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar

from fovea_serving.pipeline import Prediction

from fovea_trainer.evaluation.result import LabelledSample

T = TypeVar("T")


class EpochMetrics(ABC):
    """Metrics of a split whose images several workers predict.

    What it holds is sent to all of them: counts, scores and boxes. Of masks it holds the compressed run lengths, about
    a hundred bytes an object, and never the pixels.
    """

    @abstractmethod
    def update(self, index: int, sample: LabelledSample, prediction: Prediction) -> None:
        """Takes in an image; `index`: its place in the split."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Takes in what another worker has of the same split."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics by short name, whichever worker had which image."""


class CollectedMetrics(EpochMetrics, Generic[T]):
    """Metrics that need the predictions of all images at once.

    Args:
        ground_truth: What the summary reads of a sample.
        summary: The metrics by short name, of ground truths and predictions in the order of the split.
    """

    def __init__(
        self,
        ground_truth: Callable[[LabelledSample], T],
        summary: Callable[[Sequence[T], Sequence[Prediction]], dict[str, float]],
    ) -> None:
        self._ground_truth, self._summary = ground_truth, summary
        self._images: dict[int, tuple[T, Prediction]] = {}

    def update(self, index: int, sample: LabelledSample, prediction: Prediction) -> None:
        self._images[index] = self._ground_truth(sample), prediction

    def merge(self, other: Self) -> None:
        self._images |= other._images

    def compute(self) -> dict[str, float]:
        images = [self._images[index] for index in sorted(self._images)]
        return self._summary([expected for expected, _ in images], [predicted for _, predicted in images])
