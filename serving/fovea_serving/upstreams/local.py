"""The model in the gateway's own process: `fovea serve BUNDLE`, and the whole of a Ray Serve replica."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

from fovea_api.modeldeployment import Batching

from fovea_serving.batching import BatchedOutputs, Batcher, Tensor
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.base import UpstreamFailed
from fovea_serving.upstreams.pipeline import PipelineUpstream


class LocalUpstream(PipelineUpstream):
    """The whole way from bytes to predictions in this process.

    Args:
        predictor: The loaded model.
        batching: How requests are put together. A model of fixed batch size decides for itself.
        threads: Images that are decoded at the same time; 0: as many as this process may use CPUs.
    """

    def __init__(self, predictor: Predictor, batching: Batching | None = None, threads: int = 0) -> None:
        network = LocalNetwork(predictor, batching or Batching())
        super().__init__(predictor.preprocess, predictor.postprocess, network, threads)


class LocalNetwork:
    """A predictor's network, in batches."""

    def __init__(self, predictor: Predictor, batching: Batching) -> None:
        size = predictor.fixed_batch or batching.max_size
        self._batcher = Batcher(predictor.run, size, batching.max_delay_milliseconds / 1000)

    def announce(self) -> AbstractContextManager[None]:
        return self._batcher.announce()

    def submit(self, image: Tensor) -> asyncio.Future[BatchedOutputs]:
        running = asyncio.wrap_future(self._batcher.submit(image))
        return asyncio.ensure_future(_explained(running))

    async def ready(self) -> None:
        """A model that is loaded can answer."""

    async def close(self) -> None:
        await asyncio.to_thread(self._batcher.close)


async def _explained(running: asyncio.Future[BatchedOutputs]) -> BatchedOutputs:
    try:
        return await running
    except Exception as error:  # whatever the backend raises
        raise UpstreamFailed(f"the network failed: {type(error).__name__}: {error}") from error
