"""How the sizes of images go with the size of a network's input."""

from __future__ import annotations

import math
from collections.abc import Mapping

ENLARGED = 2.5
"""Enlarged by more than this, images cost time and gain nothing: the network sees no more than there is."""
REDUCED = 4.0
"""Reduced by more than this, what is small in an image vanishes."""


def typical_size(sizes: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    """The image size, (width, height) in pixels, that lies in the middle by its area.

    Args:
        sizes: Number of images of each size; at least one.
    """
    half, seen = sum(sizes.values()) / 2, 0
    for size in sorted(sizes, key=lambda size: (size[0] * size[1], size)):
        seen += sizes[size]
        if seen >= half:
            return size
    raise ValueError("there are no images")


def size_note(sizes: Mapping[tuple[int, int], int], width: int, height: int) -> str | None:
    """A sentence where the input size does not suit the images; None where it does.

    Args:
        sizes: Number of images of each (width, height).
        width: Of the network's input, in pixels.
        height: Of the network's input, in pixels.
    """
    if not sizes:
        return None
    across, down = typical_size(sizes)
    scale = min(width / across, height / down)
    fitted = f"are typically {across} x {down} pixels, and the network's input is {width} x {height}"
    if scale > ENLARGED:
        return (
            f"The images {fitted}: they are enlarged {scale:.1f} times, and an epoch takes up to {scale**2:.0f} times "
            "as long as at their own size. Set input.size nearer to it."
        )
    if 1 / scale > REDUCED:
        return (
            f"The images {fitted}: they are reduced {1 / scale:.1f} times, and what is smaller than "
            f"{math.ceil(8 / scale)} pixels can hardly be seen. Set a larger input.size, or cut the images into tiles."
        )
    return None


def suited_size(
    sizes: Mapping[tuple[int, int], int], width: int, height: int, multiple: int, square: bool
) -> tuple[int, int]:
    """The input size for these images: the architecture's own, or smaller where they are.

    In the proportions of the images, but for classifiers: these keep those of the architecture, and get small images at
    twice their size, at which the features of pretrained weights still have some extent.

    Args:
        sizes: Number of images of each (width, height); at least one.
        width: The architecture's own, in pixels.
        height: The architecture's own, in pixels.
        multiple: Both sides are multiples of this.
        square: Keeps the proportions of the architecture's own, as classifiers do.
    """
    across, down = typical_size(sizes)
    scale = min(1.0, width / across, height / down)
    if square:
        scale = min(1.0, 2 * max(across / width, down / height))
        return _up(width * scale, multiple), _up(height * scale, multiple)
    return _up(across * scale, multiple), _up(down * scale, multiple)


def _up(length: float, multiple: int) -> int:
    """The next multiple; of 32, the stride of the networks' last level, where any would do."""
    step = multiple if multiple > 1 else 32
    return max(step, math.ceil(length / step - 1e-9) * step)
