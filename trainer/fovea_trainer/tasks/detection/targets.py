"""Ground truth of detection, as its networks are trained with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from fovea_serving.pipeline import Geometry
from numpy.typing import NDArray
from torch import Tensor

from fovea_trainer.evaluation.result import LabelledSample
from fovea_trainer.tasks.detection.matching import ground_truth_of

MIN_BOX_PIXELS = 1
"""Boxes of which less is in the input, in width or height, are left out of training."""


@dataclass(frozen=True, slots=True)
class BoxTargets:
    """The objects of each image.

    Args:
        boxes: For each image xyxy in input pixels, float32 [B, 4].
        labels: For each image class indices, int64 [B].
    """

    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    def to(self, device: torch.device) -> BoxTargets:
        """The same on a device."""
        if device.type == "cpu":
            return self
        counts = [len(labels) for labels in self.labels]
        # In one copy, and from pinned memory: many small ones would each make the CPU wait.
        boxes, labels = (torch.cat(part).pin_memory() for part in (self.boxes, self.labels))
        boxes, labels = (part.to(device, non_blocking=True) for part in (boxes, labels))
        return BoxTargets(torch.split(boxes, counts), torch.split(labels, counts))

    def pin_memory(self) -> BoxTargets:
        """The same: `to` does it."""
        return self


def objects_in_input(sample: LabelledSample, geometry: Geometry) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The objects that are learned from: boxes xyxy in input pixels, [B, 4], clipped to it, and their labels [B].

    Crowds and difficult objects are none of them, as in detectron2 and in torchvision's reference.
    """
    boxes, kept = boxes_in_input(sample, geometry)
    return boxes[kept], ground_truth_of(sample).labels[kept]


def boxes_in_input(sample: LabelledSample, geometry: Geometry) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """All boxes of a sample xyxy in input pixels, [N, 4], clipped to it; and which objects are learned from, [N]."""
    objects = ground_truth_of(sample)
    width, height = geometry.input
    boxes = np.clip(geometry.to_input(objects.boxes), 0, np.array([width, height, width, height], np.float32))
    return boxes, ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_PIXELS).all(1) & ~objects.difficult
