"""What the planner of a TuningSweep may know."""

from __future__ import annotations

from dataclasses import dataclass

from fovea_api.tuningsweep import TuningSweep

from fovea_operator.runs.snapshot import RecipeSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSnapshot(RecipeSnapshot):
    """A TuningSweep with its runs, what its template refers to, and the object that it promotes to."""

    sweep: TuningSweep
    earlier: TuningSweep | None = None
    """The sweep that it starts from, as far as there is one."""
    promoted_from: str | None = None
    """Origin of the TrainingJob of spec.promote; empty: it was promoted from no sweep. None: there is no such job."""
