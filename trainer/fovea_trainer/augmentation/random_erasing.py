"""Images with a hidden part."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.augmentation.base import MIN_VISIBILITY, Context, Labelled, Transform, drawn_part, register


@register
class RandomErasing(Transform):
    """A rectangle of random area and aspect ratio full of noise: Zhong et al., "Random Erasing Data Augmentation"
    (2020), with the distribution of torchvision's RandomErasing."""

    field = "random_erasing"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        random = context.random
        if not self.applies(context) or (place := self.rectangle(item.size, random)) is None:
            return item
        left, top, right, bottom = place
        pixels = item.pixels.copy()
        pixels[top:bottom, left:right] = random.integers(0, 256, (bottom - top, right - left, 3), np.uint8)

        def erased(plane: NDArray[Any], outside: int) -> NDArray[Any]:
            plane = plane.copy()
            plane[top:bottom, left:right] = outside
            return plane

        low = item.boxes[:, :2].maximum(item.boxes.new_tensor([left, top]))
        high = item.boxes[:, 2:].minimum(item.boxes.new_tensor([right, bottom]))
        hidden = (high - low).clamp(min=0).prod(1)
        seen = hidden <= (1 - MIN_VISIBILITY) * (item.boxes[:, 2:] - item.boxes[:, :2]).prod(1)
        return item.with_pixels(pixels).with_planes(erased).with_objects(seen)

    def rectangle(self, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom of what is hidden of an image of this width and height; None: nothing fits."""
        part = drawn_part(size, self.options, random, (size[0] - 1, size[1] - 1))
        if part is None:
            return None
        left, top, width, height = part
        return left, top, left + width, top + height
