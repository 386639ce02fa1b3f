"""Decoding and post-processing in this process, whatever runs the network: a model loaded here, or Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.batching import BatchedOutputs, Tensor
from fovea_serving.pipeline import Geometry, Postprocess, Preprocess, decode
from fovea_serving.upstreams.base import DEFAULTS, Answer, PredictOptions, UpstreamUnavailable

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
            outputs = await _all([self._outputs(data, place) for data, place in zip(images, places, strict=True)])
            return await self._in_thread(lambda: [self._answer(*pair, options) for pair in outputs])
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

    async def _outputs(self, data: bytes, place: str) -> tuple[BatchedOutputs, Geometry]:
        with self._network.announce():
            tensor, geometry = await self._in_thread(lambda: self._preprocess(decode(data, place)))
            running = self._network.submit(tensor)
        return await running, geometry

    def _answer(self, ran: BatchedOutputs, geometry: Geometry, options: PredictOptions) -> Answer:
        (prediction,) = self._postprocess(ran.outputs, [geometry])
        selected = options.select(prediction, self._postprocess.confidence_threshold)
        return Answer(selected, *geometry.original, ran.batch_size)

    def _check_open(self) -> None:
        if self._closed:
            raise UpstreamUnavailable("the model is being unloaded")

    def _in_thread(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


async def _all(parts: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All results in order, or the first error after the others were given up."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    except Exception:
        for task in tasks:
            task.cancel()
        raise
