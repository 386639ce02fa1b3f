"""Networks that are wrong in a way that no status code shows: their answers are errors, and never an empty image."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import pytest_asyncio
from fovea_api.errors import FoveaError
from fovea_serving.bundle import load_bundle
from fovea_serving.gateway.routing import Served
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams import UpstreamFailed
from fovea_serving.upstreams.local import LocalUpstream
from fovea_store import StorePath

from tests.candidates import Edit, slow, unloadable, with_network, wrong

PHOTO = cv2.imencode(".png", np.full((24, 32, 3), 10, np.uint8))[1].tobytes()


def edited(bundle: Path, folder: Path, edit: Edit) -> Path:
    return Path(with_network(StorePath.parse(str(bundle)), StorePath.parse(str(folder)), edit).removeprefix("file://"))


@pytest_asyncio.fixture
async def garbage(detector: Path, tmp_path: Path) -> AsyncIterator[Served]:
    bundle = load_bundle(edited(detector, tmp_path, wrong(PHOTO)))
    served = Served.of(bundle.manifest, bundle.digest, LocalUpstream(Predictor.from_bundle(bundle, threads=1)))
    yield served
    await served.upstream.close()


async def test_scores_that_are_no_numbers_are_an_error(garbage: Served) -> None:
    with pytest.raises(UpstreamFailed, match="'scores' has values that are no numbers"):
        await garbage.upstream.predict([PHOTO])


async def test_the_golden_image_does_not_show_it(garbage: Served) -> None:
    await garbage.health.check()


async def test_tiles_are_looked_at_as_whole_images_are(garbage: Served) -> None:
    from fovea_serving.upstreams import PredictOptions

    large = cv2.imencode(".png", np.full((200, 300, 3), 10, np.uint8))[1].tobytes()
    with pytest.raises(UpstreamFailed, match="no numbers"):
        await garbage.upstream.predict([large], PredictOptions(tile=128))


def test_a_slow_network_gives_the_same_answers_later(detector: Path, tmp_path: Path) -> None:
    bundles = [load_bundle(each) for each in (detector, edited(detector, tmp_path, slow(0.5)))]
    predictors = [Predictor.from_bundle(each, threads=1) for each in bundles]

    async def ask(predictor: Predictor) -> tuple[float, object]:
        upstream = LocalUpstream(predictor)
        begun = time.perf_counter()
        (answer,) = await upstream.predict([PHOTO])
        seconds = time.perf_counter() - begun
        await upstream.close()
        return seconds, answer.prediction.to_dict(("red", "green", "blue"))

    (fast, expected), (late, found) = (asyncio.run(ask(each)) for each in predictors)
    assert found == expected
    assert late > fast


def test_what_is_no_network_cannot_be_loaded(detector: Path, tmp_path: Path) -> None:
    with pytest.raises(FoveaError):
        Predictor.from_bundle(load_bundle(edited(detector, tmp_path, unloadable)), threads=1)
