"""The reference profile of a model: what drift is measured against."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from fovea_api.profile import ReferenceProfile
from fovea_serving.pipeline import decode
from fovea_serving.pipeline.profile import ProfileBuilder, is_right, size_features
from fovea_serving.pipeline.properties import Embedding, measured, thumbnail

from fovea_trainer.data.version import Sample
from fovea_trainer.tasks import definition
from fovea_trainer.training.trained import Trained

SPLITS = ("validation", "test")
"""Splits whose images the model was not trained on."""
MOST_ITEMS = 5000
"""Images of a profile at most. Its error is small from 2,000 on, and each costs as much as an evaluation's."""
BASIS_ITEMS = 2000
"""Train images that the embedding is fitted to at most."""
SHOWN = 12
"""Images that are kept as pictures, for the drift report."""
SHOWN_SIDE = 96
BATCH = 8

log = logging.getLogger(__name__)


def reference_profile(trained: Trained, model: Path) -> ReferenceProfile:
    """What images and answers are like on the validation and test images, by the exported model as it will be served.

    The embedding is fitted to train images, so that the profile is no closer to it than later images are.
    """
    train = _spread(trained.samples("train"), BASIS_ITEMS)
    embedding = Embedding.fit([thumbnail(decode(sample.image_bytes, sample.name)) for sample in train])
    unseen = [sample for split in SPLITS for sample in trained.samples(split)]
    samples = _spread(unseen, MOST_ITEMS)
    predictor, classes = trained.predictor(model), trained.version.manifest.classes
    task = definition(predictor.postprocess.task)
    builder = ProfileBuilder(task.task, classes, embedding)
    for part in _batches(samples):
        images = [decode(sample.image_bytes, sample.name) for sample in part]
        for sample, image, prediction in zip(part, images, predictor.predict(images), strict=True):
            properties = {**measured(image, embedding), **size_features(image.shape[1], image.shape[0])}
            right = is_right(prediction, task.right_answer(sample, len(classes)), len(classes))
            builder.add(properties, prediction, right)
    profile = builder.finish(
        [split for split in SPLITS if trained.samples(split)], [_picture(each) for each in _spread(samples, SHOWN)]
    )
    log.info("the reference profile has %d images of %s", profile.items, " and ".join(profile.splits) or "no split")
    return profile


def _spread(samples: Sequence[Sample], most: int) -> Sequence[Sample]:
    """At most so many samples, at even distances."""
    if len(samples) <= most:
        return samples
    return [samples[index * len(samples) // most] for index in range(most)]


def _batches(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), BATCH):
        yield [samples[index] for index in range(start, min(start + BATCH, len(samples)))]


def _picture(sample: Sample) -> str:
    """A small JPEG of the image, in base64."""
    image = decode(sample.image_bytes, sample.name)
    scale = SHOWN_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(np.asarray(small), cv2.COLOR_RGB2BGR))[1]
    return base64.b64encode(encoded.tobytes()).decode("ascii")
