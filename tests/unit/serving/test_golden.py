"""A model that no longer answers as it did is not ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from fovea_api.errors import FoveaError
from fovea_serving.gateway.health import CHECK_SECONDS, RETRY_SECONDS, Health
from fovea_serving.golden import GoldenImage
from fovea_serving.pipeline import Classification, Prediction, SemanticSegmentation, decode
from fovea_serving.pipeline.golden import golden_image
from fovea_serving.upstreams import Answer, Overloaded, PredictOptions, UpstreamFailed, UpstreamUnavailable
from fovea_serving.upstreams.base import DEFAULTS


@dataclass
class Says:
    """An upstream that says what it is given: how a network goes wrong cannot be had on demand."""

    prediction: Prediction
    error: FoveaError | None = None

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        assert list(images) == [golden_image()]
        await self.ready()
        return [Answer(self.prediction, 320, 240)]

    async def ready(self) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None: ...


def probabilities(*values: float) -> Classification:
    return Classification(np.array(values, np.float32))


async def test_the_first_answer_is_the_known_one() -> None:
    golden = GoldenImage()
    await golden.check(Says(probabilities(0.9, 0.1)))
    await golden.check(Says(probabilities(0.899, 0.101)))
    with pytest.raises(UpstreamUnavailable, match=r"0\.5.*in place of.*0\.9"):
        await golden.check(Says(probabilities(0.5, 0.5)))


async def test_what_the_bundle_states_is_known_from_the_start_and_another_rounding_is_no_error() -> None:
    stated = [0.9, 0.1, *[0.0] * 8]
    await GoldenImage(stated).check(Says(probabilities(0.85, 0.15)))
    with pytest.raises(UpstreamUnavailable, match="in place of"):
        await GoldenImage(stated).check(Says(probabilities(0.5, 0.5)))


async def test_a_version_is_looked_at_every_minute_and_a_bad_one_more_often() -> None:
    now, says = 0.0, Says(probabilities(0.9, 0.1))
    health = Health(says, None, lambda: now)
    await health.check()
    says.prediction = probabilities(0.1, 0.9)
    now = CHECK_SECONDS - 1
    await health.check()
    now = CHECK_SECONDS
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable, match="in place of"):
            await health.check()
        says.prediction = probabilities(0.9, 0.1)
    now += RETRY_SECONDS
    await health.check()


async def test_a_version_that_is_full_is_as_ready_as_it_was() -> None:
    """Or a gateway would leave its Service when it is needed most."""
    now, says = 0.0, Says(probabilities(0.9, 0.1), Overloaded("the queue is full"))
    health = Health(says, None, lambda: now)
    with pytest.raises(UpstreamUnavailable, match="no answer: the queue is full"):
        await health.check()
    now, says.error = RETRY_SECONDS, None
    await health.check()
    now, says.error = now + CHECK_SECONDS, Overloaded("the queue is full")
    await health.check()


@pytest.mark.parametrize("error", [UpstreamFailed("the replica failed"), UpstreamUnavailable("it starts")])
async def test_whatever_keeps_a_version_from_being_ready_is_that_it_is_not(error: FoveaError) -> None:
    """Who looks at versions from time to time expects no other error, and would look no more."""
    with pytest.raises(UpstreamUnavailable, match=str(error)):
        await Health(Says(probabilities(0.9, 0.1), error), None).check()


async def test_an_answer_of_another_shape_is_not_the_known_one() -> None:
    says = Says(probabilities(0.9, 0.1))
    with pytest.raises(UpstreamUnavailable, match=r"the golden image gets no answer: .*shape"):
        await Health(says, [0.9, 0.1, 0.0], lambda: 0.0).check()


async def test_scores_that_are_no_numbers_are_never_the_known_answer() -> None:
    golden = GoldenImage()
    with pytest.raises(UpstreamUnavailable, match="no numbers"):
        await golden.check(Says(probabilities(float("nan"), 0.1)))
    await golden.check(Says(probabilities(0.9, 0.1)))


async def test_a_segmentation_that_sees_one_class_only_has_gone_blind() -> None:
    golden = GoldenImage()
    halves = np.zeros((4, 4), np.uint8)
    halves[:2] = 1
    await golden.check(Says(SemanticSegmentation(halves)))
    with pytest.raises(UpstreamUnavailable):
        await golden.check(Says(SemanticSegmentation(np.zeros((4, 4), np.uint8))))


def test_the_golden_image_is_one_that_a_model_can_see_something_in() -> None:
    pixels = decode(golden_image())
    assert pixels.shape == (240, 320, 3)
    assert pixels.std() > 20
