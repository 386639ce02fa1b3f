"""Latency that is measured on a node of its own: by a Ray task, which only that node's pod has the resource for.

The exported model goes there through Ray's object store, so the pod needs no other store. One measurement at a time
reserves the resource; those of other trials wait.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from fovea_api.errors import FoveaError, Recoverable, Retryable
from fovea_api.names import RAY_LATENCY
from fovea_api.trainingjob import Latency as Wanted
from fovea_store.errors import first_line

from fovea_trainer.evaluation.latency import Artefact, InThisProcess, Timed
from fovea_trainer.logs import log_to_stdout

ATTEMPTS = 3
"""Times that a measurement is begun whose process, or node, dies: what kills it for lack of memory does so again."""
NODE_SECONDS = 900.0
"""Time that the node may be away, before the attempt of the run ends and its cluster is given back; as a new node and
its image take some minutes."""
LOOK_SECONDS = 10.0
"""Time between two looks whether the node is there."""
ONNX = ".onnx"
PLACE = "spec.evaluation.latency"

Given = tuple[Mapping[str, bytes], Sequence[bytes]]
"""Content of an exported model's files by name, and the images."""

log = logging.getLogger(__name__)


class LatencyNodeMissing(Recoverable):
    """No node came up that latency could be measured on."""


class LatencyNotMeasured(Retryable):
    """What measures latency died each time."""


@dataclass(frozen=True, slots=True)
class OnItsNode:
    """Measures latency on the node that is there for it."""

    wanted: Wanted

    def __call__(self, artefact: Artefact, images: Sequence[bytes]) -> Timed:
        """The latency of an exported model on image files.

        Raises:
            LatencyNodeMissing: there was no such node for NODE_SECONDS.
            LatencyNotMeasured: the process that measures died ATTEMPTS times.
            InvalidModel: the model cannot be opened there.
        """
        # In no placement group, such as that of a trial, which has not this resource.
        task = ray.remote(num_cpus=0, resources={RAY_LATENCY: 1}, max_retries=0, scheduling_strategy="DEFAULT")(
            _measure
        )
        given: Given = ({file.name: file.read_bytes() for file in artefact.files}, images)
        stored = ray.put(given)
        lost: ray.exceptions.RayError | None = None
        for attempt in range(1, ATTEMPTS + 1):
            answer = task.remote(self.wanted, artefact, stored)
            self._wait_for(answer)
            try:
                timed: Timed | FoveaError = ray.get(answer)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                lost = error
                log.warning("attempt %d of %d to measure latency was lost: %s", attempt, ATTEMPTS, first_line(error))
                continue
            if isinstance(timed, FoveaError):
                raise timed
            return timed
        assert lost is not None
        raise LatencyNotMeasured(
            f"what measures latency, on {self.wanted}, died {ATTEMPTS} times, at last of: {first_line(lost)}",
            f"{PLACE}.resources",
            "raise its memory, or choose another node",
        ) from None

    def _wait_for(self, answer: Any) -> None:
        """Waits for an answer as long as there is a node that gives one, or may soon be."""
        seen = time.monotonic()
        while not ray.wait([answer], timeout=LOOK_SECONDS)[0]:
            if ray.cluster_resources().get(RAY_LATENCY):  # type: ignore[no-untyped-call]
                seen = time.monotonic()
            elif time.monotonic() - seen > NODE_SECONDS:
                ray.cancel(answer, force=True)
                raise LatencyNodeMissing(
                    f"no pod came up to measure latency in for {NODE_SECONDS / 60:.0f} minutes; it needs {self.wanted}",
                    PLACE,
                    "add such a node or make room on it, or correct nodeSelector and resources",
                )


def _measure(wanted: Wanted, artefact: Artefact, given: Given) -> Timed | FoveaError:
    """The measurement itself, as a Ray task on the node."""
    log_to_stdout()
    if artefact.model.suffix != ONNX:  # with this alone torch need not fit into the pod's memory
        from fovea_trainer.export import formats

        formats()  # some of their backends are the trainer's
    files, images = given
    with tempfile.TemporaryDirectory(prefix="fovea-latency-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        here = replace(artefact, model=Path(folder) / artefact.model.name, files=())
        try:
            return InThisProcess(wanted)(here, images)
        except FoveaError as error:  # Ray would wrap it in a text
            return error
