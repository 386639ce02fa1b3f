"""What the planner of a ModelDeployment may know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fovea_api.common import Reference
from fovea_api.dataset import Dataset
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.run import Run
from fovea_api.trainingjob import TrainingJob
from fovea_api.tuningsweep import TuningSweep

from fovea_operator.measurement import NOTHING, Measured
from fovea_operator.objects import JsonObject, Key, Kind
from fovea_operator.store import StoreConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSnapshot:
    """A ModelDeployment with its children and what it refers to."""

    deployment: ModelDeployment
    job: TrainingJob | None = None
    """The TrainingJob whose models are served: the one referred to, or the one that the sweep promotes."""
    sweep: TuningSweep | None = None
    """The TuningSweep that is referred to."""
    trainings: tuple[Run, ...] = ()
    """The job's trainings, newest first."""
    dataset: Dataset | None = None
    """The Dataset that the job trains on."""
    dataset_sizes: Mapping[str, int] = field(default_factory=dict)
    """Images of each of its versions that a build has on record."""
    unreadable: frozenset[Key] = frozenset()
    """What is referred to, exists, and cannot be read by this version of the API."""
    names: tuple[str, ...] = ()
    """Names of all objects of the kind that is referred to, for suggestions."""
    children: Mapping[Key, JsonObject] = field(default_factory=dict)
    """The objects that it controls."""
    pods: tuple[JsonObject, ...] = ()
    """The pods of its gateway and runtimes."""
    lacking: frozenset[Kind] = frozenset()
    """Kinds of children that the cluster does not serve."""
    missing: tuple[Reference, ...] = ()
    """Secrets and PersistentVolumeClaims that are named and do not exist."""
    store: StoreConfig
    measured: Measured = NOTHING
    """What the gateways report."""
    now: datetime
