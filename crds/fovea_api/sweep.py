"""The result of a sweep: its trials, the Pareto front, and the manifest in the store."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from fovea_api.common import (
    AnyValue,
    Bool,
    Digest,
    Int,
    Metrics,
    Model,
    Number,
    OpaqueObject,
    Time,
    Usage,
    Word,
)

MANIFEST = "sweep.yaml"
"""Name of the manifest in the folder of a sweep's result."""
MAX_FRONT = 64
"""Trials of a Pareto front that a status holds: 30 KB. The manifest in the store has all."""
Count = Annotated[Int, Field(ge=0)]
TrialName = Annotated[str, Field(max_length=64)]
ParameterValues = Annotated[Mapping[str, AnyValue], Field(max_length=64)]


class TrialCounts(Model):
    """Number of trials by state."""

    running: Count = 0
    """Running trials."""
    paused: Count = 0
    """Trials paused at a checkpoint until they are promoted or stopped."""
    succeeded: Count = 0
    """Trials that trained to the end and were evaluated."""
    stopped_early: Count = 0
    """Trials stopped early: unpromising, beyond a limit, or out of budget."""
    failed: Count = 0
    """Trials that ended with an error."""
    total: Count = 0
    """Total number of trials."""

    @property
    def ended(self) -> int:
        """Number of trials that have ended, however."""
        return self.succeeded + self.stopped_early + self.failed


class Trial(Model):
    """A trial of a sweep."""

    trial: TrialName
    """Name of the trial."""
    parameters: ParameterValues = {}
    """Parameter values by path."""
    metrics: Metrics = {}
    """Measured values of the objectives."""
    epochs: Count = 0
    """Number of trained epochs."""


Front = Annotated[tuple[Trial, ...], Field(max_length=MAX_FRONT)]


class SweepProgress(Model):
    """Progress of a sweep."""

    trials: TrialCounts = TrialCounts()
    """Trials by what became of them."""
    best: Trial | None = None
    """Best trial so far: the best value of the first objective among the trials within all limits."""
    front_size: Count = 0
    """Number of trials of the Pareto front."""
    budget_percent: Annotated[Int, Field(ge=0, le=100)] | None = None
    """Percentage of the budget that is spent, of the limit closest to being reached. Absent: no budget."""
    usage: Usage = Usage()
    """Resource usage of all trials, over all attempts."""


class SweepSummary(Model):
    """Summary of a sweep."""

    ended: Literal["AllTrials", "BudgetSpent", "SpaceExhausted", "TooManyFailed"]
    """Reason for the end: all trials finished, the budget was spent, all combinations were tried, or too many trials
    failed."""
    trials: TrialCounts
    """Trials by what became of them."""
    best: Trial | None = None
    """Best value of the first objective among the trials within all limits. Absent: there is none."""
    knee: Trial | None = None
    """Knee point of the Pareto front, among the trials within all limits: where improving one objective costs most of
    the others. Absent with one objective."""
    pareto: Front = ()
    """Pareto front, ordered by the first objective, best first."""
    front_size: Count = 0
    """Number of trials of the Pareto front, which may exceed those listed."""
    epochs: Count = 0
    """Number of epochs over all trials."""
    seconds: Annotated[Number, Field(ge=0)] = 0
    """Running time in seconds, over all attempts."""
    usage: Usage = Usage()
    """Resource usage of all trials, over all attempts."""


class TrialState(StrEnum):
    """State in which a trial ended."""

    SUCCEEDED = "Succeeded"
    STOPPED_EARLY = "StoppedEarly"
    FAILED = "Failed"


class TrialRecord(Trial):
    """A trial as listed in the manifest."""

    state: TrialState
    """State in which the trial ended."""
    reason: str = ""
    """Reason of the end, in words."""
    within_limits: Bool = False
    """Whether the trial was evaluated and is within all limits."""
    recipe: OpaqueObject = {}
    """Recipe of the trial, with all defaults and the preset."""
    curve: tuple[Metrics, ...] = ()
    """Metrics after each epoch; the first is epoch 1."""
    seconds: Annotated[Number, Field(ge=0)] = 0
    """Running time in seconds, over all attempts."""
    usage: Usage = Usage()
    """Resource usage of the trial."""


class SweepManifest(Model):
    """`sweep.yaml`, the result of a sweep. It is written last; its digest names the folder."""

    name: Word
    """Name of the TuningSweep."""
    dataset: Word
    """Name of the Dataset."""
    dataset_version: Digest
    """Digest of the dataset version."""
    recipe: OpaqueObject
    """Recipe of the sweep: template, parameters, objectives, search."""
    summary: SweepSummary
    """Summary of the sweep."""
    trials: tuple[TrialRecord, ...] = ()
    """All trials, in order of creation."""
    versions: Mapping[str, str] = {}
    """Versions of the libraries."""
    created_at: Time
    """Creation time."""


__all__ = [
    "MANIFEST",
    "MAX_FRONT",
    "Front",
    "SweepManifest",
    "SweepProgress",
    "SweepSummary",
    "Trial",
    "TrialCounts",
    "TrialRecord",
    "TrialState",
]
