"""What the planner of a TrainingJob may know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fovea_api.dataset import Dataset
from fovea_api.trainingjob import TrainingJob

from fovea_operator.objects import Key
from fovea_operator.runs.requests import Requested
from fovea_operator.runs.snapshot import RunsSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSnapshot(RunsSnapshot):
    """A TrainingJob with its trainings and what it refers to."""

    job: TrainingJob
    dataset: Dataset | None
    """The Dataset that the job refers to."""
    others: Mapping[str, TrainingJob] = field(default_factory=dict)
    """TrainingJobs that the job refers to, as far as they exist."""
    unreadable: frozenset[Key] = frozenset()
    """What the job refers to that exists and that this version of the API cannot read."""
    datasets: tuple[str, ...] = ()
    """Names of all Datasets of the namespace, for suggestions."""
    requests: tuple[Requested, ...] = ()
    """Runs that other objects ask for, the oldest first."""
    dataset_cleanup: str = ""
    """Name of a cleanup that deletes versions of the Dataset, or is going to soon; empty: there is none."""
