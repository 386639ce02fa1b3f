"""Parts of images at the input size."""

from __future__ import annotations

import numpy as np

from fovea_trainer.augmentation.base import Context, Labelled, Transform, drawn_part, register, warp


@register
class RandomResizedCrop(Transform):
    """A part of random area and aspect ratio, resized to the input: Szegedy et al., "Going Deeper with Convolutions"
    (2015), with the distribution of torchvision's RandomResizedCrop.

    It takes the picture at twice the scale of the input, where the file has as much, so that a small part is sharp.
    """

    field = "random_resized_crop"
    whole = 2.0

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        left, top, width, height = self.part(item.size, context.random)
        across, down = context.step.size[0] / width, context.step.size[1] / height
        return warp(item, np.array([[across, 0, -left * across], [0, down, -top * down]]), context.step.size)

    def part(self, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, width and height of the part of an image of this width and height; where none that was drawn
        fits, the largest in the middle."""
        options, (across, down) = self.options, size
        if (part := drawn_part(size, options, random, size)) is not None:
            return part
        ratio = min(max(across / down, options.min_ratio), options.max_ratio)
        width, height = min(across, max(1, round(down * ratio))), min(down, max(1, round(across / ratio)))
        return (across - width) // 2, (down - height) // 2, width, height
