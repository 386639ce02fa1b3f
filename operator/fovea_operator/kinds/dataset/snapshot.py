"""What the planner of a Dataset may know."""

from __future__ import annotations

from dataclasses import dataclass

from fovea_api.dataset import Dataset
from fovea_api.run import BundleInput

from fovea_operator.runs.snapshot import RunsSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSnapshot(RunsSnapshot):
    """A Dataset with its builds and cleanups."""

    dataset: Dataset
    prelabel: BundleInput | None = None
    """The bundle that the deployment of `spec.prelabel` serves. None: there is none, or its digest is not known."""
    used: frozenset[str] | None = None
    """Versions that a Run reads or that are pinned. None: not looked for, so no cleanup of versions may start."""
    shared: str = ""
    """Another namespace with the same store, as of a cleanup of versions; empty: there is none."""
