"""What a random change of training images is: a transform on an image with its labels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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


ATTEMPTS = 10
"""Parts of an image that are drawn until one fits."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image uint8 [3, H, W] with its labels; of these, what the task has.

    Args:
        boxes: xyxy in pixels, float32 [B, 4]; while it is being changed they may reach beyond the image.
        labels: Class index of each box, int64 [B].
        mask: Class index of each pixel, uint8 [H, W].
        classes: Class indices of the image with their shares, which add up to 1: one, unless images are mixed.
        instances: In each pixel 1 + the index of the object there, 0 for none, int16 [L, H, W]; objects that overlap
            lie on different layers.
    """

    image: Tensor
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    mask: Tensor | None = None
    classes: Mapping[int, float] = field(default_factory=dict)
    instances: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[-1], self.image.shape[-2]

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
class Step:
    """The step of a training that an image is drawn for.

    Args:
        epoch: Counted from 0.
        seed: The same for all images of the step, over all workers.
        pool: Indices of images that may be combined with the image; without one, nothing is.
        size: Width and height of the network's input in pixels.
        load: An image of the split by its index, with its labels, prepared, not augmented.
    """

    epoch: int
    seed: int
    pool: Sequence[int]
    size: tuple[int, int]
    load: Callable[[int], Labelled]


@dataclass(frozen=True, slots=True)
class Context:
    """What a transform may use beside the image.

    Args:
        random: Random numbers of this draw; the same seed gives the same change.
        step: Where in the training that is.
        epochs: Epochs of the whole training.
        multiple: Sides of the network's input are multiples of this, in pixels.
        other: Draws another image of the pool, changed by the transforms before this one.
    """

    random: np.random.Generator
    step: Step
    epochs: int
    multiple: int
    other: Callable[[], Labelled]


class Transform(ABC):
    """A random change. A subclass names the recipe's field that it is for, and is made of that field's value.

    Attributes:
        whole: Scale, in that of the input, at which it takes the whole picture, without border or cut; 0: it takes the
            picture at the input size.
        combines: Whether it uses other images.
    """

    field: ClassVar[str]
    whole: ClassVar[float] = 0.0
    combines: ClassVar[bool] = False

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def __call__(self, item: Labelled, context: Context) -> Labelled:
        """The changed image with its labels."""

    def applies(self, context: Context) -> bool:
        """Whether this image is changed, which is drawn by the option `probability`."""
        return bool(context.random.random() < self.options.probability)


class Combination(Transform):
    """A transform that combines images; the last epochs may go without it."""

    combines = True

    def applies(self, context: Context) -> bool:
        closed = self.options.close_last_epochs
        last = context.epochs - (context.epochs // 10 if closed is None else closed)
        return super().applies(context) and context.step.epoch < last and len(context.step.pool) > 0


TRANSFORMS: Registry[type[Transform]] = Registry("fovea_trainer.augmentation", "a transform")


def register(transform: type[Transform]) -> type[Transform]:
    """Decorator of a transform. A field of the recipe has one."""
    return TRANSFORMS.register(transform.field)(transform)


class Augment:
    """The augmentations of a recipe, in their order.

    Args:
        augmentations: As in the recipe.
        epochs: Of the whole training.
        multiple: Sides of the network's input are multiples of this, in pixels.
    """

    def __init__(self, augmentations: Sequence[Augmentation], epochs: int = 1, multiple: int = 1) -> None:
        transforms = TRANSFORMS.entries()
        self._transforms = [
            transforms[field](options)
            for item in augmentations
            for field in Augmentation.exactly_one
            if (options := getattr(item, field)) is not None
        ]
        self._epochs, self._multiple = epochs, multiple
        self.whole = max((transform.whole for transform in self._transforms), default=0.0)
        """Scale, in that of the input, at which the first transform takes the whole picture; 0: at the input size."""
        self.combines = any(transform.combines for transform in self._transforms)
        """Whether other images are needed."""

    def __call__(self, item: Labelled, seed: int, step: Step) -> Labelled:
        """The changed image and labels: a function of these arguments. Nobody else's random numbers are touched."""
        if not self._transforms:
            return item
        return self._changed(item, np.random.default_rng(seed), step, len(self._transforms))

    def _changed(self, item: Labelled, random: np.random.Generator, step: Step, count: int) -> Labelled:
        """The image changed by the first transforms."""
        for number, transform in enumerate(self._transforms[:count]):
            other = partial(self._other, random, step, number)
            item = transform(item, Context(random, step, self._epochs, self._multiple, other))
        return visible(item)

    def _other(self, random: np.random.Generator, step: Step, count: int) -> Labelled:
        item = step.load(int(random.choice(step.pool)))
        return self._changed(item, np.random.default_rng(random.integers(2**63)), step, count)


def visible(item: Labelled) -> Labelled:
    """The boxes clipped to the image, without those of which too little is left; around the pixels of their objects
    where these are known."""
    limit = item.boxes.new_tensor(item.size * 2)
    clipped = item.boxes.clamp(min=0).minimum(limit)
    before = item.boxes[:, 2:] - item.boxes[:, :2]
    enough = (clipped[:, 2:] - clipped[:, :2]).prod(1) >= MIN_VISIBILITY * before.prod(1)
    if item.instances is not None:
        clipped = boxes_around(item.instances, len(clipped))
    kept = ((clipped[:, 2:] - clipped[:, :2]) >= MIN_BOX_PIXELS).all(1) & enough
    return replace(item, boxes=clipped).with_objects(kept)


def drawn_part(
    size: tuple[int, int], options: Any, random: np.random.Generator, most: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """A part of random area and aspect ratio anywhere in an image: left, top, width and height; None: none that was
    drawn fits. The distribution is that of torchvision's RandomResizedCrop and RandomErasing.

    Args:
        size: Width and height of the image.
        options: Least and most of area (in that of the image) and of width over height.
        random: Random numbers.
        most: Width and height that the part may have.
    """
    across, down = size
    for _ in range(ATTEMPTS):
        area = across * down * random.uniform(options.min_area, options.max_area)
        ratio = math.exp(random.uniform(math.log(options.min_ratio), math.log(options.max_ratio)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= most[0] and 0 < height <= most[1]:
            return int(random.integers(across - width + 1)), int(random.integers(down - height + 1)), width, height
    return None


def aligned(images: Sequence[Labelled]) -> list[Tensor]:
    """The layers of several images as they are in one that has the objects of all, image after image: numbered on, and
    of one number of layers. None where objects have no pixels."""
    most = max((len(item.instances) for item in images if item.instances is not None), default=0)
    first, result = 0, list[Tensor]()
    for item in images:
        if item.instances is not None:
            layers = torch.zeros(most, *item.instances.shape[1:], dtype=torch.int16)
            layers[: len(item.instances)] = torch.where(item.instances > 0, item.instances + first, 0)
            result.append(layers)
        first += len(item.labels)
    return result


def boxes_around(instances: Tensor, count: int) -> Tensor:
    """xyxy around the pixels of each of `count` objects of layers [L, H, W], float32 [count, 4]; 0 without pixels."""
    boxes = torch.zeros(count, 4)
    for layer in instances.numpy():
        for index, place in enumerate(find_objects(layer, count)):
            if place is not None:
                rows, columns = place
                boxes[index] = torch.tensor([columns.start, rows.start, columns.stop, rows.stop])
    return boxes


def warp(item: Labelled, matrix: NDArray[np.float64], size: tuple[int, int] | None = None) -> Labelled:
    """The image changed by a matrix [2, 3] that takes old places to new ones.

    An object is taken for the ellipse that its box encloses: the box of the rotated box itself would be too large by up
    to 41 % and teach loose boxes (Kalra et al., "Towards Rotation Invariance in Object Detection", 2021).

    Args:
        item: The image.
        matrix: Of places in pixels, x before y.
        size: Width and height of the result; None: the image's own.
    """
    size = item.size if size is None else size
    # Places are of pixels' corners, OpenCV's are of their centres.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    pixels = cv2.warpAffine(item.pixels, centred, size, flags=cv2.INTER_LINEAR, borderValue=(FILL,) * 3)

    def moved(plane: NDArray[Any], outside: int) -> NDArray[Any]:
        return cv2.warpAffine(plane, centred, size, flags=cv2.INTER_NEAREST, borderValue=outside)

    linear, shift = (torch.from_numpy(part).float() for part in (matrix[:, :2], matrix[:, 2]))
    low, high = item.boxes[:, :2], item.boxes[:, 2:]
    centre = (low + high) / 2 @ linear.T + shift
    reach = (((high - low) / 2) ** 2 @ (linear**2).T).sqrt()
    boxes = torch.cat([centre - reach, centre + reach], 1)
    return replace(item.with_pixels(np.asarray(pixels, np.uint8)).with_planes(moved), boxes=boxes)


def window(item: Labelled, left: int, top: int, size: tuple[int, int]) -> Labelled:
    """A window of the image, of this width and height; what lies beyond the image is grey, and ignored in the mask."""
    width, height = size
    cut = item.with_pixels(_window(item.pixels, left, top, width, height, FILL))
    cut = cut.with_planes(lambda plane, outside: _window(plane, left, top, width, height, outside))
    return replace(cut, boxes=item.boxes - item.boxes.new_tensor([left, top] * 2))


def _window(pixels: NDArray[Any], left: int, top: int, width: int, height: int, fill: int) -> NDArray[Any]:
    inside = pixels[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    if inside.shape[:2] == (height, width):
        return np.ascontiguousarray(inside)
    placed = np.full((height, width, *pixels.shape[2:]), fill, pixels.dtype)
    top, left = max(0, -top), max(0, -left)
    placed[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return placed


def centred(item: Labelled, size: tuple[int, int]) -> Labelled:
    """The image cut or surrounded evenly to this width and height, as preprocessing does it."""
    if item.size == size:
        return item
    left, top = (-((wished - given) // 2) for wished, given in zip(size, item.size, strict=True))
    return window(item, left, top, size)


def mixed(one: Labelled, other: Labelled, share: float) -> Mapping[int, float]:
    """The classes of two images, of which the first one has this share."""
    result: dict[int, float] = {}
    for item, part in ((one, share), (other, 1 - share)):
        for label, of_image in item.classes.items():
            result[label] = result.get(label, 0.0) + part * of_image
    return result
