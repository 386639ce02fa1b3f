"""One class for an image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from fovea_api.common import Task
from fovea_serving.pipeline import Classification as ClassPrediction
from fovea_serving.pipeline import Geometry, Prediction, Preprocess
from numpy.typing import NDArray
from torch import Tensor

from fovea_trainer.data.version import Split
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.report.base import Image, Section
from fovea_trainer.tasks.base import EvaluationRequest, Labelled, Pairs, Sample, StoredSample, TaskDefinition
from fovea_trainer.tasks.classification.evaluation import classification_summary, evaluate_classification, label_of
from fovea_trainer.tasks.classification.learnable import check_classes
from fovea_trainer.tasks.classification.report import calibration, labelled_image
from fovea_trainer.tasks.classification.targets import ClassTargets
from fovea_trainer.tasks.epoch_metrics import CollectedMetrics, EpochMetrics
from fovea_trainer.tasks.registry import register


@register
class Classification(TaskDefinition):
    """Classification of whole images."""

    task = Task.CLASSIFICATION
    parity_tolerance = {"logits": 1e-3}
    informative_output = "logits"
    headline_metrics = ("accuracy", "f1")
    unit = "images"

    def annotate(self, sample: Sample, image: Tensor, preprocess: Preprocess, geometry: Geometry) -> Labelled:
        return Labelled(image, classes={sample.label: 1.0})

    def collate(self, items: Sequence[Labelled]) -> ClassTargets:
        return ClassTargets.of([item.classes for item in items])

    def class_counts(self, sample: Sample, num_classes: int) -> NDArray[np.int64]:
        return np.bincount([sample.label], minlength=num_classes)

    def check_learnable(self, train: Split, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
        check_classes(train, classes)
        return ()

    def epoch_metrics(self, num_classes: int) -> EpochMetrics:
        return CollectedMetrics(label_of, partial(classification_summary, classes=num_classes))

    def evaluate(self, pairs: Pairs, request: EvaluationRequest) -> EvaluationResult:
        return evaluate_classification(pairs, request)

    def right_answer(self, sample: StoredSample, num_classes: int) -> Prediction:
        return ClassPrediction(np.eye(num_classes, dtype=np.float32)[sample.label], 1)

    def sections(self, evaluation: EvaluationResult) -> list[Section]:
        return calibration(evaluation)

    def draw_labels(self, sample: StoredSample, classes: Sequence[str]) -> Image:
        return labelled_image(sample)

    def draw_prediction(
        self, sample: StoredSample, prediction: Prediction, evaluation: EvaluationResult
    ) -> tuple[Image, int]:
        return labelled_image(sample), 160

    def how_to_read(self, evaluation: EvaluationResult) -> str:
        return "The score is the probability given to the right class."
