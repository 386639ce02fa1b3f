"""Whether the input's size shows the objects of a train split."""

from __future__ import annotations

import numpy as np
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import Preprocess
from numpy.typing import NDArray

from fovea_trainer.data.version import Split

VANISHING = 2.0
"""Pixels of the network's input: an object whose area has a smaller root shows nothing there."""
FEW, MOST = 0.1, 0.5
"""Shares of objects that vanish from which on it is reported, and refused."""


def check_objects(train: Split, preprocess: Preprocess) -> tuple[str, ...]:
    """What a report should say about small objects; raises InvalidInput where there is nothing to learn."""
    sides: list[NDArray[np.float64]] = []
    columns = (train.column(name) for name in ("width", "height", "boxes", "difficult"))
    for width, height, boxes, difficult in zip(*columns, strict=True):
        if boxes:
            assert isinstance(width, int)
            assert isinstance(height, int)
            learned = np.asarray(boxes, np.float32)[~np.asarray(difficult or [False] * len(boxes), bool)]
            corners = preprocess.geometry(width, height).to_input(learned).astype(np.float64)
            sides.append(np.sqrt((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])))
    if not sum(map(len, sides)):
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
