"""Checkpoints of a training that is a part of something larger (a trial, a candidate): in its folder of the store,
where any pod finds them."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from fovea_api.errors import CorruptData
from fovea_store import NotFound, StorePath

from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.state import FILE, State

CHECKPOINT = "checkpoint"

log = logging.getLogger(__name__)


class StoredCheckpoints(SingleProcess):
    """A training in this process whose newest checkpoint is in a folder of the store; no other is kept.

    Args:
        folder: The folder of the training.
        work_dir: Local folder for intermediate files.
        stop: Asks to save and stop.
        heard: Called at each report of progress: what the training is a part of reports by itself.
    """

    def __init__(
        self, folder: StorePath, work_dir: Path, stop: threading.Event, heard: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(work_dir, 1, lambda progress: heard(), stop)
        self._stored = folder

    def resume(self) -> State | None:
        return load_checkpoint(self._stored)

    def report(self, state: State, save: bool) -> None:
        if save:
            keep_checkpoint(self._stored, state)


def keep_checkpoint(folder: StorePath, state: State) -> None:
    """Keeps a state as the newest checkpoint of a training, and no other."""
    checkpoints, name = folder / CHECKPOINT, f"{state.epoch:06}-{state.step:08}"
    with tempfile.TemporaryDirectory(prefix="fovea-checkpoint-") as local:
        (checkpoints / name).upload_tree(state.save(Path(local) / name), last=FILE)
    for other in checkpoints.folders():
        if other != name:
            (checkpoints / other).delete()


def load_checkpoint(folder: StorePath) -> State | None:
    """The newest checkpoint of a training; None: there is none that can be read."""
    newest = newest_checkpoint(folder)
    if not newest:
        return None
    with tempfile.TemporaryDirectory(prefix="fovea-checkpoint-") as local:
        (folder / CHECKPOINT / newest).download_tree(Path(local))
        try:
            return State.load(Path(local))
        except CorruptData as error:
            log.warning("%s; it begins anew", error.message)
            return None


def forget_checkpoint(folder: StorePath) -> None:
    """Deletes the checkpoint of a training that has ended."""
    (folder / CHECKPOINT).delete()


def newest_checkpoint(folder: StorePath) -> str:
    """Name of a training's newest checkpoint, which grows with epoch and step; empty: there is none."""
    checkpoints = folder / CHECKPOINT
    return max((name for name in checkpoints.folders() if (checkpoints / name / FILE).is_file()), default="")


def copy_checkpoint(source: StorePath, target: StorePath) -> None:
    """Puts the checkpoint of one training in the place of another's. Raises NotFound."""
    newest = newest_checkpoint(source)
    if not newest:
        raise NotFound("there is no checkpoint", str(source / CHECKPOINT))
    with tempfile.TemporaryDirectory(prefix="fovea-population-") as folder:
        (source / CHECKPOINT / newest).download_tree(Path(folder))
        forget_checkpoint(target)
        (target / CHECKPOINT / newest).upload_tree(Path(folder), last=FILE)
