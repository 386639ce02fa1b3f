"""Anchor boxes: where they lie, and which sizes and shapes suit a dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

MATCH_IOU = 0.5
"""Overlap with an anchor from which an object can be learned from it: the matcher's threshold."""
SIZES_OVER_STRIDE = tuple(2 ** (step / 4) for step in range(0, 11))
"""Candidates for the smallest anchor of a level over its stride: 1 to 5.7, in quarters of an octave."""
MAX_BOXES = 5000
"""Boxes that the fit looks at, spread evenly over the dataset."""
DEFAULT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors of RetinaNet and Faster R-CNN."""


class Anchors(nn.Module):
    """Anchor boxes of all levels.

    Args:
        sizes: For each level the anchor sizes (square root of the area) in input pixels.
        ratios: Height over width, the same on every level.
        strides: Of the levels, in input pixels. It is the network's: a map's size times its stride is not the
            input's size where that is no multiple of the stride.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__()
        self.generator = AnchorGenerator(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self.per_location = self.generator.num_anchors_per_location()[0]
        self.strides = tuple(strides)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """xyxy in input pixels, float32 [A, 4], level by level."""
        grids = [[level.shape[-2], level.shape[-1]] for level in levels]
        self.generator.set_cell_anchors(torch.float32, levels[0].device)
        return torch.cat(self.generator.grid_anchors(grids, [[stride, stride] for stride in self.strides]))


@dataclass(frozen=True, slots=True)
class AnchorFit:
    """Anchors for a dataset.

    Args:
        sizes: In input pixels, level by level.
        ratios: Height over width.
        recall: Best possible recall: the share of the objects that some anchor overlaps by MATCH_IOU at least.
        overlap: Mean overlap of the objects with their best anchors.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    recall: float
    overlap: float


def fit_anchors(
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    strides: Sequence[int],
    sizes_per_level: int,
    sizes: tuple[float, ...] = (),
    ratios: tuple[float, ...] = (),
) -> AnchorFit:
    """The anchors of the levels P3 and up that suit the boxes best.

    Every level has sizes from `k * stride` on, spread over an octave, so that large anchors lie on coarse maps. The
    factor k and the ratios (usual ones, or k-means of the boxes' own) are those of the best possible recall, then of
    the largest mean overlap; both are measured with the anchors in their places on the grid.

    Args:
        boxes: xyxy in input pixels, [N, 4], N at least 1.
        size: Width and height of the input in pixels.
        strides: Of the levels, in input pixels.
        sizes_per_level: Sizes of a level.
        sizes: Sizes that are given; empty: they are fitted.
        ratios: Ratios that are given; empty: they are fitted.
    """
    chosen = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), MAX_BOXES)).round().astype(int)].astype(np.float64)
    all_ratios = (ratios,) if ratios else (DEFAULT_RATIOS, cluster_ratios(chosen, len(DEFAULT_RATIOS)))
    all_sizes = (sizes,) if sizes else [ladder(factor, strides, sizes_per_level) for factor in SIZES_OVER_STRIDE]
    fits = []
    for some_ratios in all_ratios:
        for some_sizes in all_sizes:
            of_size = np.repeat(strides, len(some_sizes) // len(strides))
            best = best_overlap(chosen, size, some_sizes, some_ratios, of_size)
            fits.append(AnchorFit(some_sizes, some_ratios, float((best >= MATCH_IOU).mean()), float(best.mean())))
    return max(fits, key=lambda fit: (round(fit.recall, 3), fit.overlap))


def ladder(factor: float, strides: Sequence[int], sizes_per_level: int) -> tuple[float, ...]:
    """Sizes in pixels: on each level from `factor * stride` on, spread over an octave."""
    steps = [2 ** (step / sizes_per_level) for step in range(sizes_per_level)]
    return tuple(round(factor * stride * step, 1) for stride in strides for step in steps)


def best_overlap(
    boxes: NDArray[np.float64],
    size: tuple[int, int],
    sizes: Sequence[float],
    ratios: Sequence[float],
    strides: Sequence[int] | NDArray[np.int64],
) -> NDArray[np.float64]:
    """Intersection over union of each box [N, 4] with its best anchor on grids of these strides, [N]."""
    centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    best = np.zeros(len(boxes))
    for side, stride in zip(sizes, strides, strict=True):
        last = np.ceil(np.array(size) / stride) - 1
        offset = np.abs(centre - np.minimum(np.round(centre / stride), last) * stride)  # of the nearest anchor
        for ratio in ratios:
            anchor = np.array([side / math.sqrt(ratio), side * math.sqrt(ratio)])
            common = np.clip(np.minimum(np.minimum(extent, anchor), (extent + anchor) / 2 - offset), 0, None).prod(1)
            best = np.maximum(best, common / (extent.prod(1) + anchor.prod() - common))
    return best


def cluster_ratios(boxes: NDArray[np.float64], count: int) -> tuple[float, ...]:
    """Heights over widths by k-means of their logarithms, from quantiles on; ascending and all different."""
    extent = boxes[:, 2:] - boxes[:, :2]
    values = np.log(extent[:, 1] / extent[:, 0])
    centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(50):
        nearest = np.abs(values[:, None] - centres).argmin(1)
        moved = np.array([values[nearest == index].mean() if (nearest == index).any() else centres[index]
                          for index in range(count)])  # fmt: skip
        if np.allclose(moved, centres):
            break
        centres = moved
    return tuple(dict.fromkeys(round(float(math.exp(value)), 2) for value in np.sort(centres)))
