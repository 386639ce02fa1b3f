"""The gateway itself, without HTTP: it chooses a version, asks it in time, and knows whether it can answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fovea_api.bundle import BundleManifest
from fovea_api.errors import FoveaError
from fovea_api.modeldeployment import Inference

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.gateway.admission import Admission
from fovea_serving.gateway.authentication import Authenticator, Everybody
from fovea_serving.gateway.health import CHECK_SECONDS
from fovea_serving.gateway.metrics import Metrics
from fovea_serving.gateway.problems import ClientDisconnected, DeadlineExceeded, status_of
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.gateway.settings import Settings
from fovea_serving.pipeline.header import ImageHeader, check_header
from fovea_serving.pipeline.tiles import MAX_TILES, tile_count
from fovea_serving.upstreams import Answer, InvalidOptions, PredictOptions, UpstreamUnavailable

log = logging.getLogger(__name__)

CLIENT_CLOSED = 499
"""The customary code for a request whose client did not wait; it appears in metrics only."""
MAX_COPIES = 32
"""Copies of requests that shadows work on at most; further ones are left out, because no request waits for a shadow."""

Choice = Callable[[BundleManifest, PredictOptions], PredictOptions]
"""What a request chose, from the manifest of the model that answers and the deployment's defaults."""


@dataclass(slots=True)
class Call:
    """A request on its way, and what became of it.

    Args:
        request_id: Its id, which also decides over the version.
    """

    request_id: str
    version: Version | None = None
    begun: float | None = None
    """When it was there as a whole, by `time.perf_counter`."""

    @property
    def seconds(self) -> float | None:
        """Time since then."""
        return None if self.begun is None else time.perf_counter() - self.begun


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers, and whose they are."""

    version: Version
    answers: Sequence[Answer]


class Gateway:
    """All state of a gateway's process; used by one event loop.

    Args:
        inference: How requests are answered.
        settings: Limits.
    """

    def __init__(self, inference: Inference | None = None, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.inference = inference or Inference()
        self.authenticator: Authenticator = Everybody()
        self.name = ""
        self.routing = Routing()
        self.configured = False
        """Whether a configuration has been applied."""
        self.draining = False
        self.admission = Admission(
            settings.max_wait_seconds, self.inference.batching.max_size + usable_cpus(), settings.max_at_work
        )
        self.metrics = Metrics()
        self._background: set[asyncio.Task[None]] = set()
        self._copies = 0

    def route(self, routing: Routing) -> None:
        """Sends requests by this routing from now on. Versions that left it answer what they have begun, then close."""
        kept = {id(version.model) for version in routing.versions}
        former, self.routing = self.routing, routing
        self.metrics.routing(routing)
        for version in former.versions:
            if id(version.model) not in kept:
                self._in_background(version.model.upstream.close())

    @contextmanager
    def call(self, request_id: str) -> Iterator[Call]:
        """While a request is answered; counts it at the end, whatever its end is."""
        call = Call(request_id)
        code, reason = 500, "Unexpected"
        try:
            yield call
            code, reason = 200, ""
        except ClientDisconnected as error:
            code, reason = CLIENT_CLOSED, error.reason
            raise
        except FoveaError as error:
            code, reason = status_of(error).value, error.reason
            raise
        except asyncio.CancelledError:
            code, reason = CLIENT_CLOSED, "Cancelled"
            raise
        finally:
            self.metrics.request(call.version, code, reason, call.seconds)

    async def predict(self, call: Call, images: Sequence[bytes], choice: Choice) -> Answered:
        """The answers of the version that the call's id falls to; the shadows get copies.

        Raises what `check_header` and `Upstream.predict` raise, and DeadlineExceeded.
        """
        call.begun = time.perf_counter()
        places = [f"image {index + 1}" for index in range(len(images))] if len(images) > 1 else ["image"]
        limit = self.inference.max_image_megapixels
        headers = [check_header(image, limit, place) for image, place in zip(images, places, strict=True)]
        with self.admission.admit(self._work(call, headers, choice)):
            try:
                async with asyncio.timeout(self.inference.timeout_seconds):
                    answered = await self._ask(call, images, choice)
            except TimeoutError:
                words = f"no answer within {self.inference.timeout_seconds:g} s"
                raise DeadlineExceeded(words, None, "send smaller images or ask again") from None
        self.metrics.images(answered.version, images, headers)
        self.metrics.answers(answered.version, answered.answers)
        for shadow in self.routing.shadows:
            self._copy(shadow, images, choice)
        return answered

    async def ready(self) -> None:
        """Returns when a version answers, and rightly. Raises UpstreamUnavailable, with the reason."""
        if self.draining:
            raise UpstreamUnavailable("the gateway is shutting down")
        answering = self.routing.answering
        looks = await asyncio.gather(*(version.model.health.check() for version in answering), return_exceptions=True)
        errors = [look for look in looks if look is not None]
        for version, error in zip(answering, looks, strict=True):
            self.metrics.ready(version, error is None)
            if error is not None:
                log.warning("%s: %s", version.name, error)
        if len(errors) == len(answering):
            raise errors[0] if errors else UpstreamUnavailable(self.routing.reason)

    async def watch_health(self) -> None:
        """Looks at all versions every minute, whether anybody asks or not."""
        while True:
            with contextlib.suppress(UpstreamUnavailable):
                await self.ready()
            await asyncio.sleep(CHECK_SECONDS)

    async def close(self) -> None:
        """Answers what has been begun, and lets go of all versions."""
        self.route(Routing((), "the gateway is shutting down"))
        await asyncio.gather(*self._background)

    async def _ask(self, call: Call, images: Sequence[bytes], choice: Choice) -> Answered:
        while True:
            routing = self.routing
            version = call.version = routing.choose(call.request_id)
            options = self._options(version, choice)
            try:
                return Answered(version, await version.model.upstream.predict(images, options))
            except UpstreamUnavailable:
                if routing is self.routing:
                    raise
                # The version was replaced meanwhile: another one answers.

    def _work(self, call: Call, headers: Sequence[ImageHeader], choice: Choice) -> int:
        """How many times the network runs for a request. Raises InvalidOptions where tiles are too many."""
        tile = self._options(self.routing.choose(call.request_id), choice).tile
        if tile is None:
            return len(headers)
        count = sum(tile_count(header.width, header.height, tile) for header in headers)
        if count > MAX_TILES:
            raise InvalidOptions(f"{count} tiles in one request", "tile", f"choose larger ones: at most {MAX_TILES}")
        return count

    def _options(self, version: Version, choice: Choice) -> PredictOptions:
        inference = self.inference
        defaults = PredictOptions(inference.confidence_threshold, max_detections=inference.max_detections)
        return choice(version.model.manifest, defaults)

    def _copy(self, shadow: Version, images: Sequence[bytes], choice: Choice) -> None:
        async def ask() -> None:
            try:
                with self.call("copy") as call:
                    call.version, call.begun = shadow, time.perf_counter()
                    async with asyncio.timeout(self.inference.timeout_seconds):
                        answers = await shadow.model.upstream.predict(images, self._options(shadow, choice))
                    self.metrics.answers(shadow, answers)
            except (FoveaError, TimeoutError) as error:
                log.debug("shadow %s failed: %s", shadow.name, error)
            finally:
                self._copies -= 1

        if self._copies < MAX_COPIES:
            self._copies += 1
            self._in_background(ask())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("failed in the background", exc_info=error)
