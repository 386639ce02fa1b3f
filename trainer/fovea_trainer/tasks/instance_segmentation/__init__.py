"""Objects with the pixels of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Geometry, Prediction, Preprocess
from fovea_serving.pipeline import InstanceSegmentation as Instances
from torch import Tensor

from fovea_trainer.evaluation.result import EvaluationResult, LabelledSample
from fovea_trainer.report.base import Image
from fovea_trainer.tasks.base import Labelled, Sample, StoredSample
from fovea_trainer.tasks.detection import Detection
from fovea_trainer.tasks.detection.targets import boxes_in_input
from fovea_trainer.tasks.instance_segmentation.ground_truth import OutlinedObjects, outlined_objects_of
from fovea_trainer.tasks.instance_segmentation.report import draw_labels, side_by_side
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets, instance_layers
from fovea_trainer.tasks.registry import register


@register
class InstanceSegmentation(Detection):
    """Detection of objects whose pixels are found too; how much two objects overlap is decided by these.

    So mAP, precision, recall, confusion and errors are those of the masks, and all of a detector's evaluation and
    report holds.
    """

    task = Task.INSTANCE_SEGMENTATION
    parity_tolerance = {**Detection.parity_tolerance, "masks": 2e-3}

    def ground_truth(self, sample: LabelledSample) -> OutlinedObjects:
        return outlined_objects_of(sample)

    def annotate(self, sample: Sample, image: Tensor, preprocess: Preprocess, geometry: Geometry) -> Labelled:
        boxes, kept = boxes_in_input(sample, geometry)
        objects = self.ground_truth(sample)
        layers = instance_layers([objects.masks[index] for index in np.flatnonzero(kept)], objects.size)
        return Labelled(
            image,
            torch.from_numpy(boxes[kept]),
            torch.from_numpy(objects.labels[kept]),
            instances=torch.from_numpy(np.stack([preprocess.fit_instances(layer) for layer in layers])),
        )

    def collate(self, items: Sequence[Labelled]) -> InstanceTargets:
        return InstanceTargets(
            tuple(item.boxes for item in items),
            tuple(item.labels for item in items),
            tuple(item.instances for item in items if item.instances is not None),
        )

    def right_answer(self, sample: StoredSample, num_classes: int) -> Prediction:
        objects = self.ground_truth(sample)
        scores = np.ones(len(objects.labels), np.float32)
        return Instances.of_masks(objects.masks, objects.labels, scores, objects.size)

    def draw_labels(self, sample: StoredSample, classes: Sequence[str]) -> Image:
        return draw_labels(sample)

    def draw_prediction(
        self, sample: StoredSample, prediction: Prediction, evaluation: EvaluationResult
    ) -> tuple[Image, int]:
        return side_by_side(sample, prediction, evaluation), 500
