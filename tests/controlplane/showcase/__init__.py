"""A kind that no file of the operator knows: it shows a TrainingJob's newest model in a ConfigMap.

It refers to a Dataset and a TrainingJob, keeps a child up to date, asks the TrainingJob for a run when the Dataset has
a version that its model has not seen, and counts what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from fovea_api.common import Definition, ObjectName, Ref, Reference, Resource, Status
from fovea_api.common import Model as ApiModel
from fovea_api.dataset import Dataset
from fovea_api.run import RunOwner, RunRequest, RunRequests
from fovea_api.trainingjob import TrainingJob
from fovea_operator.conditions import Assessment, conditions, progressing, ready
from fovea_operator.metrics import MetricDefinition
from fovea_operator.objects import DATASET, TRAINING_JOB, JsonObject, Key, Kind
from fovea_operator.observe import Observer
from fovea_operator.registry import KindEntry, kind_of, reconciler
from fovea_operator.runs.plan import own_status
from fovea_operator.settings import Settings
from fovea_operator.writes import Apply, Count, Plan, Write
from pydantic import Field

# --- The API model ---------------------------------------------------------------------------------------------------


class ShowcaseSpec(ApiModel):
    """What is shown."""

    dataset_ref: Ref
    """The dataset whose versions the model should have seen."""
    training_job_ref: Ref
    """The job whose model is shown."""
    title: Annotated[str, Field(max_length=64)] = "Model"
    """Heading."""


class ShowcaseStatus(Status):
    """What is shown now."""

    bundle: Annotated[str, Field(max_length=2048)] | None = None
    """The bundle that is shown."""
    run: ObjectName | None = None
    """The run that was asked for last."""
    run_requests: RunRequests = ()
    """Runs that are asked for."""


class Showcase(Resource):
    """A model on display."""

    definition: ClassVar = Definition(plural="showcases")

    kind: Literal["Showcase"] = "Showcase"
    """Kind of the object."""
    spec: ShowcaseSpec
    """Desired state."""
    status: ShowcaseStatus | None = None
    """Observed state."""


def references(spec: ShowcaseSpec) -> Iterator[Reference]:
    """The objects that a Showcase refers to."""
    yield Reference("Dataset", spec.dataset_ref.name, "spec.datasetRef")
    yield Reference("TrainingJob", spec.training_job_ref.name, "spec.trainingJobRef")


# --- Snapshot, observing, planner ------------------------------------------------------------------------------------

SHOWCASE = kind_of(Showcase)
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
SHOWN = MetricDefinition("showcase_models_shown_total", "Models that were shown.")


@dataclass(frozen=True, slots=True)
class Snapshot:
    showcase: Showcase
    dataset: Dataset | None
    job: TrainingJob | None
    now: datetime


async def observe(observer: Observer, key: Key, now: datetime) -> Snapshot | None:
    showcase = observer.read(Showcase, key)
    if showcase is None:
        return None
    dataset = observer.read(Dataset, Key(DATASET, key.namespace, showcase.spec.dataset_ref.name))
    job = observer.read(TrainingJob, Key(TRAINING_JOB, key.namespace, showcase.spec.training_job_ref.name))
    return Snapshot(showcase, dataset, job, now)


def plan(snapshot: Snapshot, settings: Settings) -> Plan:
    showcase, job = snapshot.showcase, snapshot.job
    metadata, old = showcase.metadata, showcase.status or ShowcaseStatus()
    key = Key(SHOWCASE, metadata.namespace, metadata.name)
    result = job.status.result if job is not None and job.status is not None else None
    writes: list[Write] = []
    if result is not None:
        writes.append(
            Apply(Key(CONFIG_MAP, key.namespace, key.name), _page(key, showcase.spec.title, result.bundle), key)
        )
    requests = (*old.run_requests, *_new_requests(snapshot, old))
    own = [entry for entry in (job.status.requested_runs if job and job.status else ()) if entry.name == key.name]
    assessment = _assess(snapshot, requests)
    status = ShowcaseStatus(
        observed_generation=metadata.generation,
        conditions=conditions(assessment, old.conditions, metadata.generation, snapshot.now),
        bundle=result.bundle if result is not None else None,
        run=own[-1].run if own else None,
        run_requests=requests,
    )
    writes += own_status(key, showcase.status, status)
    if result is not None and old.bundle != result.bundle:
        writes.append(Count(SHOWN.name))
    return Plan(tuple(writes))


def _new_requests(snapshot: Snapshot, old: ShowcaseStatus) -> Iterator[RunRequest]:
    """A request for each dataset version that the model has not seen, once."""
    job, dataset = snapshot.job, snapshot.dataset
    if job is None or job.status is None or job.status.result is None or dataset is None or dataset.status is None:
        return
    newest = dataset.status.version
    known = {request.cause for request in old.run_requests}
    if newest is not None and newest not in (job.status.dataset_version, *known):
        target = RunOwner(kind=TRAINING_JOB.name, name=job.metadata.name)
        recipe: Mapping[str, JsonObject] = {"training": {"epochs": 2}}
        yield RunRequest(cause=newest, target=target, recipe=dict(recipe), requested_at=snapshot.now)


def _assess(snapshot: Snapshot, requests: tuple[RunRequest, ...]) -> Assessment:
    job = snapshot.job
    if job is None or job.status is None or job.status.result is None:
        return progressing("NoModel", "waits for a model")
    entries = {entry.cause: entry.phase for entry in job.status.requested_runs}
    on_the_way = [each.cause for each in requests if entries.get(each.cause) not in ("Succeeded", "Failed", "Refused")]
    meanwhile = progressing("Retraining", f"on {on_the_way[0]}") if on_the_way else None
    return ready("Shown", "the newest model is shown", meanwhile=meanwhile)


def _page(key: Key, title: str, bundle: str) -> JsonObject:
    labels: JsonObject = {
        "fovea.dev/kind": key.kind.name,
        "fovea.dev/name": key.name,
        "app.kubernetes.io/managed-by": "fovea",
    }
    metadata: JsonObject = {"name": key.name, "namespace": key.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"title": title, "bundle": bundle}}


ENTRY = KindEntry(
    kind=SHOWCASE,
    model=Showcase,
    references=references,
    reconcile=reconciler(observe, plan),
    children=(CONFIG_MAP,),
    metrics=(SHOWN,),
)
