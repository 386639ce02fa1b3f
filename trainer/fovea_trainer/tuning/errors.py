"""How a sweep fails; what it has found all the same is in the error."""

from __future__ import annotations

from fovea_api.errors import FoveaError, Interrupted, Retryable
from fovea_api.sweep import SweepSummary


class SweepFailed(FoveaError):
    """A sweep has ended, and there is nothing to choose.

    `summary` and `report` have what was found, once that is in the store.
    """

    summary: SweepSummary | None = None
    report: str | None = None


class TooManyTrialsFailed(SweepFailed):
    """More trials failed than `maxFailed` allows, or all."""


class BudgetTooSmall(SweepFailed):
    """The budget was spent before one trial had ended."""


class NoTrialWithinLimits(SweepFailed):
    """Every trial misses a limit."""


class TakenOver(Interrupted):
    """Another process goes on with the sweep: a later attempt, or the same command given twice."""


class TrialLost(Retryable):
    """The workers of a trial died; it is no fault of the sweep, and the study counts how often."""
