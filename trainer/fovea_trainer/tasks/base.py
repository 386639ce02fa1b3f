"""What a task says about itself to training, evaluation, export and report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import torch
from fovea_api.common import Task
from fovea_api.metrics import BY_CLASS
from fovea_serving.pipeline import Geometry, Prediction, Preprocess
from numpy.typing import NDArray
from torch import Tensor

from fovea_trainer.augmentation import Labelled
from fovea_trainer.data.version import Sample as StoredSample
from fovea_trainer.data.version import Split
from fovea_trainer.evaluation.result import EvaluationResult, ImageScore, LabelledSample
from fovea_trainer.tasks.epoch_metrics import EpochMetrics

if TYPE_CHECKING:
    from fovea_trainer.report.base import Image, Section


class Sample(LabelledSample, Protocol):
    """What training reads of a stored sample; see the dataset version."""

    @property
    def image_bytes(self) -> bytes: ...


class Targets(Protocol):
    """Ground truth of a batch of images, in the form that the task's networks are trained with."""

    def to(self, device: torch.device) -> Self:
        """The same on a device; from pinned memory without waiting for the copy."""
        ...

    def pin_memory(self) -> Self:
        """The same in page-locked memory; the data loader asks for it."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What is to be evaluated.

    Args:
        classes: Names of the classes in the order of their index.
        split: Name of the split; the metrics are named after it.
        slices: What the primary metric is broken down by: class, objectSize, source, group.
        primary: The metric of the slices and of the headline, such as mAP50.
        threshold: The model's operating point: the score from which predictions count.
    """

    classes: tuple[str, ...]
    split: str
    slices: tuple[str, ...]
    primary: str
    threshold: float


Pairs = Iterator[tuple[StoredSample, Prediction]]
"""Samples with what the model predicts for them, in the order of the split."""


class TaskDefinition(ABC):
    """All that depends on what is predicted. A package under `tasks` registers one.

    Attributes:
        task: Its name in the API.
        parity_tolerance: For each output of the network the absolute difference that an exported file may have.
        informative_output: The output that must differ between images, or equality would prove nothing.
        headline_metrics: The metrics at the head of the report.
        unit: What the rows of the confusion count, in the plural.
    """

    task: Task
    parity_tolerance: Mapping[str, float]
    informative_output: str
    headline_metrics: tuple[str, ...]
    unit: str

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The metrics of single classes."""
        return BY_CLASS[self.task]

    # --- Training ---

    @abstractmethod
    def annotate(self, sample: Sample, image: Tensor, preprocess: Preprocess, geometry: Geometry) -> Labelled:
        """The prepared image, uint8 [3, H, W], with the sample's labels in its pixels."""

    @abstractmethod
    def collate(self, items: Sequence[Labelled]) -> Targets:
        """The targets of a batch."""

    @abstractmethod
    def class_counts(self, sample: Sample, num_classes: int) -> NDArray[np.int64]:
        """Annotations of each class in an image, [C]: images, objects or pixels. They balance training."""

    @abstractmethod
    def check_learnable(self, train: Split, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
        """What a report should say about the train split; raises InvalidInput where there is nothing to learn."""

    # --- Evaluation ---

    @abstractmethod
    def epoch_metrics(self, num_classes: int) -> EpochMetrics:
        """The metrics of an epoch, as `evaluate` gives them, without what takes longer; of no image yet."""

    def operating_point(self, pairs: Pairs) -> float | None:
        """The score from which predictions count that suits these best; None: the task knows no scores."""
        return None

    @abstractmethod
    def evaluate(self, pairs: Pairs, request: EvaluationRequest) -> EvaluationResult:
        """The quality of the predictions of a split."""

    @abstractmethod
    def right_answer(self, sample: StoredSample, num_classes: int) -> Prediction:
        """The labels of a sample in the form of a prediction."""

    # --- Report ---

    def sections(self, evaluation: EvaluationResult) -> list[Section]:
        """Sections of the report beside those that all tasks have."""
        return []

    def image_sections(self, evaluation: EvaluationResult, samples: Sequence[StoredSample]) -> list[Section]:
        """Sections with pieces of the split's images."""
        return []

    def confusion_note(self, evaluation: EvaluationResult) -> str:
        """A sentence on how the confusion is counted, where there is more to say than that."""
        return ""

    @abstractmethod
    def draw_labels(self, sample: StoredSample, classes: Sequence[str]) -> Image:
        """The image with its labels drawn."""

    @abstractmethod
    def draw_prediction(
        self, sample: StoredSample, prediction: Prediction, evaluation: EvaluationResult
    ) -> tuple[Image, int]:
        """The image with what is labelled and what is predicted, and its width in the report in CSS pixels."""

    @abstractmethod
    def how_to_read(self, evaluation: EvaluationResult) -> str:
        """A sentence on the pictures of `draw_prediction` and the score of an image."""


__all__ = [
    "EvaluationRequest",
    "ImageScore",
    "Labelled",
    "LabelledSample",
    "Pairs",
    "Sample",
    "StoredSample",
    "Targets",
    "TaskDefinition",
]
