"""Ground truth of instance segmentation, as its networks are trained with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fovea_serving.pipeline.run_lengths import bounds, decode_part, encoded
from numpy.typing import NDArray
from torch import Tensor

from fovea_trainer.tasks.detection.targets import BoxTargets


@dataclass(frozen=True, slots=True)
class InstanceTargets(BoxTargets):
    """The objects of each image.

    Args:
        instances: For each image int16 [L, H, W]: in each pixel 1 + the index of the object there, 0 for none. Objects
            that overlap lie on different layers; of L layers there is at least one.
    """

    instances: tuple[Tensor, ...]

    def to(self, device: torch.device) -> InstanceTargets:
        """The same on a device."""
        objects = BoxTargets.to(self, device)
        instances = tuple(layers.to(device, non_blocking=True) for layers in self.instances)
        return InstanceTargets(objects.boxes, objects.labels, instances)

    def pin_memory(self) -> InstanceTargets:
        """The same with the layers in page-locked memory."""
        return InstanceTargets(self.boxes, self.labels, tuple(layers.pin_memory() for layers in self.instances))

    def masks(self, image: int, objects: Tensor) -> Tensor:
        """The pixels of some objects of an image, bool [K, H, W], by their indices [K]."""
        return (self.instances[image][None] == (objects + 1)[:, None, None, None]).any(1)


def instance_layers(masks: Sequence[bytes], size: tuple[int, int]) -> list[NDArray[np.int16]]:
    """Objects on as few layers [height, width] as hold them without overlap, numbered from 1 in their order.

    Args:
        masks: COCO's compressed run lengths of each.
        size: Width and height of the image in pixels.
    """
    width, height = size
    layers = [np.zeros((height, width), np.int16)]
    boxes = bounds([encoded(counts, width, height) for counts in masks]).astype(int).tolist()
    for number, (counts, (left, top, right, bottom)) in enumerate(zip(masks, boxes, strict=True), 1):
        window = (slice(top, bottom), slice(left, right))
        part = decode_part(counts, (left, top, right, bottom), height)
        free = (layer for layer in layers if not layer[window][part].any())
        layer = next(free, None)
        if layer is None:
            layer = np.zeros((height, width), np.int16)
            layers.append(layer)
        layer[window][part] = number
    return layers
