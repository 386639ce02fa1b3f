"""How far a build is, passed on at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from fovea_api.common import format_duration
from fovea_api.run import Progress

PROGRESS_SECONDS = 1.0


class ProgressMeter:
    """Passes progress on, at most once a second."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self.progress = progress
        self.stage_name, self.start, self.last = "", 0.0, 0.0

    def stage(self, name: str, percent: int) -> None:
        self.stage_name, self.start, self.last = name, time.monotonic(), 0.0
        self.progress(Progress(stage=name, percent=percent))

    def images(self, stage: str, done: int, total: int, first: int, last: int) -> None:
        """Progress of a stage that takes the run from `first` to `last` per cent."""
        if stage != self.stage_name:
            self.stage(stage, first)
        now = time.monotonic()
        if now - self.last < PROGRESS_SECONDS and done < total:
            return
        self.last = now
        seconds = max(now - self.start, 1e-6)
        rate = done / seconds
        eta = format_duration(timedelta(seconds=(total - done) / rate)) if rate else None
        self.progress(
            Progress(
                stage=stage,
                percent=round(first + (last - first) * min(done / total, 1)) if total else first,
                eta=eta,
                images_per_second=round(rate, 1),
                message=f"{done:,} of {total:,} images",
            )
        )
