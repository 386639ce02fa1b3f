"""What the planner of a TrainingJob may know."""

from __future__ import annotations

from dataclasses import dataclass

from fovea_api.trainingjob import TrainingJob

from fovea_operator.runs.requests import Requested
from fovea_operator.runs.snapshot import RecipeSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSnapshot(RecipeSnapshot):
    """A TrainingJob with its trainings and what it refers to."""

    job: TrainingJob
    requests: tuple[Requested, ...] = ()
    """Runs that other objects ask for, the oldest first."""
