"""Random changes of training images: torchvision's transforms, with boxes and masks moving along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from fovea_api.trainingjob import Augmentation
from fovea_serving.pipeline import IGNORE
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

FILL = 114
"""Grey value of what a change uncovers: that of Letterbox's border."""
MIN_BOX_PIXELS = 2.0
"""Boxes of which less than this is left in width or height are dropped."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image uint8 [3, H, W] at the input size with its labels; of these, what the task has.

    Args:
        boxes: xyxy in pixels, float32 [B, 4].
        labels: Class index of each box, int64 [B].
        mask: Class index of each pixel, uint8 [H, W].
        label: Class index of the image.
    """

    image: Tensor
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    mask: Tensor | None = None
    label: int = -1


class Augment:
    """The augmentations of a recipe, in their order; the same seed gives the same change."""

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self._transform = v2.Compose([_transform(item) for item in augmentations]) if augmentations else None

    def __call__(self, item: Labelled, seed: int) -> Labelled:
        """The changed image and labels. The caller's random numbers are left alone."""
        if self._transform is None:
            return item
        height, width = item.image.shape[-2:]
        boxes = tv_tensors.BoundingBoxes(
            _turnable(item.boxes), format="CXCYWHR", canvas_size=(height, width), clamping_mode=None
        )
        mask = item.image.new_zeros((height, width)) if item.mask is None else item.mask
        image = tv_tensors.Image(item.image)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, boxes, mask = self._transform(image, boxes, tv_tensors.Mask(mask[None]))
        left = _upright(boxes.as_subclass(Tensor), image.shape[-1], image.shape[-2])
        kept = ((left[:, 2:] - left[:, :2]) >= MIN_BOX_PIXELS).all(1)
        return Labelled(
            image.as_subclass(Tensor),
            left[kept],
            item.labels[kept],
            None if item.mask is None else mask.as_subclass(Tensor)[0],
            item.label,
        )


def _turnable(boxes: Tensor) -> Tensor:
    """Centre, size and angle (none yet), [B, 5], of boxes xyxy [B, 4]."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(low + high) / 2, high - low, boxes.new_zeros(len(boxes), 1)], 1)


def _upright(boxes: Tensor, width: int, height: int) -> Tensor:
    """Boxes xyxy [B, 4], clipped to the image, of turned boxes [B, 5].

    An object is taken for the ellipse that its box encloses: the box of the turned box itself would be too large
    by up to 41 % and teach loose boxes (Kalra et al., "Towards Rotation Invariance in Object Detection", 2021).
    """
    centre, half, angle = boxes[:, :2], boxes[:, 2:4] / 2, torch.deg2rad(boxes[:, 4])
    turn = torch.stack([torch.stack([angle.cos(), angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    reach = (turn**2 * half[:, None] ** 2).sum(2).sqrt()
    limit = boxes.new_tensor([width, height])
    return torch.cat([(centre - reach).clamp(min=0).minimum(limit), (centre + reach).clamp(min=0).minimum(limit)], 1)


def _transform(item: Augmentation) -> v2.Transform:
    fill = {tv_tensors.Image: FILL, tv_tensors.Mask: IGNORE}
    bilinear = InterpolationMode.BILINEAR  # masks are always taken from the nearest pixel
    if item.horizontal_flip is not None:
        return v2.RandomHorizontalFlip(item.horizontal_flip.probability)
    if item.vertical_flip is not None:
        return v2.RandomVerticalFlip(item.vertical_flip.probability)
    if (rotate := item.rotate) is not None:
        rotation = v2.RandomRotation(rotate.degrees, interpolation=bilinear, fill=fill)
        return v2.RandomApply([rotation], rotate.probability)
    if (jitter := item.color_jitter) is not None:
        colours = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        return v2.RandomApply([colours], jitter.probability)
    if (scale := item.random_scale) is not None:
        reach = (max(0.0, scale.max - 1) / 2,) * 2  # an enlarged image is looked at off-centre too
        affine = v2.RandomAffine(0, translate=tuple(min(1.0, part) for part in reach),
                                 scale=(scale.min, scale.max), interpolation=bilinear, fill=fill)  # fmt: skip
        return v2.RandomApply([affine], scale.probability)
    if (crop := item.random_crop) is not None:
        return v2.RandomCrop((crop.height, crop.width), pad_if_needed=True, fill=fill)
    assert item.blur is not None
    size = 2 * max(1, round(3 * item.blur.sigma)) + 1
    return v2.RandomApply([v2.GaussianBlur(size, (0.1, max(0.1, item.blur.sigma)))], item.blur.probability)
