"""What is refused before the first step of a training: data of which nothing can be learned at this input size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import Recipe
from fovea_serving.pipeline import Preprocess, decode_mask
from numpy.typing import NDArray

from fovea_trainer.data.records import IGNORE
from fovea_trainer.data.version import OpenVersion, Sample, Split
from fovea_trainer.models.registry import registry
from fovea_trainer.training.dataset import preprocessing

VANISHING = 2.0
"""Pixels of the network's input: an object whose area has a smaller root shows nothing there."""
FEW, MOST = 0.1, 0.5
"""Shares of objects that vanish from which on it is reported, and refused."""
MASKS_READ = 200
"""Masks that are looked at: reading them all would take as long as an epoch."""


def check_version(version: OpenVersion, recipe: Recipe) -> tuple[str, ...]:
    """What the report of a training should say about its data; raises InvalidInput where there is nothing to learn."""
    preprocess = preprocessing(registry()[recipe.model.architecture].architecture, recipe.input)
    manifest = version.manifest
    return check_learnable(version.split("train"), manifest.task, manifest.classes, preprocess)


def check_learnable(train: Split, task: Task, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
    """As `check_version`, of the train split of a version."""
    if task == Task.CLASSIFICATION:
        shown = sorted({classes[label] for label in train.column("label") if isinstance(label, int) and label >= 0})
        if len(shown) < 2:
            raise InvalidInput(
                f"all {len(train)} train images are of the class {', '.join(shown)}, so there is nothing to tell apart",
                "spec.datasetRef",
                "add images of another class",
            )
        return ()
    if task == Task.DETECTION:
        return _objects(train, preprocess)
    return _masks(train, classes, preprocess)


def _objects(train: Split, preprocess: Preprocess) -> tuple[str, ...]:
    sides: list[NDArray[np.float64]] = []
    for width, height, boxes in zip(*(train.column(name) for name in ("width", "height", "boxes")), strict=True):
        if boxes:
            assert isinstance(width, int)
            assert isinstance(height, int)
            corners = preprocess.geometry(width, height).to_input(np.asarray(boxes, np.float32)).astype(np.float64)
            sides.append(np.sqrt((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])))
    if not sides:
        raise InvalidInput(
            f"none of {len(train)} train images shows an object, so there is nothing to learn",
            "spec.datasetRef",
            "see the findings of the Dataset's quality report",
        )
    every = np.concatenate(sides)
    gone = int((every < VANISHING).sum())
    words = (
        f"{gone:,} of {len(every):,} train objects are smaller than {VANISHING:g} pixels "
        f"in the network's input of {preprocess.width} x {preprocess.height}"
    )
    # The size at which the median object is four times as large as one that vanishes.
    factor = 4 * VANISHING / max(float(np.median(every)), 1e-6)
    larger = f"{round(preprocess.width * factor)} x {round(preprocess.height * factor)}"
    if gone > MOST * len(every):
        raise InvalidInput(
            f"{words}, where they vanish", "spec.input.size", f"give about {larger}, or cut the images into tiles"
        )
    return (f"{words}, where they vanish; a larger input finds them.",) if gone > FEW * len(every) else ()


def _masks(train: Split, classes: Sequence[str], preprocess: Preprocess) -> tuple[str, ...]:
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
