"""What images and answers are like, counted in the bins of `fovea_api.profile`: by gateways, and for the reference."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
from fovea_api.common import Task
from fovea_api.profile import FEATURES, MAX_CLASSES, NO_CLASS, OTHER_CLASSES, ReferenceProfile

from fovea_serving.pipeline.predictions import Prediction
from fovea_serving.pipeline.properties import Embedding

RIGHT = 0.8
"""Agreement with its label from which a prediction is right, see `Prediction.agreement`. A class is right or wrong; of
many small objects, or of masks, hardly a picture is ever labelled alike to the last one."""
_WITHOUT_OBJECTS = (Task.CLASSIFICATION,)
"""Tasks whose images have one class each: how many there are says nothing."""


def is_right(prediction: Prediction, label: Prediction, classes: int) -> bool:
    """Whether a prediction is right by a label of the same so many classes."""
    return prediction.agreement(label, np.arange(classes)) >= RIGHT


def answer_features(prediction: Prediction, task: Task) -> dict[str, float]:
    """The features of what is reported of an image; those that it lacks are absent."""
    found: dict[str, float] = {}
    if (confidence := prediction.confidence) is not None:
        found["confidence"] = confidence
    if task not in _WITHOUT_OBJECTS:
        found["objects"] = sum(prediction.counts().values())
    return found


def class_shares(prediction: Prediction, classes: Sequence[str]) -> dict[str, float]:
    """The share of each class in what is reported of an image; NO_CLASS where that is nothing. They sum to 1."""
    counts = prediction.counts()
    total = sum(counts.values())
    if not total:
        return {NO_CLASS: 1.0}
    shares: dict[str, float] = {}
    for label, count in counts.items():
        name = classes[label] if label < MAX_CLASSES else OTHER_CLASSES
        shares[name] = shares.get(name, 0.0) + count / total
    return shares


def size_features(width: int, height: int) -> dict[str, float]:
    """The features `size` and `aspect` of an image of so many pixels."""
    return {"size": width * height / 1e6, "aspect": width / height}


class ProfileBuilder:
    """Counts a reference.

    Args:
        task: What is predicted.
        classes: Names of the classes in the order of their index.
        embedding: The embedding of its images; None: there is none.
    """

    def __init__(self, task: Task, classes: Sequence[str], embedding: Embedding | None) -> None:
        self._task = task
        self._classes = classes
        self._embedding = embedding
        self._counts = {name: [0] * feature.bins for name, feature in FEATURES.items()}
        self._shares: dict[str, float] = {}
        self._items = 0
        self._right: list[bool] = []

    def add(self, properties: Mapping[str, float], prediction: Prediction, right: bool | None) -> None:
        """Counts an image: what its pixels are like, its prediction, and whether that is right, if it is known."""
        for name, value in {**properties, **answer_features(prediction, self._task)}.items():
            self._counts[name][bisect_left(FEATURES[name].edges, value)] += 1
        for name, share in class_shares(prediction, self._classes).items():
            self._shares[name] = self._shares.get(name, 0.0) + share
        self._items += 1
        if right is not None:
            self._right.append(right)

    def finish(self, splits: Sequence[str], thumbnails: Sequence[str]) -> ReferenceProfile:
        """The profile of what was added."""
        return ReferenceProfile(
            splits=tuple(splits),
            items=self._items,
            features={name: tuple(counts) for name, counts in self._counts.items() if any(counts)},
            classes={name: round(share, 6) for name, share in self._shares.items()},
            accuracy=sum(self._right) / len(self._right) if self._right else None,
            embedding=self._embedding.basis if self._embedding is not None else None,
            thumbnails=tuple(thumbnails),
        )
