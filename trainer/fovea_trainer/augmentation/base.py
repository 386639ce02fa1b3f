"""What a random change of training images is: a transform on an image with its labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from fovea_api.trainingjob import Augmentation
from fovea_serving.pipeline import IGNORE
from fovea_serving.registry import Registry
from numpy.typing import NDArray
from scipy.ndimage import find_objects  # type: ignore[import-untyped]
from torch import Tensor

FILL = 114
"""Grey value of what a change uncovers: that of Letterbox's border."""
MIN_BOX_PIXELS = 2.0
"""Boxes of which less than this is left in width or height are dropped."""
MIN_VISIBILITY = 0.25
"""Boxes of whose area less than this share is left in the image are dropped: what is left need not show the object."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image uint8 [3, H, W] with its labels; of these, what the task has.

    Args:
        boxes: xyxy in pixels, float32 [B, 4]; while it is being changed they may reach beyond the image.
        labels: Class index of each box, int64 [B].
        mask: Class index of each pixel, uint8 [H, W].
        instances: In each pixel 1 + the index of the object there, 0 for none, int16 [L, H, W]; objects that overlap
            lie on different layers.
        label: Class index of the image.
    """

    image: Tensor
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    mask: Tensor | None = None
    label: int = -1
    instances: Tensor | None = None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image as OpenCV has it, [H, W, 3]."""
        return np.ascontiguousarray(self.image.numpy().transpose(1, 2, 0))

    def with_pixels(self, pixels: NDArray[np.uint8]) -> Labelled:
        """The same labels on other pixels [H, W, 3]."""
        return replace(self, image=torch.from_numpy(pixels).permute(2, 0, 1))

    def with_planes(self, change: Callable[[NDArray[Any], int], NDArray[Any]]) -> Labelled:
        """The labels that are pictures changed alike: `change(plane, outside)` gets each, [H, W], and the value of what
        is of no class or object."""
        mask, instances = self.mask, self.instances
        if mask is not None:
            mask = torch.from_numpy(np.ascontiguousarray(change(mask.numpy(), IGNORE)))
        if instances is not None:
            layers = [change(layer, 0) for layer in instances.numpy()]
            instances = torch.from_numpy(np.ascontiguousarray(np.stack(layers)))
        return replace(self, mask=mask, instances=instances)

    def with_objects(self, kept: Tensor) -> Labelled:
        """Some of the objects, bool [B]; the numbers of `instances` follow."""
        instances = self.instances
        if instances is not None:
            numbers = torch.cat([kept.new_zeros(1), kept]).cumsum(0) * torch.cat([kept.new_zeros(1), kept])
            instances = numbers.to(torch.int16)[instances.long()]
        return replace(self, boxes=self.boxes[kept], labels=self.labels[kept], instances=instances)


@dataclass(frozen=True, slots=True)
class Context:
    """What a transform may use beside the image.

    Args:
        random: Random numbers of this draw; the same seed gives the same change.
        epoch: Counted from 0.
        samples: Number of images of the split.
        load: Another image of the split with its labels, prepared, not augmented.
    """

    random: np.random.Generator
    epoch: int
    samples: int
    load: Callable[[int], Labelled]


class Transform(ABC):
    """A random change. A subclass names the recipe's field that it is for, and is made of that field's value."""

    field: ClassVar[str]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def __call__(self, item: Labelled, context: Context) -> Labelled:
        """The changed image with its labels."""


TRANSFORMS: Registry[type[Transform]] = Registry("fovea_trainer.augmentation", "a transform")


def register(transform: type[Transform]) -> type[Transform]:
    """Decorator of a transform. A field of the recipe has one."""
    return TRANSFORMS.register(transform.field)(transform)


class Augment:
    """The augmentations of a recipe, in their order."""

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        transforms = TRANSFORMS.entries()
        self._transforms = [
            transforms[field](options)
            for item in augmentations
            for field in Augmentation.exactly_one
            if (options := getattr(item, field)) is not None
        ]
        self.crops = any(item.random_crop is not None for item in augmentations)
        """Whether a window is taken: then the whole picture is what the first transform gets."""

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        """The changed image and labels. Nobody else's random numbers are touched."""
        if not self._transforms:
            return item
        for transform in self._transforms:
            item = transform(item, context)
        return _visible(item)


def _visible(item: Labelled) -> Labelled:
    """The boxes clipped to the image, without those of which too little is left; around the pixels of their objects
    where these are known."""
    height, width = item.image.shape[-2:]
    limit = item.boxes.new_tensor([width, height, width, height])
    clipped = item.boxes.clamp(min=0).minimum(limit)
    before = item.boxes[:, 2:] - item.boxes[:, :2]
    enough = (clipped[:, 2:] - clipped[:, :2]).prod(1) >= MIN_VISIBILITY * before.prod(1)
    if item.instances is not None:
        clipped = boxes_around(item.instances, len(clipped))
    kept = ((clipped[:, 2:] - clipped[:, :2]) >= MIN_BOX_PIXELS).all(1) & enough
    return replace(item, boxes=clipped).with_objects(kept)


def boxes_around(instances: Tensor, count: int) -> Tensor:
    """xyxy around the pixels of each of `count` objects of layers [L, H, W], float32 [count, 4]; 0 without pixels."""
    boxes = torch.zeros(count, 4)
    for layer in instances.numpy():
        for index, place in enumerate(find_objects(layer, count)):
            if place is not None:
                rows, columns = place
                boxes[index] = torch.tensor([columns.start, rows.start, columns.stop, rows.stop])
    return boxes


def warp(item: Labelled, matrix: NDArray[np.float64]) -> Labelled:
    """The image changed by a matrix [2, 3] that takes old places to new ones; its size stays.

    An object is taken for the ellipse that its box encloses: the box of the rotated box itself would be too large by up
    to 41 % and teach loose boxes (Kalra et al., "Towards Rotation Invariance in Object Detection", 2021).
    """
    height, width = item.image.shape[-2:]
    # Places are of pixels' corners, OpenCV's are of their centres.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    pixels = cv2.warpAffine(item.pixels, centred, (width, height), flags=cv2.INTER_LINEAR, borderValue=(FILL,) * 3)

    def moved(plane: NDArray[Any], outside: int) -> NDArray[Any]:
        return cv2.warpAffine(plane, centred, (width, height), flags=cv2.INTER_NEAREST, borderValue=outside)

    linear, shift = (torch.from_numpy(part).float() for part in (matrix[:, :2], matrix[:, 2]))
    low, high = item.boxes[:, :2], item.boxes[:, 2:]
    centre = (low + high) / 2 @ linear.T + shift
    reach = (((high - low) / 2) ** 2 @ (linear**2).T).sqrt()
    boxes = torch.cat([centre - reach, centre + reach], 1)
    return replace(item.with_pixels(np.asarray(pixels, np.uint8)).with_planes(moved), boxes=boxes)
