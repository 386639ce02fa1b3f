"""Requests: one object asks another for a run.

Each object writes its own status alone. Who wants a run puts a `RunRequest` into its status; the owner of the runs is
woken because it is referred to, starts the run when its turn comes, and notes in its own status what became of it. Run
and request are tied by kind, name and cause, so a cause leads to one run, whatever is restarted in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fovea_api.run import RequestedRun, RunOrigin, RunRequest

from fovea_operator.objects import Key
from fovea_operator.runs.lifecycle import Phase
from fovea_operator.runs.snapshot import RunView


@dataclass(frozen=True, slots=True)
class Requested:
    """A request, with the object that makes it."""

    by: Key
    request: RunRequest

    @property
    def origin(self) -> RunOrigin:
        """The request as its run keeps it."""
        request = self.request
        return RunOrigin(kind=self.by.kind.name, name=self.by.name, cause=request.cause, recipe=request.recipe)

    @property
    def nonce(self) -> str:
        """What distinguishes its run from those of other causes."""
        words = f"{self.by.kind.name}/{self.by.name}/{self.request.cause}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def is_of(self, other: RunOrigin | RequestedRun | None) -> bool:
        """Whether a run, or an entry of a status, answers it."""
        if other is None:
            return False
        return (other.kind, other.name, other.cause) == (self.by.kind.name, self.by.name, self.request.cause)

    def run(self, runs: Sequence[RunView]) -> RunView | None:
        """The run that answers it, if it is there."""
        return next((view for view in runs if self.is_of(view.run.spec.request)), None)

    def answered(self, run: str, phase: Phase | None) -> RequestedRun:
        """That a run answers it, and where that is."""
        return RequestedRun(**self._names, run=run, phase=phase or "Pending")

    def unanswered(self, phase: Literal["Waiting", "Refused"], message: str) -> RequestedRun:
        """That it has no run yet, and why."""
        return RequestedRun(**self._names, phase=phase, message=message[:8192])

    @property
    def _names(self) -> dict[str, str]:
        return {"kind": self.by.kind.name, "name": self.by.name, "cause": self.request.cause}

    def entry(self, recorded: Sequence[RequestedRun]) -> RequestedRun | None:
        """What a status says of it."""
        return next((entry for entry in recorded if self.is_of(entry)), None)


def unanswered(
    requests: Iterable[Requested], runs: Sequence[RunView], recorded: Sequence[RequestedRun]
) -> Iterator[Requested]:
    """The requests whose run is still to be made or goes on, the oldest first."""
    for requested in requests:
        view, entry = requested.run(runs), requested.entry(recorded)
        if view is None and entry is not None and entry.run is not None:
            continue  # its Run was deleted with the history
        if view is None or view.status.phase in (None, "Pending", "Queued", "Running"):
            yield requested
