"""How far a sweep by hand is: a table that is drawn anew on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from fovea_api.run import Progress, RunProgress, RunResult
from fovea_api.sweep import SweepProgress

from fovea_trainer.reporting import TerminalReporter

BAR = 24
"""Characters of the bar."""


class LiveTable:
    """Reports a sweep; what is not of the sweep (the dataset's build) as `fovea train` does."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._plain: TerminalReporter | None = TerminalReporter()
        self._last = ""

    def report(self, progress: Progress) -> None:
        if not isinstance(progress, RunProgress) or progress.sweep is None:
            if self._plain is not None:
                self._plain.report(progress)
            return
        self._close_bar()
        words = line(progress.sweep, progress.percent or 0, progress.eta)
        if words == self._last:
            return
        self._last = words
        print(f"\r\x1b[K{words}" if self._live else words, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def finish(self, result: RunResult) -> None:
        pass  # the command prints it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._close_bar()
        if self._live and self._last:
            print(file=sys.stderr)

    def _close_bar(self) -> None:
        if self._plain is not None:
            self._plain.__exit__(None, None, None)
            self._plain = None


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
