"""The gateway itself, without HTTP: it chooses a version, asks it in time, and knows whether it can answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from fovea_api.errors import FoveaError
from fovea_api.gateway import LabelStudioHost
from fovea_api.modeldeployment import Inference

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.gateway.admission import Admission
from fovea_serving.gateway.authentication import Authenticator, Everybody
from fovea_serving.gateway.capturing import Observed
from fovea_serving.gateway.health import CHECK_SECONDS
from fovea_serving.gateway.metrics import Metrics
from fovea_serving.gateway.monitoring import Monitor
from fovea_serving.gateway.problems import ClientDisconnected, DeadlineExceeded, status_of
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.gateway.settings import Settings
from fovea_serving.gateway.trial import Asked, Choice, Trial, is_evidence
from fovea_serving.pipeline.header import ImageHeader, check_header
from fovea_serving.pipeline.tiles import MAX_TILES, tile_count
from fovea_serving.upstreams import Answer, InvalidOptions, Overloaded, PredictOptions, UpstreamUnavailable

log = logging.getLogger(__name__)

SHED_SECONDS = 10.0
"""How long too much load is known by what the stable version turned away: at such times it has room again and again for
an instant, and a candidate that turns requests away does no worse."""
CLIENT_CLOSED = 499
"""The customary code for a request whose client did not wait; it appears in metrics only."""


@dataclass(slots=True)
class Call:
    """A request on its way, and what became of it.

    Args:
        request_id: Its id, which also decides over the version.
        client: Digest of who asks.
        waits: Whether it is asked again until there is room.
    """

    request_id: str
    client: str
    waits: bool = False
    version: Version | None = None
    begun: float | None = None
    """When it was there as a whole, by `time.perf_counter`."""
    tested: bool = False
    """Whether it fell to one of two versions that are compared."""
    turned_away: bool = False
    """Whether the candidate had no room for it, and the stable version had."""

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
        self.label_studio: LabelStudioHost | None = None
        """Where images of Label Studio's tasks may be fetched from."""
        self.routing = Routing()
        self.configured = False
        """Whether a configuration has been applied."""
        self.draining = False
        self._settings = settings
        self.admission = self.new_admission()
        self.admission_of_candidate = self.new_admission()
        """Its own: a candidate that hangs turns no other requests away."""
        self._stable_was_full = -math.inf
        """When the stable version turned a request away last, by `time.monotonic`."""
        self.metrics = Metrics()
        self.monitor = Monitor(self.metrics.drift)
        self._background: set[asyncio.Task[None]] = set()
        self._trial = Trial(self._in_time, self.metrics, self._in_background, self.monitor.compared)

    def route(self, routing: Routing) -> None:
        """Sends requests by this routing from now on. Versions that left it answer what they have begun, then close."""
        kept = {id(version.model) for version in routing.versions}
        former, self.routing = self.routing, routing
        if former.candidate is None:
            self.admission_of_candidate = self.new_admission()
        self.metrics.routing(routing)
        self.monitor.route(routing.versions)
        for version in former.versions:
            if id(version.model) not in kept:
                self._in_background(version.model.upstream.close())

    @contextmanager
    def call(self, request_id: str, client: str, *, waits: bool = False) -> Iterator[Call]:
        """While a request is answered; counts it at the end, whatever its end is."""
        call = Call(request_id, client, waits)
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
            counts = call.tested and (is_evidence(code) or call.turned_away)
            if counts and call.version is not None and call.seconds is not None:
                self.metrics.tested(call.version, code, call.seconds)

    async def predict(self, call: Call, images: Sequence[bytes], choice: Choice) -> Answered:
        """The answers of the version that the call's id falls to; another version may be asked in the background.

        Raises what `check_header` and `Upstream.predict` raise, and DeadlineExceeded.
        """
        call.begun = time.perf_counter()
        places = [f"image {index + 1}" for index in range(len(images))] if len(images) > 1 else ["image"]
        limit = self.inference.max_image_megapixels
        headers = [check_header(image, limit, place) for image, place in zip(images, places, strict=True)]
        try:
            answered = await self._admitted(call, images, headers, choice)
        except FoveaError as error:
            self._tried(call, images, choice, status_of(error).value, None)
            raise
        self.metrics.images(answered.version, images, headers)
        self.metrics.answers(answered.version, answered.answers)
        self.monitor.answered(
            Observed(
                call.request_id,
                call.client,
                answered.version,
                images,
                headers,
                answered.answers,
                self._is_plain(answered.version, choice),
            )
        )
        self._tried(call, images, choice, 200, answered.answers)
        return answered

    async def suggest(self, version: Version, images: Sequence[bytes]) -> Sequence[Answer]:
        """Answers of a version to images that are no traffic, such as those that somebody labels: neither counted nor
        kept. Raises what `predict` raises.
        """
        limit = self.inference.max_image_megapixels
        for image in images:
            check_header(image, limit, "image")
        with self.admission.admit(len(images)):
            return await self._in_time(version, images, lambda manifest, defaults: defaults)

    @property
    def at_work(self) -> int:
        """Images that were taken in and are not answered yet."""
        return self.admission.at_work + self.admission_of_candidate.at_work

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
        await asyncio.gather(*self._background, return_exceptions=True)  # what fails is logged, and ends nothing else
        await asyncio.to_thread(self.monitor.close)

    async def _admitted(
        self, call: Call, images: Sequence[bytes], headers: Sequence[ImageHeader], choice: Choice
    ) -> Answered:
        version = self.routing.choose(call.request_id)
        admission = self.admission_of_candidate if version.role == "Candidate" else self.admission
        work = self._work(version, headers, choice)
        try:
            with admission.admit(work):
                async with self._deadline():
                    return await self._ask(call, images, choice)
        except Overloaded:
            asked, now = call.version or version, time.monotonic()
            if asked.role != "Candidate":
                self._stable_was_full = now
            elif not call.waits and now - self._stable_was_full > SHED_SECONDS and self.admission.has_room(work):
                call.version, call.tested, call.turned_away = asked, True, True
            raise

    async def _ask(self, call: Call, images: Sequence[bytes], choice: Choice) -> Answered:
        while True:
            routing = self.routing
            version = call.version = routing.choose(call.request_id)
            call.tested = routing.candidate is not None
            options = self._options(version, choice)
            try:
                return Answered(version, await version.model.upstream.predict(images, options))
            except UpstreamUnavailable:
                if routing is self.routing:
                    raise
                # The version was replaced meanwhile: another one answers.

    def _work(self, version: Version, headers: Sequence[ImageHeader], choice: Choice) -> int:
        """How many times the network runs for a request. Raises InvalidOptions where tiles are too many."""
        tile = self._options(version, choice).tile
        if tile is None:
            return len(headers)
        count = sum(tile_count(header.width, header.height, tile) for header in headers)
        if count > MAX_TILES:
            raise InvalidOptions(f"{count} tiles in one request", "tile", f"choose larger ones: at most {MAX_TILES}")
        return count

    def _is_plain(self, version: Version, choice: Choice) -> bool:
        """Whether the answer is what the model says by its own threshold, as its reference profile has it."""
        options = self._options(version, choice)
        own = version.model.manifest.postprocessing.confidence_threshold
        return options.confidence in (None, own) and options.classes is None and options.tile is None

    def _options(self, version: Version, choice: Choice) -> PredictOptions:
        inference = self.inference
        defaults = PredictOptions(inference.confidence_threshold, max_detections=inference.max_detections)
        return choice(version.model.manifest, defaults)

    def _tried(
        self, call: Call, images: Sequence[bytes], choice: Choice, code: int, answers: Sequence[Answer] | None
    ) -> None:
        """What a request, answered so, is followed by while a candidate is tried."""
        if (version := call.version) is not None and self.routing.on_trial is not None:
            asked = Asked(
                request_id=call.request_id,
                images=images,
                choice=choice,
                version=version,
                code=code,
                seconds=call.seconds or 0.0,
                answers=answers,
                client=call.client,
            )
            self._trial.after(self.routing, asked)

    async def _in_time(self, version: Version, images: Sequence[bytes], choice: Choice) -> Sequence[Answer]:
        """The answers of a version to a copy of a request."""
        async with self._deadline():
            return await version.model.upstream.predict(images, self._options(version, choice))

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Gives up what takes longer than `inference.timeoutSeconds`. Raises DeadlineExceeded then."""
        try:
            async with asyncio.timeout(self.inference.timeout_seconds):
                yield
        except TimeoutError:
            words = f"no answer within {self.inference.timeout_seconds:g} s"
            raise DeadlineExceeded(words, None, "send smaller images or ask again") from None

    def new_admission(self) -> Admission:
        """One with nothing at work and nothing measured."""
        settings = self._settings
        always = self.inference.batching.max_size + usable_cpus()
        return Admission(settings.max_wait_seconds, always, settings.max_at_work)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("failed in the background", exc_info=error)
