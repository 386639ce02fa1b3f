"""Decoding and post-processing in this process, whatever runs the network: a model loaded here, or Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.batching import BatchedOutputs, Tensor
from fovea_serving.pipeline import Geometry, Postprocess, Prediction, Preprocess, decode, prediction_type
from fovea_serving.pipeline.tiles import Tile, tiles_of
from fovea_serving.upstreams.base import DEFAULTS, Answer, PredictOptions, UpstreamFailed, UpstreamUnavailable

TILES_AT_ONCE = 16
"""Tiles of an image whose inputs are in memory at the same time."""

_T = TypeVar("_T")


class Network(Protocol):
    """Turns prepared images into outputs, those of different requests in batches."""

    def announce(self) -> AbstractContextManager[None]:
        """While an image is being prepared; it is submitted before the end."""

    def submit(self, image: Tensor) -> Awaitable[BatchedOutputs]:
        """The outputs for an image `[3, height, width]`, later; see `Upstream.predict` for what it raises."""

    async def ready(self) -> None:
        """See `Upstream.ready`."""

    async def close(self) -> None:
        """Ends when what was submitted is answered."""


class PipelineUpstream:
    """Decodes and post-processes in as many threads as there are CPUs.

    Args:
        preprocess: What turns an image into the network's input.
        postprocess: What turns its outputs into predictions.
        network: What runs it.
        threads: Images that are decoded at the same time; 0: as many as this process may use CPUs.
    """

    def __init__(self, preprocess: Preprocess, postprocess: Postprocess, network: Network, threads: int = 0) -> None:
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._network = network
        self._threads = ThreadPoolExecutor(threads or usable_cpus(), "images")
        self._at_work = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        self._check_open()
        self._at_work += 1
        self._idle.clear()
        try:
            places = [f"image {index + 1}" for index in range(len(images))] if len(images) != 1 else ["image"]
            answer = self._whole if options.tile is None else self._tiled
            return await _all([answer(data, place, options) for data, place in zip(images, places, strict=True)])
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    async def ready(self) -> None:
        self._check_open()
        await self._network.ready()

    async def close(self) -> None:
        self._closed = True
        await self._idle.wait()
        await self._network.close()
        self._threads.shutdown(wait=False)

    async def _whole(self, data: bytes, place: str, options: PredictOptions) -> Answer:
        ran, geometry = await self._run(lambda: self._preprocess(decode(data, place)))
        confidence = options.threshold(self._postprocess.confidence_threshold)

        def answer() -> Answer:
            with _readable(ran.outputs):
                (prediction,) = self._postprocess(ran.outputs, [geometry], confidence=confidence)
            return self._answer(prediction, geometry.original, ran.batch_size, options)

        return await self._in_thread(answer)

    async def _tiled(self, data: bytes, place: str, options: PredictOptions) -> Answer:
        assert options.tile is not None
        pixels = await self._in_thread(lambda: decode(data, place))
        height, width = pixels.shape[:2]
        tiles = tiles_of(width, height, options.tile)
        at_once = asyncio.Semaphore(TILES_AT_ONCE)
        sizes: list[int] = []

        def read(ran: BatchedOutputs, geometry: Geometry) -> Prediction:
            with _readable(ran.outputs):
                (prediction,) = self._postprocess(ran.outputs, [geometry])
            return prediction

        async def predict(tile: Tile) -> tuple[Prediction, Tile]:
            async with at_once:
                part = pixels[tile.top : tile.bottom, tile.left : tile.right]
                ran, geometry = await self._run(lambda: self._preprocess(part))
                sizes.append(ran.batch_size or 0)
                return await self._in_thread(lambda: read(ran, geometry)), tile

        parts = await _all([predict(tile) for tile in tiles])
        kind = prediction_type(self._postprocess.task)

        def merge() -> Answer:
            merged = kind.merge(parts, self._postprocess)
            return self._answer(merged, (width, height), max(sizes) or None, options)

        return await self._in_thread(merge)

    async def _run(self, prepare: Callable[[], tuple[Tensor, Geometry]]) -> tuple[BatchedOutputs, Geometry]:
        with self._network.announce():
            tensor, geometry = await self._in_thread(prepare)
            running = self._network.submit(tensor)
        return await running, geometry

    def _answer(
        self, prediction: Prediction, size: tuple[int, int], batch_size: int | None, options: PredictOptions
    ) -> Answer:
        selected = options.select(prediction, self._postprocess.confidence_threshold)
        return Answer(selected, *size, batch_size)

    def _check_open(self) -> None:
        if self._closed:
            raise UpstreamUnavailable("the model is being unloaded")

    def _in_thread(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


@contextmanager
def _readable(outputs: Mapping[str, NDArray[np.float32]]) -> Iterator[None]:
    """While outputs become a prediction. Raises UpstreamFailed where they cannot: an object with a score or a corner
    that is no number would be left out, as if the image showed none."""
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise UpstreamFailed(f"the network's output {name!r} has values that are no numbers")
    try:
        yield
    except (ArithmeticError, LookupError, ValueError) as error:
        raise UpstreamFailed(f"the network's outputs cannot be read: {type(error).__name__}: {error}") from error


async def _all(parts: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All results in order, or the first error after the others were given up."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    except Exception:
        for task in tasks:
            task.cancel()
        raise
