"""The gateway itself, without HTTP: it chooses a version, asks it in time, and knows whether it can answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fovea_api.modeldeployment import Inference

from fovea_serving.gateway.problems import DeadlineExceeded
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.upstreams import Answer, PredictOptions, UpstreamUnavailable


class Gateway:
    """All state of a gateway's process; used by one event loop.

    Args:
        inference: How requests are answered.
    """

    def __init__(self, inference: Inference | None = None) -> None:
        self.inference = inference or Inference()
        self.routing = Routing()
        self.draining = False
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def defaults(self) -> PredictOptions:
        """What the deployment chose for requests that choose nothing."""
        return PredictOptions(self.inference.confidence_threshold, max_detections=self.inference.max_detections)

    def route(self, routing: Routing) -> None:
        """Sends requests by this routing from now on. Versions that left it answer what they have begun, then close."""
        kept = {id(version.upstream) for version in routing.versions}
        former, self.routing = self.routing, routing
        for version in former.versions:
            if id(version.upstream) not in kept:
                task = asyncio.create_task(version.upstream.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def predict(self, version: Version, images: Sequence[bytes], options: PredictOptions) -> list[Answer]:
        """The answers of a version. Raises what `Upstream.predict` raises, and DeadlineExceeded."""
        try:
            async with asyncio.timeout(self.inference.timeout_seconds):
                return await version.upstream.predict(images, options)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer within {self.inference.timeout_seconds:g} s", None, "send smaller images or ask again"
            ) from None

    async def ready(self) -> None:
        """Returns when requests can be answered. Raises UpstreamUnavailable, with the reason."""
        if self.draining:
            raise UpstreamUnavailable("the gateway is shutting down")
        await self.routing.choose("ready").upstream.ready()

    async def close(self) -> None:
        """Answers what has been begun, and lets go of all versions."""
        self.route(Routing((), "the gateway is shutting down"))
        await asyncio.gather(*self._closing)
