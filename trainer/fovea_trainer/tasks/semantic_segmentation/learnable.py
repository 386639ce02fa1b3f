"""Whether the input's size shows the classes of a train split's masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import IGNORE, Preprocess, decode_mask

from fovea_trainer.data.version import Sample, Split

MASKS_READ = 200
"""Masks that are looked at: reading them all would take as long as an epoch."""


def check_masks(train: Split, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
    """Of the first masks: all of one class; classes that have pixels in the original and none in the input."""
    before, after = np.zeros(256, bool), np.zeros(256, bool)
    for sample in _first(train):
        assert sample.mask_bytes is not None
        mask = decode_mask(sample.mask_bytes, sample.name)
        before[np.unique(mask)] = True
        after[np.unique(preprocess.fit_mask(mask))] = True
    before[IGNORE] = after[IGNORE] = False
    shown = [classes[index] for index in np.flatnonzero(before).tolist()]
    if len(shown) < 2 and len(train) <= MASKS_READ:
        raise InvalidInput(
            f"all labelled pixels of train are of the class {', '.join(shown)}, so there is nothing to tell apart",
            "spec.datasetRef",
            "see the findings of the Dataset's quality report",
        )
    vanished = [classes[index] for index in np.flatnonzero(before & ~after).tolist()]
    if vanished and after.sum() < 2:
        raise InvalidInput(
            f"no pixel of {', '.join(vanished)} is left in the network's input of "
            f"{preprocess.width} x {preprocess.height}",
            "spec.input.size",
            "give a larger size, or cut the images into tiles",
        )
    return tuple(
        f"No pixel of {name} is left in the network's input of {preprocess.width} x {preprocess.height}; "
        "a larger input finds it."
        for name in vanished
    )


def _first(train: Split) -> Sequence[Sample]:
    return [train[position] for position in range(min(len(train), MASKS_READ))]
