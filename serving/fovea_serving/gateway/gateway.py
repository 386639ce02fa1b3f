"""The gateway itself, without HTTP: it chooses a version, asks it in time, and knows whether it can answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from fovea_api.bundle import BundleManifest
from fovea_api.errors import FoveaError
from fovea_api.modeldeployment import Inference

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.gateway.admission import Admission
from fovea_serving.gateway.authentication import Authenticator, Everybody
from fovea_serving.gateway.health import CHECK_SECONDS
from fovea_serving.gateway.problems import DeadlineExceeded
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.gateway.settings import Settings
from fovea_serving.pipeline.header import check_header
from fovea_serving.upstreams import Answer, PredictOptions, UpstreamUnavailable

log = logging.getLogger(__name__)

MAX_COPIES = 32
"""Copies of requests that shadows work on at most; further ones are left out, because no request waits for a shadow."""

Choice = Callable[[BundleManifest, PredictOptions], PredictOptions]
"""What a request chose, from the manifest of the model that answers and the deployment's defaults."""


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
        self.routing = Routing()
        self.configured = False
        """Whether a configuration has been applied."""
        self.draining = False
        self.admission = Admission(
            settings.max_wait_seconds, self.inference.batching.max_size + usable_cpus(), settings.max_at_work
        )
        self._background: set[asyncio.Task[None]] = set()
        self._copies = 0

    def route(self, routing: Routing) -> None:
        """Sends requests by this routing from now on. Versions that left it answer what they have begun, then close."""
        kept = {id(version.model) for version in routing.versions}
        former, self.routing = self.routing, routing
        for version in former.versions:
            if id(version.model) not in kept:
                self._in_background(version.model.upstream.close())

    async def predict(self, request_id: str, images: Sequence[bytes], choice: Choice) -> Answered:
        """The answers of the version that the id falls to; the shadows get copies.

        Raises what `check_header` and `Upstream.predict` raise, and DeadlineExceeded.
        """
        for index, image in enumerate(images):
            place = f"image {index + 1}" if len(images) > 1 else "image"
            check_header(image, self.inference.max_image_megapixels, place)
        with self.admission.admit(len(images)):
            try:
                async with asyncio.timeout(self.inference.timeout_seconds):
                    answered = await self._ask(request_id, images, choice)
            except TimeoutError:
                limit = f"{self.inference.timeout_seconds:g} s"
                raise DeadlineExceeded(f"no answer within {limit}", None, "send smaller images or ask again") from None
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

    async def _ask(self, request_id: str, images: Sequence[bytes], choice: Choice) -> Answered:
        while True:
            routing = self.routing
            version = routing.choose(request_id)
            options = self._options(version, choice)
            try:
                return Answered(version, await version.model.upstream.predict(images, options))
            except UpstreamUnavailable:
                if routing is self.routing:
                    raise
                # The version was replaced meanwhile: another one answers.

    def _options(self, version: Version, choice: Choice) -> PredictOptions:
        inference = self.inference
        defaults = PredictOptions(inference.confidence_threshold, max_detections=inference.max_detections)
        return choice(version.model.manifest, defaults)

    def _copy(self, shadow: Version, images: Sequence[bytes], choice: Choice) -> None:
        async def ask() -> None:
            try:
                async with asyncio.timeout(self.inference.timeout_seconds):
                    await shadow.model.upstream.predict(images, self._options(shadow, choice))
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
