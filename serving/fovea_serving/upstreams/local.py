"""The model in the gateway's own process: `fovea serve BUNDLE`, and the whole of a Ray Serve replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fovea_api.modeldeployment import Batching

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.batching import BatchedOutputs, Batcher
from fovea_serving.pipeline import Geometry, decode
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.base import DEFAULTS, Answer, PredictOptions, UpstreamFailed, UpstreamUnavailable

_T = TypeVar("_T")


class LocalUpstream:
    """Decodes and post-processes in as many threads as there are CPUs, and runs the network in batches.

    Args:
        predictor: The loaded model.
        batching: How requests are put together. A model of fixed batch size decides for itself.
        threads: Images that are decoded at the same time; 0: as many as this process may use CPUs.
    """

    def __init__(self, predictor: Predictor, batching: Batching | None = None, threads: int = 0) -> None:
        batching = batching or Batching()
        self._predictor = predictor
        self._batcher = Batcher(
            predictor.run, predictor.fixed_batch or batching.max_size, batching.max_delay_milliseconds / 1000
        )
        self._threads = ThreadPoolExecutor(threads or usable_cpus(), "images")
        self._at_work = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        if self._closed:
            raise UpstreamUnavailable("the model is being unloaded")
        self._at_work += 1
        self._idle.clear()
        try:
            places = [f"image {index + 1}" for index in range(len(images))] if len(images) > 1 else ["image"]
            outputs = await _all([self._outputs(data, place) for data, place in zip(images, places, strict=True)])
            return await self._in_thread(lambda: [self._answer(*pair, options) for pair in outputs])
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    async def ready(self) -> None:
        if self._closed:
            raise UpstreamUnavailable("the model is being unloaded")

    async def close(self) -> None:
        self._closed = True
        await self._idle.wait()
        await asyncio.to_thread(self._batcher.close)
        self._threads.shutdown(wait=False)

    async def _outputs(self, data: bytes, place: str) -> tuple[BatchedOutputs, Geometry]:
        with self._batcher.announce():
            tensor, geometry = await self._in_thread(lambda: self._predictor.preprocess(decode(data, place)))
            running = self._batcher.submit(tensor)
        try:
            return await asyncio.wrap_future(running), geometry
        except Exception as error:  # whatever the backend raises
            raise UpstreamFailed(f"the network failed: {type(error).__name__}: {error}", place) from error

    def _answer(self, ran: BatchedOutputs, geometry: Geometry, options: PredictOptions) -> Answer:
        (prediction,) = self._predictor.postprocess(ran.outputs, [geometry])
        selected = options.select(prediction, self._predictor.postprocess.confidence_threshold)
        return Answer(selected, *geometry.original, ran.batch_size)

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
