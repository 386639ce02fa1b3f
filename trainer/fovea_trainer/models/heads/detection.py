"""What the heads of detectors share: raw outputs at anchors, which are options or follow from the data, and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fovea_api.architectures import Option, OptionValue
from fovea_serving.pipeline import Preprocess
from pydantic import JsonValue
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from fovea_trainer.models.anchors import DEFAULT_RATIOS, Anchors, fit_anchors, ladder
from fovea_trainer.models.heads.base import Options
from fovea_trainer.models.pyramid import BODY_STRIDES, STRIDES
from fovea_trainer.tasks import Sample
from fovea_trainer.tasks.detection.targets import objects_in_input

SIZE_OVER_STRIDE = 4.0
"""Smallest anchor of a level over its stride, as in RetinaNet, where neither options nor a dataset say otherwise."""
IMAGES = 2000
"""Images, spread evenly over the train split, to whose boxes the anchors are fitted."""
LEVELS = {len(STRIDES): 3, len(BODY_STRIDES): 2}
"""Numbers of levels that a network may have, each with the most anchor sizes of a level."""
GOOD_RECALL = 0.98
"""Best possible recall below which a remedy is named."""
PRESET: Mapping[str, JsonValue] = {
    "input": {
        "sizing": {"longerSide": 416, "enlarge": 1.0, "smallest": 64, "objectPixels": 16.0, "largest": 640},
        "augmentations": [
            {"horizontalFlip": {"probability": 0.5}},
            {"randomScale": {"min": 0.8, "max": 1.25, "probability": 0.8}},
            {"colorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02, "probability": 0.8}},
        ],
    },
    "training": {
        "epochs": 12,
        "minSteps": 400,
        "batchSize": 8,
        "optimizer": {"name": "AdamW", "learningRate": 1e-3, "weightDecay": 0.01, "backboneRate": 1.0},
        "schedule": {"name": "OneCycle", "warmupShare": 0.1},
        "ema": {"decay": 0.999},
        "gradientClipNorm": 5.0,
    },
}
"""What detectors are trained with where a recipe is silent. So short a training has no time for a slow backbone, or for
objects of twice the size range: docs/performance.md has what was tried."""


@dataclass(frozen=True, slots=True)
class RawBoxes:
    """Raw outputs of N images with A anchors.

    Args:
        logits: [N, A, C]; where the head has a background, [N, A, C + 1], and it comes first.
        deltas: [N, A, 4] in the parametrization of `boxes.decode`, by the head's weights.
        anchors: xyxy in input pixels, [A, 4].
        size: Height and width of the input.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    size: tuple[int, int]


def match(matcher: Matcher, boxes: Tensor, anchors: Tensor) -> Tensor:
    """Index of the object [B, 4] that each anchor [A, 4] learns, or what the matcher has for none, int64 [A]."""
    if len(boxes) == 0:
        return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
    matches: Tensor = matcher(box_iou(boxes, anchors))
    return matches


def mean_losses(names: Sequence[str], of_images: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """The parts of a loss by name, each the mean of those of the images: whatever worker has an image, it counts
    alike."""
    parts = zip(names, zip(*of_images, strict=True), strict=True)
    return {name: torch.stack(values).mean() for name, values in parts}


def anchor_options() -> tuple[Option, ...]:
    """The options of a head with anchors."""
    lengths = tuple(sorted(levels * sizes for levels, most in LEVELS.items() for sizes in range(1, most + 1)))
    return (
        Option(name="anchorSizes", type="Numbers", default=(), min=4, max=4096, lengths=lengths,
               description="Anchor sizes in input pixels, level by level: one to three on each of the strides "
               f"{_list(STRIDES)}, or one or two on each of {_list(BODY_STRIDES)}, which make a network without the "
               "coarse levels; absent: fitted to the boxes of the train split."),
        Option(name="anchorRatios", type="Numbers", default=(), min=0.05, max=20,
               description="Height over width of the anchors; absent: fitted to the boxes of the train split."),
    )  # fmt: skip


def anchors_for(options: Options, sizes_per_level: int) -> Anchors:
    """The anchors of the options; those of RetinaNet where they say nothing."""
    sizes = options.numbers("anchorSizes") or ladder(SIZE_OVER_STRIDE, STRIDES, sizes_per_level)
    strides = strides_of(sizes)
    each = len(sizes) // len(strides)
    levels = [sizes[level * each : (level + 1) * each] for level in range(len(strides))]
    return Anchors(levels, options.numbers("anchorRatios") or DEFAULT_RATIOS, strides)


def strides_of(sizes: Sequence[float]) -> tuple[int, ...]:
    """Strides of the levels that have these anchor sizes: all, unless their number is that of P3 to P5 alone."""
    return BODY_STRIDES if len(sizes) % len(STRIDES) else STRIDES


def fit_anchor_options(
    options: Options, samples: Sequence[Sample], preprocess: Preprocess, sizes_per_level: int
) -> tuple[Mapping[str, OptionValue], tuple[str, ...]]:
    """The options with sizes and ratios that suit the boxes of the train split, and how well they do."""
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), IMAGES)).round().astype(int))
    parts = []
    for index in chosen:
        sample = samples[int(index)]
        parts.append(objects_in_input(sample, preprocess.geometry(sample.width, sample.height))[0])
    boxes = np.concatenate(parts)
    if not len(boxes):
        return options.values, ("The train split has no objects: the anchors are the usual ones.",)
    size = (preprocess.width, preprocess.height)
    given = options.numbers("anchorSizes"), options.numbers("anchorRatios")
    fit = fit_anchors(boxes, size, strides_of(given[0]), sizes_per_level, *given)
    words = (
        f"Best possible recall of the anchors: {fit.recall:.3f} of {len(boxes):,} objects of the train split overlap "
        f"an anchor by 0.5 or more, on average by {fit.overlap:.2f} "
        f"(sizes {_list(fit.sizes)} pixels, ratios {_list(fit.ratios)})."
    )
    if fit.recall < GOOD_RECALL:
        words += " The others are hard to learn: a larger input.size helps with small objects."
    return {**options.values, "anchorSizes": fit.sizes, "anchorRatios": fit.ratios}, (words,)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
