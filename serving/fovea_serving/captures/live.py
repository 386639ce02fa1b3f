"""What captured images are like, counted as the reference profile of a bundle is: the present of a drift report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fovea_api.bundle import BundleManifest
from fovea_api.errors import InvalidInput
from fovea_api.profile import ReferenceProfile
from fovea_store import NotFound

from fovea_serving.captures.exchange import Picture, pictures
from fovea_serving.captures.records import is_right_answer
from fovea_serving.captures.store import CaptureStore
from fovea_serving.pipeline import decode, prediction_type
from fovea_serving.pipeline.profile import ProfileBuilder, size_features
from fovea_serving.pipeline.properties import Embedding, measured

MOST_IMAGES = 2000
"""Images that are measured at most, at even distances in time: each takes some milliseconds and a read of the store."""
FEWEST_SAMPLED = 30
"""Images of the uniform sample below which the edge cases are counted too."""


@dataclass(frozen=True, slots=True)
class MeasuredPicture:
    """A captured image with its features, by the names of `fovea_api.profile.FEATURES`."""

    picture: Picture
    features: Mapping[str, float]

    @property
    def distance(self) -> float:
        """From the centre of the reference, in standard deviations of the embedding; 0 where there is none."""
        return math.hypot(*(value for name, value in self.features.items() if name.startswith("embedding")))


@dataclass(frozen=True, slots=True)
class LiveProfile:
    """Captured images of some time.

    Args:
        profile: What those of the uniform sample are like; its accuracy is that of the labelled ones.
        is_uniform: Whether they are a uniform sample; else there are too few of it, and edge cases are among them.
        labelled: How many of them have a label that can be read.
        first: When the first was answered.
        last: When the last was answered.
        pictures: All that were measured, edge cases too.
    """

    profile: ReferenceProfile
    is_uniform: bool
    labelled: int
    first: datetime
    last: datetime
    pictures: tuple[MeasuredPicture, ...]


def live_profile(
    store: CaptureStore, manifest: BundleManifest, reference: ReferenceProfile, run: str, length: timedelta
) -> LiveProfile:
    """What the captured images of a version are like.

    Args:
        store: The captures.
        manifest: That of the version's bundle.
        reference: Its reference profile.
        run: Name of the version in the captures.
        length: Images are of the last so long before the newest one.

    Raises:
        InvalidInput: there are no captured images of this version.
    """
    every = pictures(store)
    own = [each for each in every if each.found.capture.run == run and each.found.capture.task == manifest.task]
    if not own:
        others = ", ".join(sorted({each.found.capture.run for each in every})[:8])
        words = f"no captured image was answered by {run}" + (f", but by {others}" if others else "")
        raise InvalidInput(words, store.root.uri, "name the version with --run, and give its bundle")
    last = max(each.found.capture.time for each in own)
    chosen = _spread([each for each in own if each.found.capture.time >= last - length])
    found = [*_measured(store, chosen, Embedding(reference.embedding) if reference.embedding is not None else None)]
    sampled = [each for each in found if each.picture.found.capture.reason == "sample"]
    is_uniform = len(sampled) >= min(FEWEST_SAMPLED, len(found))
    builder, labelled = ProfileBuilder(manifest.task, manifest.classes, None), 0
    for each in sampled if is_uniform else found:
        capture, right = each.picture.found.capture, _right(each.picture)
        prediction = prediction_type(capture.task).from_dict(
            each.picture.prediction, manifest.classes, each.picture.size
        )
        labelled += right is not None
        builder.add(each.features, prediction, right)
    times = [each.found.capture.time for each in chosen]
    return LiveProfile(builder.finish((), ()), is_uniform, labelled, min(times), last, tuple(found))


def most_different(found: Sequence[MeasuredPicture], count: int) -> list[MeasuredPicture]:
    """Those furthest from the reference; of each burst one, as long as there are others."""
    ordered = sorted(found, key=lambda each: -each.distance)
    seen, first, others = set[str](), list[MeasuredPicture](), list[MeasuredPicture]()
    for each in ordered:
        (others if each.picture.group in seen else first).append(each)
        seen.add(each.picture.group)
    return (first + others)[:count]


def _right(each: Picture) -> bool | None:
    """Whether its request was answered rightly; None: nobody said so, or an imported label does not fit the task."""
    capture, label = each.found.capture, each.found.label
    try:
        return None if label is None else is_right_answer(capture.task, capture.images, label)
    except InvalidInput:
        return None


def _spread(listed: list[Picture]) -> list[Picture]:
    listed = sorted(listed, key=lambda each: each.found.capture.time)
    count = len(listed)
    return [listed[index * count // MOST_IMAGES] for index in range(MOST_IMAGES)] if count > MOST_IMAGES else listed


def _measured(store: CaptureStore, listed: Iterable[Picture], embedding: Embedding | None) -> Iterable[MeasuredPicture]:
    for each in listed:
        try:
            pixels = decode(store.read_image(each.found, each.index), each.name)
        except NotFound:  # it was deleted meanwhile
            continue
        yield MeasuredPicture(each, {**measured(pixels, embedding), **size_features(*each.size)})
