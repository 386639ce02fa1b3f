"""Keeping requests: which ones, how many, and off the path of the requests themselves.

What is kept is decided at once and written by threads of its own, through a queue that is never waited for: what does
not fit, or what the store does not take, is lost and counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from fovea_api.common import parse_duration
from fovea_api.errors import FoveaError
from fovea_api.modeldeployment import CapturePolicy
from fovea_store import StorePath

from fovea_serving.captures import Answered, Capture, CaptureStore, ImageAnswer
from fovea_serving.captures.records import AnsweredPair, Reason, VersionAnswer
from fovea_serving.captures.store import ANSWERS, folder_of
from fovea_serving.gateway.drift_metrics import DriftMetrics
from fovea_serving.gateway.routing import Version
from fovea_serving.gateway.trial import Pair
from fovea_serving.pipeline.header import ImageHeader, read_header
from fovea_serving.upstreams import Answer

WRITERS = 2
"""Threads that write: one that waits for a slow store does not hold all up."""
MOST_WAITING = 128
"""Captures that wait to be written at most."""
MOST_BYTES = 64 * 2**20
"""Bytes of their images at most: a gateway has little memory, and a store may be slow for long."""
MOST_RECENT = 1000
"""Requests of which is remembered where they were written: a second version's answer comes soon after the first's."""
FEEDBACK_THREADS = 4
"""Threads of their own that look for answers: a store that hangs holds up nothing but feedback."""
ANSWERS_PER_SECOND = 20.0
"""Answers that a process keeps for feedback at most; of more, those that come first in a second."""
BURST = 1 / 6
"""Share of the hourly limit that may be kept at once."""
SAMPLE_SHARE = 0.5
"""Share of the hourly limit that edge cases leave to the uniform sample."""
CARE_SECONDS = 3600.0
"""How often what is too old is deleted."""
COUNT_SECONDS = 60.0
"""How often the labels in the store are counted."""
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "HEIF": "heic"}

log = logging.getLogger(__name__)


class Allowance:
    """So many an hour, evenly, with a burst. Starts full.

    Args:
        per_hour: How many.
        burst: How many at once at most.
    """

    def __init__(self, per_hour: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_hour / 3600
        self._most = max(burst, 1.0)
        self._clock = clock
        self._left = self._most
        self._at = clock()

    def take(self, count: int = 1) -> bool:
        """Whether so many more are allowed; they are counted then. Where one is, more than one are taken on credit, so
        that a request of many images is none too large for ever.
        """
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= count
        return True


@dataclass(frozen=True, slots=True)
class Observed:
    """A request with its answers.

    Args:
        request_id: Its id.
        client: Digest of who asked.
        version: Which version answered.
        images: Its image files.
        headers: What the files say of themselves.
        answers: One for each image.
        plain: Whether it chose nothing for itself, so that its answers can be compared with the reference;
            False where that is not known.
    """

    request_id: str
    client: str
    version: Version
    images: Sequence[bytes]
    headers: Sequence[ImageHeader]
    answers: Sequence[Answer]
    plain: bool = False


class Capturer:
    """Keeps requests of a deployment.

    Args:
        policy: What is kept.
        credentials: Folder of the credentials of the store, see StorePath.
        feedback: Whether all answers are kept, as far as ANSWERS_PER_SECOND goes.
        gateways: Processes that share the hourly limit.
        metrics: What counts.
    """

    def __init__(
        self,
        policy: CapturePolicy,
        credentials: str | None,
        *,
        feedback: bool,
        gateways: int,
        metrics: DriftMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.store = CaptureStore(
            StorePath.parse(policy.uri, credentials),
            parse_duration(policy.retention),
        )
        self._feedback = feedback
        self._metrics = metrics
        limit = policy.max_per_hour / gateways
        sampled = limit * SAMPLE_SHARE if policy.sample_rate else 0.0
        self._samples = Allowance(sampled, sampled * BURST, clock)
        self._edges = Allowance(limit - sampled, (limit - sampled) * BURST, clock)
        self._answers = Allowance(3600 * ANSWERS_PER_SECOND, ANSWERS_PER_SECOND, clock)
        self._folders: OrderedDict[str, str] = OrderedDict()
        self._waiting: dict[str, Answered] = {}
        self._bytes, self._counting = 0, threading.Lock()
        self.feedback_threads = ThreadPoolExecutor(FEEDBACK_THREADS, "fovea-feedback")
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._write, daemon=True) for _ in range(WRITERS)]
        self._threads.append(threading.Thread(target=self._care, daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def takes_feedback(self) -> bool:
        """Whether labels are taken by request id."""
        return self._feedback

    def answered(self, request: Observed) -> None:
        """A request that was answered; kept where the policy says so."""
        reason = self._reason(request.answers)
        if reason is not None or (self._feedback and self._answers.take()):
            self.keep(reason or "answer", request)

    def edge_case(self, reason: Reason, request: Observed) -> None:
        """A request that turned out to be one worth a label after it was answered."""
        if self._folders.get(request.request_id, ANSWERS).rpartition("/")[2] != ANSWERS:
            return  # its images are kept already
        if self._edges.take(len(request.images)):
            self.keep(reason, request)
        else:
            self._metrics.capture_lost("limit")

    def keep(self, reason: Reason, request: Observed) -> None:
        """Writes it in the background; never waits."""
        pictured = reason != "answer"
        version, request_id = request.version, request.request_id
        suffixes = [SUFFIXES.get(header.format, "img") for header in request.headers]
        files = [f"{request_id}-{index}.{suffix}" for index, suffix in enumerate(suffixes)] if pictured else None
        capture = Capture(
            id=request_id,
            time=datetime.now(UTC),
            run=version.name,
            role=version.role,
            task=version.model.manifest.task,
            reason=reason,
            client=request.client,
            images=_image_answers(version, request.answers, files),
        )
        content = list(request.images) if pictured else []
        found, size = Answered(folder_of(capture), capture), sum(map(len, content))
        if not self._has_room(size):
            self._metrics.capture_lost("queue")
            return
        self._waiting[request_id] = found
        if not self._in_background(lambda: self._keep(found, content)):
            self._written(found, size)
            return
        self._folders[request_id] = found.folder
        if len(self._folders) > MOST_RECENT:
            self._folders.popitem(last=False)

    def compared(self, pair: Pair) -> None:
        """A request that two versions answered: the pair is kept for its label, its images where they disagree."""
        asked, own = pair.asked, pair.asked.answers
        if not pair.same and own is not None:
            headers = [read_header(image) for image in asked.images]
            request = Observed(asked.request_id, asked.client, asked.version, asked.images, headers, own)
            self.edge_case("disagreement", request)
        folder = self._folders.get(asked.request_id)
        if self._feedback and folder is not None:
            sides = [
                VersionAnswer(run=version.name, role=version.role, images=_image_answers(version, answers))
                for version, answers in ((pair.candidate, pair.answers), (pair.stable, pair.others))
            ]
            kept = AnsweredPair(candidate=sides[0], stable=sides[1])
            self._in_background(lambda: self.store.pair(folder, asked.request_id, kept))

    def find(self, request_id: str) -> Answered | None:
        """What is kept of a request, with its label as the store has it now. Raises what stores raise."""
        waiting = self._waiting.get(request_id)
        found = self.store.find(request_id)
        return self.store.labelled(waiting) if found is None and waiting is not None else found

    def close(self) -> None:
        """Writes what waits, and ends; waited for a while alone, what is left is done afterwards."""
        self._closing.set()
        self.feedback_threads.shutdown(wait=False)
        self._wake()
        for thread in self._threads[:WRITERS]:
            thread.join(timeout=5)

    def _reason(self, answers: Sequence[Answer]) -> Reason | None:
        if self.policy.sample_rate and random.random() < self.policy.sample_rate:
            if self._samples.take(len(answers)):
                return "sample"
            self._metrics.capture_lost("limit")
            return None
        best = [answer.prediction.confidence for answer in answers]
        if any(score is not None and score < self.policy.low_confidence_below for score in best):
            if self._edges.take(len(answers)):
                return "lowConfidence"
            self._metrics.capture_lost("limit")
        return None

    def _in_background(self, work: Callable[[], None]) -> bool:
        """Whether the work will be done."""
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            self._metrics.capture_lost("queue")
            return False
        return True

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes may wait too; they are counted then."""
        with self._counting:
            if self._bytes and self._bytes + size > MOST_BYTES:
                return False
            self._bytes += size
            return True

    def _written(self, found: Answered, size: int) -> None:
        with self._counting:
            self._bytes -= size
        if self._waiting.get(found.capture.id) is found:
            del self._waiting[found.capture.id]

    def _keep(self, found: Answered, images: Sequence[bytes]) -> None:
        try:
            self.store.write(found.capture, images)
            self._metrics.captured(found.capture.reason)
        finally:
            self._written(found, sum(map(len, images)))

    def _wake(self) -> None:
        """A writer that waits for work sees that there will be none; one that is at work sees it by itself."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def _write(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()) and (work := self._queue.get()) is not None:
            try:
                work()
            except FoveaError as error:
                self._metrics.capture_lost("store")
                log.warning("a capture is lost: %s", error)
            except Exception:  # a thread that ends would end all captures
                self._metrics.capture_lost("store")
                log.exception("a capture is lost")
        self._wake()

    def _care(self) -> None:
        next_care = 0.0
        while True:
            try:
                if time.monotonic() >= next_care:
                    next_care = time.monotonic() + CARE_SECONDS
                    if deleted := self.store.expire(datetime.now(UTC)):
                        log.info("captures of %d days were too old", deleted)
                self._metrics.stored(self.store.counts())
            except FoveaError as error:
                log.warning("the captures cannot be looked through: %s", error)
            except Exception:
                log.exception("the captures cannot be looked through")
            if self._closing.wait(COUNT_SECONDS):
                return


def _image_answers(
    version: Version, answers: Sequence[Answer], files: Sequence[str] | None = None
) -> tuple[ImageAnswer, ...]:
    names: Sequence[str | None] = files if files is not None else [None] * len(answers)
    return tuple(
        ImageAnswer(
            file=file,
            width=answer.width,
            height=answer.height,
            confidence=answer.prediction.confidence,
            prediction=answer.prediction.to_dict(version.model.manifest.classes, masks=True),
        )
        for file, answer in zip(names, answers, strict=True)
    )


def client_digest(deployment: str, *identity: str) -> str:
    """Who asks, as a name that says neither key nor token. Of an address it is no secret: all can be tried."""
    return hashlib.blake2b("\n".join((deployment, *identity)).encode(), digest_size=8).hexdigest()
