"""How far a sweep by hand is: a live table of its trials on a terminal, a line at each change elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from fovea_api.run import Progress, RunProgress, RunResult
from fovea_api.sweep import SweepProgress
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fovea_trainer.reporting import TerminalReporter
from fovea_trainer.tuning.journal import Entry, Phase
from fovea_trainer.tuning.study import Study, order_of

BAR = 24
"""Characters of the bar."""
AROUND = 8
"""Lines of a terminal that the trials leave to heading, summary and log."""
STYLES = {Phase.RUNNING: "cyan", Phase.SUCCEEDED: "green", Phase.FAILED: "red"}


@runtime_checkable
class TrialListener(Protocol):
    """A reporter that shows each trial."""

    def trials(self, study: Study) -> None:
        """Where the trials stand; returns at once."""


class LiveTable:
    """Reports a sweep; what is not of the sweep (the dataset's build) as `fovea train` does."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._plain: TerminalReporter | None = TerminalReporter()
        self._trials: Table | None = None
        self._last = ""

    def trials(self, study: Study) -> None:
        if self._console.is_terminal:
            self._trials = table(study, max(1, self._console.height - AROUND))

    def report(self, progress: Progress) -> None:
        if not isinstance(progress, RunProgress) or progress.sweep is None:
            if self._plain is not None:
                self._plain.report(progress)
            return
        self._close_bar()
        words = line(progress.sweep, progress.percent or 0, progress.eta)
        if self._console.is_terminal:
            self._draw(words)
        elif words != self._last:
            print(words, file=sys.stderr, flush=True)
        self._last = words

    def finish(self, result: RunResult) -> None:
        pass  # the command prints it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._close_bar()
        if self._live is not None:
            self._live.stop()

    def _draw(self, words: str) -> None:
        shown = Group(*([self._trials] if self._trials is not None else []), Text(words))
        if self._live is None:
            self._live = Live(shown, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(shown, refresh=True)

    def _close_bar(self) -> None:
        if self._plain is not None:
            self._plain.__exit__(None, None, None)
            self._plain = None


def table(study: Study, most: int) -> Table:
    """The trials, `most` at most: those at work, then the best, then the others, the newest first."""
    objectives = [objective.metric for objective in study.recipe.objectives]
    result = Table("TRIAL", "STATE", "EPOCHS", *objectives, "VALUES", box=None, header_style="bold")
    best, entries = study.best(), _ordered(study)
    for entry in entries[:most]:
        measured = study.objectives_of(entry)
        values = ", ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in entry.values.items())
        result.add_row(
            f"{entry.name}{' *' if entry == best else ''}",
            Text(entry.phase.value, STYLES.get(entry.phase, "")),
            f"{entry.epochs}/{entry.total}" if entry.total else str(entry.epochs),
            *(f"{measured[name]:.4g}" if name in measured else "" for name in objectives),
            Text(values, overflow="ellipsis", no_wrap=True),
        )
    if len(entries) > most:
        result.caption = f"and {len(entries) - most} more"
    return result


def _ordered(study: Study) -> Sequence[Entry]:
    running = [entry for entry in study.entries if entry.phase is Phase.RUNNING]
    ended = order_of(study, [entry for entry in study.entries if entry.phase is Phase.SUCCEEDED])
    others = [entry for entry in reversed(study.entries) if entry not in running and entry not in ended]
    return [*running, *ended, *others]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def line(sweep: SweepProgress, percent: int, eta: str | None) -> str:
    """A sweep in a line."""
    counts = sweep.trials
    full = round(BAR * percent / 100)
    parts = [
        f"[{'#' * full}{'.' * (BAR - full)}] {percent:3d} %",
        f"{counts.running} running, {counts.paused} paused, {counts.succeeded} done, {counts.stopped_early} stopped, "
        f"{counts.failed} failed of {counts.total}",
    ]
    if sweep.best is not None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in sweep.best.metrics.items())
        parts.append(f"best {sweep.best.trial}: {values}")
    if sweep.front_size > 1:
        parts.append(f"front {sweep.front_size}")
    if sweep.budget_percent is not None:
        parts.append(f"budget {sweep.budget_percent} %")
    if eta is not None:
        parts.append(f"{eta} left")
    return "  ".join(parts)
