"""The objects of an image, compared with detections pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from fovea_api.errors import CorruptData
from fovea_serving.pipeline import Detection, InstanceSegmentation
from fovea_serving.pipeline.run_lengths import Encoded, areas, encoded, overlap
from numpy.typing import NDArray

from fovea_trainer.evaluation.result import LabelledSample
from fovea_trainer.tasks.detection.matching import GroundTruth, ground_truth_of


@dataclass(frozen=True, slots=True)
class OutlinedObjects(GroundTruth):
    """Objects with their pixels.

    Args:
        masks: COCO's compressed run lengths of each.
        size: Width and height of the image in pixels.
    """

    masks: tuple[bytes, ...]
    size: tuple[int, int]

    @property
    def encoded(self) -> list[Encoded]:
        """The masks as pycocotools takes them."""
        return [encoded(counts, *self.size) for counts in self.masks]

    def overlap(self, detections: Detection) -> NDArray[np.float64]:
        """Of the pixels."""
        assert isinstance(detections, InstanceSegmentation)
        return overlap(detections.encoded, self.encoded)

    def image(self) -> dict[str, int]:
        return {"width": self.size[0], "height": self.size[1]}

    def annotations(self) -> list[dict[str, Any]]:
        masks = self.encoded
        return [
            {"segmentation": mask, "area": area, "category_id": label, "iscrowd": int(difficult)}
            for mask, area, label, difficult in zip(
                masks, areas(masks).tolist(), self.labels.tolist(), self.difficult, strict=True
            )
        ]

    def results(self, detections: Detection) -> list[dict[str, Any]]:
        assert isinstance(detections, InstanceSegmentation)
        return [
            {"segmentation": mask, "category_id": label, "score": score}
            for mask, label, score in zip(
                detections.encoded, detections.labels.tolist(), detections.scores.tolist(), strict=True
            )
        ]


def outlined_objects_of(sample: LabelledSample) -> OutlinedObjects:
    """The objects of a sample. Raises CorruptData where it was not stored for this task."""
    objects = ground_truth_of(sample)
    if len(sample.masks) != len(objects.labels):
        words = f"the image has {len(objects.labels)} objects and {len(sample.masks)} masks"
        raise CorruptData(words, sample.name, "build the dataset version anew")
    size = (sample.width, sample.height)
    return OutlinedObjects(objects.boxes, objects.labels, objects.difficult, sample.masks, size)
