"""A class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import IGNORE, Geometry, Prediction, Preprocess, decode_mask
from fovea_serving.pipeline import SemanticSegmentation as MaskPrediction
from numpy.typing import NDArray
from torch import Tensor

from fovea_trainer.data.version import Split
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.report.base import Image
from fovea_trainer.tasks.base import EvaluationRequest, Labelled, Pairs, Sample, StoredSample, TaskDefinition
from fovea_trainer.tasks.epoch_metrics import EpochMetrics
from fovea_trainer.tasks.registry import register
from fovea_trainer.tasks.semantic_segmentation.evaluation import ConfusionMetrics, evaluate_segmentation
from fovea_trainer.tasks.semantic_segmentation.learnable import check_masks
from fovea_trainer.tasks.semantic_segmentation.report import draw_labels, side_by_side
from fovea_trainer.tasks.semantic_segmentation.targets import MaskTargets


@register
class SemanticSegmentation(TaskDefinition):
    """Semantic segmentation with masks of class indices."""

    task = Task.SEMANTIC_SEGMENTATION
    parity_tolerance = {"logits": 1e-3}
    informative_output = "logits"
    headline_metrics = ("dice", "iou")
    unit = "pixels"

    def annotate(self, sample: Sample, image: Tensor, preprocess: Preprocess, geometry: Geometry) -> Labelled:
        return Labelled(image, mask=torch.from_numpy(preprocess.fit_mask(_mask(sample)).copy()))

    def collate(self, items: Sequence[Labelled]) -> MaskTargets:
        return MaskTargets(torch.stack([item.mask for item in items if item.mask is not None]))

    def class_counts(self, sample: Sample, num_classes: int) -> NDArray[np.int64]:
        mask = _mask(sample)
        return np.bincount(mask[mask != IGNORE], minlength=num_classes)[:num_classes]

    def check_learnable(self, train: Split, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
        return check_masks(train, classes, preprocess)

    def epoch_metrics(self, num_classes: int) -> EpochMetrics:
        return ConfusionMetrics(num_classes)

    def evaluate(self, pairs: Pairs, request: EvaluationRequest) -> EvaluationResult:
        return evaluate_segmentation(pairs, request)

    def right_answer(self, sample: StoredSample, num_classes: int) -> Prediction:
        return MaskPrediction(_mask(sample))

    def draw_labels(self, sample: StoredSample, classes: Sequence[str]) -> Image:
        return draw_labels(sample)

    def draw_prediction(
        self, sample: StoredSample, prediction: Prediction, evaluation: EvaluationResult
    ) -> tuple[Image, int]:
        return side_by_side(sample, prediction), 500

    def how_to_read(self, evaluation: EvaluationResult) -> str:
        return f"Labels on the left, prediction on the right; {evaluation.classes[0]} is left clear."


def _mask(sample: Sample) -> NDArray[np.uint8]:
    if sample.mask_bytes is None:
        raise InvalidInput("the image has no mask", sample.name, "build the dataset again")
    return decode_mask(sample.mask_bytes, sample.name)
