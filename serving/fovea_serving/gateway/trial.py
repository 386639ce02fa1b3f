"""How a candidate is tried beside the requests: copies for a shadow, and comparisons with the stable version.

All of it happens in the background after the request was answered, and is bounded: what is too much is left out and
counted, so no request waits or fails for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fovea_api.bundle import BundleManifest
from fovea_api.errors import FoveaError

from fovea_serving.gateway.metrics import Metrics
from fovea_serving.gateway.problems import status_of
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.upstreams import Answer, PredictOptions

log = logging.getLogger(__name__)

MAX_COPIES = 32
"""Copies of requests that are under way at most."""
MAX_COPY_BYTES = 64 * 2**20
"""Bytes of their images at most: a shadow that hangs holds them until the deadline, and a gateway has little memory."""
AGREEMENT = 0.5
"""Two answers are the same from this agreement of each image on, see `Prediction.agreement`."""

Choice = Callable[[BundleManifest, PredictOptions], PredictOptions]
"""What a request chose, from the manifest of the model that answers and the deployment's defaults."""
Ask = Callable[[Version, Sequence[bytes], Choice], Awaitable[Sequence[Answer]]]
"""Asks a version, in time. Raises what `Upstream.predict` raises, and DeadlineExceeded."""


def is_evidence(code: int) -> bool:
    """Whether an answer says something of the version: a request that was wrong or shed does not. One whose client left
    (499) does: it took as long as it took."""
    return code < 400 or code >= 499


def counted_as(code: int, asked: Asked) -> int | None:
    """How the answer to a copy is counted; None: not at all. What stable answered and its copy was refused as wrong
    would fail once the candidate serves."""
    if is_evidence(code):
        return code
    return 500 if asked.answers is not None and code != 429 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, and what became of it.

    Args:
        request_id: Its id.
        images: Its image files.
        choice: What it chose.
        version: The version that it fell to.
        code: Status of the answer.
        seconds: Time until the answer.
        client: Digest of who asked.
        answers: None: it failed.
    """

    request_id: str
    images: Sequence[bytes]
    choice: Choice
    version: Version
    code: int
    seconds: float
    client: str
    answers: Sequence[Answer] | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A request that candidate and stable answered.

    Args:
        asked: The request, and what its client got.
        candidate: The version that is tried.
        answers: Its answers.
        stable: The version that it is compared with.
        others: Its answers.
        same: Whether they agree.
    """

    asked: Asked
    candidate: Version
    answers: Sequence[Answer]
    stable: Version
    others: Sequence[Answer]
    same: bool


class Trial:
    """Asks a second version, in the background.

    Args:
        ask: Asks a version.
        metrics: What counts.
        start: Runs something in the background.
        compared: Gets each pair of answers.
    """

    def __init__(
        self,
        ask: Ask,
        metrics: Metrics,
        start: Callable[[Coroutine[Any, Any, None]], None],
        compared: Callable[[Pair], None],
    ) -> None:
        self._ask = ask
        self._metrics = metrics
        self._start = start
        self._compared = compared
        self._under_way = 0
        self._bytes = 0

    def after(self, routing: Routing, asked: Asked) -> None:
        """What a request is followed by: of the stable version's each goes to the shadow too, whatever became of it; of
        those that the candidate answered a share goes to the stable version too."""
        stable, shadow = routing.stable, routing.shadow
        role, answers = asked.version.role, asked.answers
        if role == "Stable" and shadow is not None and is_evidence(asked.code):
            self._copy(shadow, asked, self._shadow(shadow, asked))
        mirrored = role == "Candidate" and routing.mirrors(asked.request_id)
        if mirrored and stable is not None and answers is not None:
            self._copy(stable, asked, self._mirror(stable, asked, answers))

    def _copy(self, version: Version, asked: Asked, work: Coroutine[Any, Any, None]) -> None:
        size = sum(map(len, asked.images))
        if self._under_way >= MAX_COPIES or self._bytes + size > MAX_COPY_BYTES:
            work.close()
            self._metrics.copy_shed(version)
            return

        async def counted() -> None:
            try:
                await work
            finally:
                self._under_way -= 1
                self._bytes -= size

        self._under_way += 1
        self._bytes += size
        self._start(counted())

    async def _shadow(self, shadow: Version, asked: Asked) -> None:
        """Both are counted by this request or none is, so that both have had the same ones."""
        begun, answers, code, reason = time.perf_counter(), None, 500, "Unexpected"
        try:
            answers = await self._ask(shadow, asked.images, asked.choice)
            code, reason = 200, ""
        except FoveaError as error:
            code, reason = status_of(error).value, error.reason
            log.debug("shadow %s failed: %s", shadow.name, error)
        finally:
            seconds = time.perf_counter() - begun
            self._metrics.request(shadow, code, reason, seconds)
            if (counted := counted_as(code, asked)) is not None:
                self._metrics.tested(asked.version, asked.code, asked.seconds)
                self._metrics.tested(shadow, counted, seconds)
        if answers is not None:
            self._metrics.answers(shadow, answers)
            if asked.answers is not None:
                await self._compare(asked, shadow, answers, asked.version, asked.answers)

    async def _mirror(self, stable: Version, asked: Asked, answers: Sequence[Answer]) -> None:
        try:
            others = await self._ask(stable, asked.images, asked.choice)
        except FoveaError as error:
            log.debug("%s gave no answer to compare with: %s", stable.name, error)
        else:
            await self._compare(asked, asked.version, answers, stable, others)

    async def _compare(
        self, asked: Asked, candidate: Version, answers: Sequence[Answer], stable: Version, others: Sequence[Answer]
    ) -> None:
        index = class_index(stable.model.manifest.classes, candidate.model.manifest.classes)
        pairs = list(zip(answers, others, strict=True))

        def agree() -> bool:
            return all(one.prediction.agreement(other.prediction, index) >= AGREEMENT for one, other in pairs)

        same = await asyncio.to_thread(agree)
        self._metrics.compared(candidate, same)
        self._compared(Pair(asked, candidate, answers, stable, others, same))


def class_index(names: Sequence[str], known: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each class its index in another list; -1 where it is not there."""
    positions = {name: index for index, name in enumerate(known)}
    return np.array([positions.get(name, -1) for name in names], np.int64)
