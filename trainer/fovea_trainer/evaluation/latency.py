"""Latency and size of the exported model."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from fovea_api.common import parse_quantity
from fovea_api.errors import NotSupported
from fovea_api.latency import MeasuredOn
from fovea_api.names import NODE_VARIABLE
from fovea_api.trainingjob import Latency as Wanted
from fovea_serving.backends import Device, usable_cpus
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import Image, Predictor

WARM_UP = 5
"""Predictions before the first that counts."""
PREDICTIONS = 100
"""Predictions that are timed."""
SECONDS = 30.0
"""Timing ends after this long, once MINIMUM predictions are there."""
MINIMUM = 20
CPUINFO = Path("/proc/cpuinfo")


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


@dataclass(frozen=True, slots=True)
class Artefact:
    """An exported model as it is served.

    Args:
        model: The file that is opened.
        files: All files that belong to it, in one folder.
        preprocess: What turns an image into its input.
        postprocess: What turns its outputs into predictions.
    """

    model: Path
    files: tuple[Path, ...]
    preprocess: Preprocess
    postprocess: Postprocess


@dataclass(frozen=True, slots=True)
class Timed:
    """A latency, and where it was measured."""

    latency: Latency
    on: MeasuredOn


class Stopwatch(Protocol):
    """Measures latency where a recipe says."""

    def __call__(self, artefact: Artefact, images: Sequence[bytes]) -> Timed:
        """The latency of an exported model on image files."""


@dataclass(frozen=True, slots=True)
class InThisProcess:
    """Measures latency here, on as many threads as are wanted."""

    wanted: Wanted

    def __call__(self, artefact: Artefact, images: Sequence[bytes]) -> Timed:
        threads, device = self.wanted.cpus, None if self.wanted.gpu else Device.CPU
        predictor = Predictor(artefact.model, artefact.preprocess, artefact.postprocess, threads=threads, device=device)
        before = cv2.getNumThreads()
        cv2.setNumThreads(threads)  # preprocessing has no more CPUs than the model
        try:
            latency = measure_latency(predictor, images)
        finally:
            cv2.setNumThreads(before)
        node = os.environ.get(NODE_VARIABLE) or platform.node()
        on = MeasuredOn(node=node, cpus=threads, processor=processor(), device=predictor.device.value)
        return Timed(latency, on)


def unmeasurable_here(wanted: Wanted, place: str) -> Iterator[NotSupported]:
    """What a run by hand cannot measure, for there is this machine alone. `place`: path of the field.

    A store would give what was measured elsewhere to the runs of a cluster, so it is refused.
    """
    remedy = f"train on a cluster, or measure on one core of this machine by --set {place.removeprefix('spec.')}={{}}"
    if wanted.node_selector:
        what = "latency can be measured on another node on a cluster only"
        yield NotSupported(what, f"{place}.nodeSelector", remedy)
    amount, cpus = parse_quantity(wanted.cpu), usable_cpus()
    if amount > cpus or amount != int(amount):
        what = f"latency is to be measured on {wanted.cpu} CPUs, and this machine can give whole ones, up to {cpus}"
        yield NotSupported(what, f"{place}.resources", remedy)


def processor(cpuinfo: str | None = None) -> str:
    """Model of the CPU, as the kernel names it; the architecture where it gives no name, as on many ARM boards."""
    if cpuinfo is None:
        cpuinfo = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    named = re.search(r"^(?:model name|Model|cpu model)[ \t]*:[ \t]*(\S.*)$", cpuinfo, re.MULTILINE)
    return (named[1].strip() if named else platform.machine() or "unknown")[:128]


def size_megabytes(*files: Path) -> Mapping[str, float]:
    """Size of the exported model, of all its files, in megabytes (10^6 bytes), by the name of the criterion."""
    return {"size/megabytes": sum(file.stat().st_size for file in files) / 1e6}
