"""The journal of a study: one file a trial, written whole at each event, and the clock. It is all that a sweep knows:
proposals and decisions are functions of it, so that the death of any process loses no more than what it was just doing.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Annotated

from fovea_api.common import Bool, Metrics, Model, Number, OpaqueObject, Usage
from fovea_api.errors import CorruptData
from fovea_api.sweep import Count, ParameterValues
from fovea_store import NotFound, StorePath
from pydantic import Field, ValidationError

from fovea_trainer.tuning.errors import TakenOver

TRIALS, TRIAL, CLOCK, WRITER = "trials", "trial.json", "clock.json", "writer"
RESTORE = "restore it from a backup, or delete the folder of the study to start anew"
THREADS = 16
"""Files that are read at once."""


class Phase(StrEnum):
    """Where a trial stands."""

    RUNNING = "Running"
    PAUSED = "Paused"
    SUCCEEDED = "Succeeded"
    STOPPED_EARLY = "StoppedEarly"
    FAILED = "Failed"

    @property
    def has_ended(self) -> bool:
        return self not in (Phase.RUNNING, Phase.PAUSED)


class Entry(Model):
    """A trial as the journal has it."""

    number: Annotated[int, Field(ge=1)]
    """Number of the trial, from 1."""
    phase: Phase = Phase.RUNNING
    """Where it stands."""
    keyed: ParameterValues = {}
    """Values as they were drawn, by the key of the parameter."""
    values: ParameterValues = {}
    """Values by path."""
    recipe: OpaqueObject = {}
    """Frozen recipe that it is trained by."""
    attributes: OpaqueObject = {}
    """What the search algorithm wants to know again, such as a generation."""
    total: Count = 0
    """Epochs of its whole training; 0: not known yet."""
    until: Count = 0
    """Epochs after which it pauses; 0: at the end."""
    started: Count = 0
    """How often work on it was begun without an end or a further checkpoint so far."""
    position: str = ""
    """Its newest checkpoint when work on it was begun the last time; empty: none."""
    curve: tuple[Metrics, ...] = ()
    """Metrics after each epoch."""
    artefact: Metrics = {}
    """Metrics of the exported artefact: of the last pause, or at the end of all."""
    measured: Bool = False
    """Whether the trained artefact was measured on the validation split."""
    reached: Metrics = {}
    """What it was worth when it last went on from a pause: before it took another's weights, in a population."""
    source: Count = 0
    """Trial whose weights it goes on from, in a population; 0: its own."""
    reason: str = ""
    """Why it ended."""
    seconds: Annotated[Number, Field(ge=0)] = 0
    """Seconds of work."""
    usage: Usage = Usage()
    """What was reserved for it."""

    @property
    def name(self) -> str:
        """`t-3`."""
        return f"t-{self.number}"

    @property
    def epochs(self) -> int:
        """Epochs that it was trained."""
        return len(self.curve)


class Clock(Model):
    """What a study has taken so far."""

    seconds: Annotated[Number, Field(ge=0)] = 0
    """Seconds of work over all attempts."""
    usage: Usage = Usage()
    """What was reserved for its trials meanwhile."""


class Journal:
    """The journal of a study in its folder.

    One process writes it: the last that took it over. An earlier one may live on for a while, in a pod that is asked to
    end or is lost; what it still writes is refused, so it cannot replace what was read since.
    """

    def __init__(self, folder: StorePath) -> None:
        self.folder = folder
        self._writer = uuid.uuid4().hex

    def take_over(self) -> list[Entry]:
        """Makes this the process that writes; gives all trials, in the order in which they were made.

        Raises CorruptData.
        """
        (self.folder / WRITER).write_text(self._writer)
        return self.read()

    def read(self) -> list[Entry]:
        """All trials, in the order in which they were made. Raises CorruptData."""
        trials = self.folder / TRIALS
        files = [file for name in trials.folders() if (file := trials / name / TRIAL).is_file()]
        with ThreadPoolExecutor(THREADS) as pool:
            entries = sorted(pool.map(_read, files), key=lambda entry: entry.number)
        for number, entry in enumerate(entries, 1):
            if entry.number != number:
                raise CorruptData(f"trial t-{number} is missing", str(trials / f"t-{number}" / TRIAL), RESTORE)
        return entries

    def write(self, entry: Entry) -> None:
        """Keeps what is known of a trial, in the place of what was. Raises TakenOver."""
        self._write(self.of(entry) / TRIAL, entry)

    def of(self, entry: Entry) -> StorePath:
        """The folder of a trial."""
        return self.folder / TRIALS / entry.name

    def clock(self) -> Clock:
        """What the study has taken so far."""
        try:
            return Clock.model_validate_json((self.folder / CLOCK).read_text())
        except NotFound:
            return Clock()

    def set_clock(self, clock: Clock) -> None:
        """Keeps what the study has taken. Raises TakenOver."""
        self._write(self.folder / CLOCK, clock)

    def _write(self, file: StorePath, content: Model) -> None:
        if (self.folder / WRITER).read_text() != self._writer:
            raise TakenOver(
                "another process has taken the sweep over and goes on with it", str(self.folder), "let only one run"
            )
        file.write_text(json.dumps(content.to_dict()))


def _read(file: StorePath) -> Entry:
    try:
        return Entry.model_validate_json(file.read_text())
    except ValidationError as error:
        raise CorruptData(f"the trial cannot be read: {error}", str(file), RESTORE) from error


def counted(entries: Sequence[Entry], phase: Phase) -> int:
    """How many trials stand there."""
    return sum(entry.phase is phase for entry in entries)


__all__ = ["Clock", "Entry", "Journal", "Phase", "counted"]
