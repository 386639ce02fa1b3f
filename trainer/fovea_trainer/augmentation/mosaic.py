"""Four images in one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fovea_trainer.augmentation.base import Combination, Context, Labelled, aligned, centred, register, visible, warp


@register
class Mosaic(Combination):
    """Four images, corner to corner at a random point, of each what there is room for: Bochkovskiy et al., "YOLOv4"
    (2020), with the random scale of YOLOX and its successors."""

    field = "mosaic"
    whole = 1.0

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        width, height = context.step.size
        if not self.applies(context):
            return centred(item, context.step.size)
        random = context.random
        scale = random.uniform(self.options.min, self.options.max)
        x, y = int(random.integers(width + 1)), int(random.integers(height + 1))
        corners = [(0, 0), (x, 0), (0, y), (x, y)]
        sizes = [(x, y), (width - x, y), (x, height - y), (width - x, height - y)]
        images = [item, *(context.other() for _ in corners[1:])]
        tiles = [
            tile(image, scale, size, right=number % 2 == 1, below=number > 1)
            for number, (image, size) in enumerate(zip(images, sizes, strict=True))
        ]
        return composed(tiles, corners)


def tile(item: Labelled, scale: float, size: tuple[int, int], right: bool, below: bool) -> Labelled:
    """What of a scaled image is seen right or left of a point, and below or above it, in this width and height."""
    shift = [
        0.0 if beyond else room - scale * length
        for beyond, room, length in zip((right, below), size, item.size, strict=True)
    ]
    if 0 in size:
        empty = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
        mask = None if item.mask is None else torch.zeros(size[1], size[0], dtype=torch.uint8)
        instances = None if item.instances is None else torch.zeros(1, size[1], size[0], dtype=torch.int16)
        return replace(item, image=empty, mask=mask, boxes=item.boxes[:0], labels=item.labels[:0], instances=instances)
    return visible(warp(item, np.column_stack([scale * np.eye(2), shift]), size))


def composed(tiles: list[Labelled], corners: list[tuple[int, int]]) -> Labelled:
    """The image of four tiles, row by row, with the labels of all."""

    def joined(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([torch.cat(parts[:2], -1), torch.cat(parts[2:], -1)], -2)

    boxes = [item.boxes + item.boxes.new_tensor(corner * 2) for item, corner in zip(tiles, corners, strict=True)]
    masks = [item.mask for item in tiles if item.mask is not None]
    instances = aligned(tiles)
    return replace(
        tiles[0],
        image=joined([item.image for item in tiles]),
        boxes=torch.cat(boxes),
        labels=torch.cat([item.labels for item in tiles]),
        mask=joined(masks) if masks else None,
        instances=joined(instances) if instances else None,
    )
