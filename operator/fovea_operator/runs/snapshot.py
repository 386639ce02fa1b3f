"""What planners may know about an object that has runs: pure types, frozen, with the clock read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fovea_api.common import Reference
from fovea_api.dataset import Dataset
from fovea_api.run import Run, RunStatus, RunType
from fovea_api.trainingjob import TrainingJob

from fovea_operator.objects import Key
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.demand import PodTime
from fovea_operator.workloads.workload import Child


@dataclass(frozen=True, slots=True)
class RunView:
    """A Run with its children."""

    run: Run
    children: tuple[Child, ...]
    pods: tuple[str, ...] = ()
    """Names of the pods of any attempt that have not ended."""
    pod_times: tuple[PodTime, ...] = ()
    """What the pods of all attempts reserve, as far as they are there still."""

    @property
    def name(self) -> str:
        """Name of the Run."""
        return self.run.metadata.name

    @property
    def status(self) -> RunStatus:
        """What the Run has come to so far."""
        return self.run.status or RunStatus()

    @property
    def created(self) -> datetime:
        """When the Run was made."""
        return self.run.metadata.creation_timestamp or datetime.fromtimestamp(0, UTC)

    @property
    def live(self) -> bool:
        """Whether a child has not ended."""
        return any(not child.state.ended for child in self.children)

    @property
    def stray_pods(self) -> tuple[str, ...]:
        """The pods whose child is deleted or being deleted. An ended one may keep its Ray cluster idle."""
        return () if any(not child.deleting for child in self.children) else self.pods

    @property
    def at_work(self) -> bool:
        """Whether a pod may be working on it, or is about to."""
        return any(attempt.outcome is None for attempt in self.status.attempts) or self.live or bool(self.pods)

    @property
    def has_ended(self) -> bool:
        """Whether it came to a result or failed for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def deletes_all(self) -> bool:
        """Whether it is the cleanup that an object's deletion starts; the others delete old versions alone."""
        return self.run.spec.type is RunType.CLEANUP and not self.run.spec.nonce

    @property
    def threatens_versions(self) -> bool:
        """Whether it deletes dataset versions, or will soon whatever happens to its Dataset."""
        if self.run.spec.type is not RunType.CLEANUP:
            return False
        return self.at_work or not (self.deletes_all or self.has_ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsSnapshot:
    """What is known of the runs of an object and of its namespace; each kind's snapshot adds the object to it."""

    runs: tuple[RunView, ...] = ()
    """The runs that make what the object is about, newest first."""
    deferred: tuple[RunView, ...] = ()
    """The runs that build further formats of what another run has made, newest first."""
    cleanups: tuple[RunView, ...] = ()
    """The runs that delete from the store."""
    store: StoreConfig
    missing: tuple[Reference, ...] = ()
    """Secrets and PersistentVolumeClaims that a spec names and the namespace lacks."""
    leftover: Key | None = None
    """A Run, a child or a pod of an object that was deleted and made again; no attempt starts beside it."""
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSnapshot(RunsSnapshot):
    """The same of an object whose runs train a recipe, with what the recipe refers to."""

    dataset: Dataset | None
    """The Dataset that the recipe refers to."""
    jobs: Mapping[str, TrainingJob] = field(default_factory=dict)
    """TrainingJobs that the recipe refers to, as far as they exist."""
    unreadable: frozenset[Key] = frozenset()
    """What the object refers to that exists and that this version of the API cannot read."""
    datasets: tuple[str, ...] = ()
    """Names of all Datasets of the namespace, for suggestions."""
    dataset_cleanup: str = ""
    """Name of a cleanup that deletes versions of the Dataset, or is going to soon; empty: there is none."""
