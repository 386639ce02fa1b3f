"""What follows an answer, in the background: its features are counted, and it is kept where the policy says so.

Features of the answer are counted of every request that chose nothing for itself. Those that need the pixels are
measured of at most MEASURED_PER_SECOND images of a process, by one thread: a sample, whose price is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fovea_serving.gateway.capturing import Allowance, Capturer, Observed
from fovea_serving.gateway.drift_metrics import DriftMetrics
from fovea_serving.gateway.routing import Version
from fovea_serving.gateway.trial import Pair
from fovea_serving.pipeline import decode
from fovea_serving.pipeline.profile import answer_features, class_shares, size_features
from fovea_serving.pipeline.properties import Embedding, measured

MEASURED_PER_SECOND = 5.0
"""Images whose pixels a process looks at: some milliseconds each."""
OUTLIER_DEVIATIONS = 4.0
"""Standard deviations of the reference from which the embedding of an image is an outlier."""

log = logging.getLogger(__name__)


class Monitor:
    """Of one gateway's process.

    Args:
        metrics: What counts.
    """

    def __init__(self, metrics: DriftMetrics) -> None:
        self.metrics = metrics
        self.capturer: Capturer | None = None
        self.feedback_at_work = 0
        """Labels that wait for the store."""
        self._embeddings: dict[str, Embedding | None] = {}
        self._allowance = Allowance(3600 * MEASURED_PER_SECOND, MEASURED_PER_SECOND)
        self._thread = ThreadPoolExecutor(1, "fovea-monitor")
        self._busy = False

    def route(self, versions: Sequence[Version]) -> None:
        """These versions answer from now on."""
        self._embeddings = {}
        for version in versions:
            profile = version.model.profile
            if profile is not None:
                basis = profile.embedding
                self._embeddings[version.name] = Embedding(basis) if basis is not None else None
                self.metrics.reference(version.name, version.role.lower(), profile)

    def answered(self, request: Observed) -> None:
        """Counts and keeps a request; never waits and never raises: the request is answered already."""
        try:
            self._note(request)
        except Exception:
            log.exception("request %s cannot be counted or kept", request.request_id)

    def _note(self, request: Observed) -> None:
        version, manifest = request.version, request.version.model.manifest
        if request.plain:
            for answer in request.answers:
                features = answer_features(answer.prediction, manifest.task)
                self.metrics.image(version.name, version.role.lower(), features)
                shares = class_shares(answer.prediction, manifest.classes)
                self.metrics.classes(version.name, version.role.lower(), shares)
        for header in request.headers:
            self.metrics.image(version.name, version.role.lower(), size_features(header.width, header.height))
        if self.capturer is not None:
            self.capturer.answered(request)
        if not self._busy and self._allowance.take():
            self._busy = True
            self._thread.submit(self._measure, request)

    def compared(self, pair: Pair) -> None:
        """A request that two versions answered; kept for its label, and with its images where they disagree."""
        if self.capturer is not None:
            self.capturer.compared(pair)

    def close(self) -> None:
        """Ends what runs in the background."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self.capturer is not None:
            self.capturer.close()

    def _measure(self, request: Observed) -> None:
        """Of the first image alone: those of one request are much alike."""
        version = request.version
        try:
            found = measured(decode(request.images[0]), self._embeddings.get(version.name))
            self.metrics.image(version.name, version.role.lower(), found)
            far = max((abs(value) for name, value in found.items() if name.startswith("embedding")), default=0.0)
            if far >= OUTLIER_DEVIATIONS and self.capturer is not None:
                self.capturer.edge_case("outlier", request)
        except Exception:
            log.exception("the properties of an image cannot be measured")
        finally:
            self._busy = False
