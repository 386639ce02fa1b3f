"""Latency and size of the exported model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fovea_serving.predictor import Image, Predictor

WARM_UP = 5
"""Predictions before the first that counts."""
PREDICTIONS = 100
"""Predictions that are timed."""
SECONDS = 30.0
"""Timing ends after this long, once MINIMUM predictions are there."""
MINIMUM = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of single predictions and how many were timed."""

    p50: float
    p95: float
    predictions: int

    @property
    def metrics(self) -> Mapping[str, float]:
        """By the names of the criteria."""
        return {"latency/p50Milliseconds": self.p50, "latency/p95Milliseconds": self.p95}


def measure_latency(predictor: Predictor, images: Sequence[Image | bytes], predictions: int = PREDICTIONS) -> Latency:
    """Times single predictions, one image after the other, in turn over the images.

    Given image files as bytes, as a server gets them, the time of decoding is included.
    """
    for index in range(WARM_UP):
        predictor.predict([images[index % len(images)]])
    milliseconds = []
    begin = time.perf_counter()
    for index in range(predictions):
        start = time.perf_counter()
        predictor.predict([images[index % len(images)]])
        end = time.perf_counter()
        milliseconds.append((end - start) * 1e3)
        if end - begin > SECONDS and len(milliseconds) >= MINIMUM:
            break
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Latency(float(p50), float(p95), len(milliseconds))


def size_megabytes(*files: Path) -> Mapping[str, float]:
    """Size of the exported model, of all its files, in megabytes (10^6 bytes), by the name of the criterion."""
    return {"size/megabytes": sum(file.stat().st_size for file in files) / 1e6}
