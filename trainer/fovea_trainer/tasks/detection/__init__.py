"""Objects with boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Detection as BoxPrediction
from fovea_serving.pipeline import Geometry, Prediction, Preprocess
from numpy.typing import NDArray
from torch import Tensor

from fovea_trainer.data.version import Split
from fovea_trainer.evaluation.result import EvaluationResult, LabelledSample
from fovea_trainer.report.base import Image, Section
from fovea_trainer.tasks.base import EvaluationRequest, Labelled, Pairs, Sample, StoredSample, TaskDefinition
from fovea_trainer.tasks.detection.evaluation import detection_summary, evaluate_detection, operating_point
from fovea_trainer.tasks.detection.learnable import check_objects
from fovea_trainer.tasks.detection.matching import GroundTruth, ground_truth_of
from fovea_trainer.tasks.detection.report import (
    draw_labels,
    error_section,
    mistakes,
    precision_recall,
    side_by_side,
    threshold_section,
)
from fovea_trainer.tasks.detection.targets import BoxTargets, objects_in_input
from fovea_trainer.tasks.epoch_metrics import CollectedMetrics, EpochMetrics
from fovea_trainer.tasks.registry import register


@register
class Detection(TaskDefinition):
    """Detection of objects with axis-aligned boxes."""

    task = Task.DETECTION
    parity_tolerance = {"boxes": 0.05, "scores": 1e-3}  # boxes in pixels of the input
    informative_output = "scores"  # boxes of anchors may hardly move
    headline_metrics = ("mAP50", "mAP")
    unit = "objects"

    def ground_truth(self, sample: LabelledSample) -> GroundTruth:
        """The objects of a sample."""
        return ground_truth_of(sample)

    def annotate(self, sample: Sample, image: Tensor, preprocess: Preprocess, geometry: Geometry) -> Labelled:
        boxes, labels = objects_in_input(sample, geometry)
        return Labelled(image, torch.from_numpy(boxes), torch.from_numpy(labels))

    def collate(self, items: Sequence[Labelled]) -> BoxTargets:
        return BoxTargets(tuple(item.boxes for item in items), tuple(item.labels for item in items))

    def class_counts(self, sample: Sample, num_classes: int) -> NDArray[np.int64]:
        objects = ground_truth_of(sample)
        return np.bincount(objects.labels[~objects.difficult], minlength=num_classes)

    def check_learnable(self, train: Split, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
        return check_objects(train, preprocess)

    def epoch_metrics(self, num_classes: int) -> EpochMetrics:
        return CollectedMetrics(self.ground_truth, detection_summary)

    def operating_point(self, pairs: Pairs) -> float | None:
        return operating_point(pairs, self.ground_truth)

    def evaluate(self, pairs: Pairs, request: EvaluationRequest) -> EvaluationResult:
        return evaluate_detection(pairs, request, self.task, self.ground_truth)

    def right_answer(self, sample: StoredSample, num_classes: int) -> Prediction:
        objects = ground_truth_of(sample)
        return BoxPrediction(objects.boxes, objects.labels, np.ones(len(objects.labels), np.float32))

    def sections(self, evaluation: EvaluationResult) -> list[Section]:
        return [*threshold_section(evaluation), *precision_recall(evaluation), *error_section(evaluation)]

    def image_sections(self, evaluation: EvaluationResult, samples: Sequence[StoredSample]) -> list[Section]:
        return mistakes(evaluation, samples)

    def confusion_note(self, evaluation: EvaluationResult) -> str:
        return f"Counted from a score of {evaluation.threshold:.2f} on, the model's confidence threshold."

    def draw_labels(self, sample: StoredSample, classes: Sequence[str]) -> Image:
        return draw_labels(sample, classes)

    def draw_prediction(
        self, sample: StoredSample, prediction: Prediction, evaluation: EvaluationResult
    ) -> tuple[Image, int]:
        return side_by_side(sample, prediction, evaluation), 500

    def how_to_read(self, evaluation: EvaluationResult) -> str:
        return "Labels on the left, detections on the right."
