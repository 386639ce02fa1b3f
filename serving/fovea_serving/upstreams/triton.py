"""A version that Triton runs: images are prepared and outputs are read here, the network alone is asked, by gRPC.

gRPC rather than HTTP with binary tensors, which cost half as much CPU again in this process for each request.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext

import grpc
import numpy as np
from fovea_api.bundle import BundleManifest
from fovea_api.gateway import GatewayConfig, ServedVersion
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from fovea_serving.backends.base import INPUT
from fovea_serving.batching import BatchedOutputs, Tensor
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.runtimes.triton import MODEL
from fovea_serving.upstreams.base import Overloaded, UpstreamFailed, UpstreamUnavailable
from fovea_serving.upstreams.pipeline import PipelineUpstream
from fovea_serving.upstreams.registry import register
from fovea_serving.upstreams.underway import UnderWay

RECONNECT_MILLISECONDS = 1000
"""Longest pause before a server that was away is tried again."""
ATTEMPTS = 2
"""Of a request whose connection broke under it: a restarted server answers the same request."""
CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLISECONDS),
    ("grpc.keepalive_time_ms", 30_000),  # a node that vanished is noticed
    ("grpc.keepalive_timeout_ms", 5_000),
]


class TritonNetwork:
    """The model of a repository that `runtimes.triton` has written.

    Args:
        address: `host:port` of Triton's gRPC.
        outputs: Names of the outputs that are read.
        timeout: Seconds after which a request is given up.
    """

    def __init__(self, address: str, outputs: tuple[str, ...], timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._under_way = UnderWay(address)
        self._outputs = [InferRequestedOutput(name) for name in outputs]
        self._client = InferenceServerClient(address, channel_args=CHANNEL)

    def announce(self) -> AbstractContextManager[None]:
        """Triton's batcher takes what has come; it cannot be promised anything."""
        return nullcontext()

    def submit(self, image: Tensor) -> asyncio.Task[BatchedOutputs]:
        return asyncio.create_task(self._infer(image))

    async def ready(self) -> None:
        try:
            loaded = await self._client.is_model_ready(MODEL, client_timeout=self._timeout)
        except InferenceServerException as error:
            raise explain(error, self._address) from error
        if not loaded:
            raise UpstreamUnavailable("Triton has not loaded the model", self._address)

    async def close(self) -> None:
        await self._under_way.close()
        await self._client.close()

    async def _infer(self, image: Tensor) -> BatchedOutputs:
        with self._under_way.call():
            return await self._asked(image)

    async def _asked(self, image: Tensor) -> BatchedOutputs:
        tensor = InferInput(INPUT, [1, *image.shape], "FP32")
        tensor.set_data_from_numpy(image[None])
        for attempt in range(1, ATTEMPTS + 1):
            try:
                result = await self._client.infer(MODEL, [tensor], outputs=self._outputs, client_timeout=self._timeout)
                break
            except InferenceServerException as error:
                failure = explain(error, self._address)
                if attempt == ATTEMPTS or not isinstance(failure, UpstreamUnavailable):
                    raise failure from error
        arrays = {output.name(): result.as_numpy(output.name()) for output in self._outputs}
        if missing := [name for name, array in arrays.items() if array is None or not np.size(array)]:
            raise UpstreamFailed(f"Triton gives no {', '.join(missing)}", self._address)
        return BatchedOutputs(arrays, None)


def explain(error: InferenceServerException, place: str) -> UpstreamUnavailable | UpstreamFailed | Overloaded:
    """What Triton, or gRPC on the way to it, says."""
    status, message = str(error.status()), str(error.message()).strip()
    code = status.removeprefix("StatusCode.")
    if code == grpc.StatusCode.UNAVAILABLE.name and "queue" in message:  # its scheduler's: full, or waited too long
        return Overloaded(f"Triton: {message}")
    if code in (grpc.StatusCode.UNAVAILABLE.name, grpc.StatusCode.CANCELLED.name):
        return UpstreamUnavailable(f"Triton cannot be reached: {message}", place)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED.name:
        return UpstreamUnavailable("Triton does not answer in time", place)
    if code == grpc.StatusCode.NOT_FOUND.name or "is not ready" in message:
        return UpstreamUnavailable(f"Triton has no such model: {message}", place)
    return UpstreamFailed(f"Triton: {message}", place)


@register("Triton")
def open_triton(version: ServedVersion, manifest: BundleManifest, config: GatewayConfig) -> PipelineUpstream:
    """The upstream of a version in Triton."""
    postprocess = Postprocess.from_manifest(manifest.task, manifest.postprocessing)
    network = TritonNetwork(version.address, postprocess.outputs, config.inference.timeout_seconds)
    return PipelineUpstream(Preprocess.from_manifest(manifest.preprocessing), postprocess, network)
