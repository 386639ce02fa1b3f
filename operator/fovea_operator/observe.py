"""Snapshots: everything a planner may know about one object, frozen, with the clock read once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from fovea_api import names
from fovea_api.common import Model, Reference
from fovea_api.dataset import Dataset
from fovea_api.dataset import references as dataset_references
from fovea_api.errors import InvalidManifest
from fovea_api.run import Run, RunStatus
from fovea_api.trainingjob import TrainingJob
from pydantic import ValidationError

from fovea_operator.build.pod import claim_of
from fovea_operator.cache import Cache
from fovea_operator.children import Child, ChildState, child_of_pod, controller_of, read_child
from fovea_operator.client import Api, Refused
from fovea_operator.objects import (
    CLAIM,
    DATASET,
    EVENT,
    JOB,
    NAMESPACE,
    POD,
    RAY_CLUSTER,
    RAY_JOB,
    RUN,
    SECRET,
    TRAINING_JOB,
    WORKLOAD,
    Key,
    Kind,
    View,
    items,
    key_of,
    mapping,
    text,
)
from fovea_operator.settings import Settings

ANNOTATION_STORE = f"{names.GROUP}/store"
LABEL_WORKLOAD_OF = "kueue.x-k8s.io/job-uid"
ANNOTATION_STORE_SECRET = f"{names.GROUP}/store-secret"


@dataclass(frozen=True, slots=True)
class RunView:
    """A Run with its children."""

    run: Run
    children: tuple[Child, ...]

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


@dataclass(frozen=True, slots=True)
class Place:
    """What an object's namespace gives to its runs."""

    store: str
    """Root of the namespace's store; empty when nobody configured one."""
    store_secret: str
    """Secret with the store's credentials; empty: none is needed."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A Secret or PersistentVolumeClaim that a spec speaks of and the namespace lacks."""

    kind: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class DatasetSnapshot:
    """What the planner of a Dataset may know."""

    dataset: Dataset
    runs: tuple[RunView, ...]
    """Newest first."""
    place: Place
    missing: tuple[Missing, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """What the planner of a TrainingJob may know."""

    job: TrainingJob
    runs: tuple[RunView, ...]
    """Newest first."""
    dataset: Dataset | None
    """The Dataset that the job refers to."""
    others: Mapping[str, TrainingJob]
    """TrainingJobs that the job refers to, as far as they exist."""
    datasets: tuple[str, ...]
    """Names of all Datasets of the namespace, for suggestions."""
    place: Place
    missing: tuple[Missing, ...]
    now: datetime


M = TypeVar("M", bound=Model)


def parse(model: type[M], value: View) -> M:
    """Reads an object. Raises InvalidManifest when it is not of this version of the API."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidManifest.from_validation(
            error, f"{text(value, 'kind')} {text(value, 'metadata', 'name')}"
        ) from None


@dataclass(frozen=True, slots=True)
class Observer:
    """Takes snapshots from the cache; reads from the API server only what is not watched and only when it counts."""

    api: Api
    cache: Cache
    settings: Settings

    async def dataset(self, key: Key, now: datetime) -> DatasetSnapshot | None:
        """The snapshot of a Dataset; None when it is gone."""
        value = self.cache.get(key)
        if value is None or text(value, "metadata", "deletionTimestamp"):
            return None
        dataset = parse(Dataset, value)
        runs = await self._runs(key, now)
        place = self._place(key.namespace)
        missing: tuple[Missing, ...] = ()
        if _may_start(dataset, runs):
            wanted = [*_secrets(place), *(it for it in dataset_references(dataset.spec) if it.kind == "Secret")]
            uris = [
                (source.uri, f"spec.sources[{index}].uri")
                for index, source in enumerate(dataset.spec.sources)
                if source.uri
            ]
            if dataset.spec.exclude is not None:
                uris.append((dataset.spec.exclude.uri, "spec.exclude.uri"))
            missing = await self._missing(key.namespace, [*wanted, *_claims([*uris, (place.store, "the store")])])
        return DatasetSnapshot(dataset, runs, place, missing, now)

    async def training(self, key: Key, now: datetime) -> TrainingSnapshot | None:
        """The snapshot of a TrainingJob; None when it is gone."""
        value = self.cache.get(key)
        if value is None or text(value, "metadata", "deletionTimestamp"):
            return None
        job = parse(TrainingJob, value)
        runs = await self._runs(key, now)
        place = self._place(key.namespace)
        missing: tuple[Missing, ...] = ()
        if _may_start(job, runs):
            uris = [(place.store, "the store"), (job.spec.model.pretrained.uri or "", "spec.model.pretrained.uri")]
            missing = await self._missing(key.namespace, [*_secrets(place), *_claims(uris)])
        dataset = self.cache.get(Key(DATASET, key.namespace, job.spec.dataset_ref.name))
        return TrainingSnapshot(
            job,
            runs,
            parse(Dataset, dataset) if dataset is not None else None,
            {
                name: parse(TrainingJob, other)
                for name in referred_jobs(job)
                if (other := self.cache.get(Key(TRAINING_JOB, key.namespace, name))) is not None
            },
            tuple(sorted(it.name for it in self.cache.keys(DATASET, key.namespace))),
            place,
            missing,
            now,
        )

    async def _runs(self, owner: Key, now: datetime) -> tuple[RunView, ...]:
        children = [
            await self._child(owner, kind, value, now)
            for kind in (RAY_JOB, JOB)
            for value in list(self.cache.owned(owner, kind))
            if text(mapping(value, "metadata", "labels"), names.LABEL_RUN) and not await self._gone(kind, value)
        ]
        views = []
        for value in list(self.cache.owned(owner, RUN)):
            if text(value, "metadata", "deletionTimestamp"):
                continue
            view = RunView(parse(Run, value), ())
            own = tuple(child for child in children if child.run == view.name)
            views.append(await self._fresh(RunView(view.run, own)))
        return tuple(sorted(views, key=lambda view: (view.created, view.name), reverse=True))

    async def _fresh(self, view: RunView) -> RunView:
        """Reads again what two watches may show in the wrong order, before a planner judges by it.

        A run writes its result before its child ends, but the child's end may be seen first; and a child that is
        not in the cache although an attempt is open may just not have been seen yet.
        """
        open_attempt = next((it for it in view.status.attempts if it.outcome is None), None)
        if open_attempt is None:
            return view
        child = next((it for it in view.children if it.key.name == open_attempt.child), None)
        namespace = view.run.metadata.namespace
        if child is None:
            kind = RAY_JOB if view.run.spec.type == "Training" else JOB
            value = await self.api.get(Key(kind, namespace, open_attempt.child))
            if value is None:
                return view
            self.cache.put(kind, value)
            return RunView(view.run, (*view.children, read_child(kind, value)))
        if child.state.ended and view.status.result is None:
            value = await self.api.get(Key(RUN, namespace, view.name))
            if value is not None:
                self.cache.put(RUN, value)
                return RunView(parse(Run, value), view.children)
        return view

    async def _gone(self, kind: Kind, value: View) -> bool:
        """Whether a child that was told to go is gone: a deletion while the watch was starting is told to nobody."""
        if not text(value, "metadata", "deletionTimestamp"):
            return False
        key = key_of(kind, value)
        found = await self.api.get(key, metadata_only=True)
        if found is not None and text(found, "metadata", "uid") == text(value, "metadata", "uid"):
            return False
        self.cache.forget(key)
        return True

    async def _child(self, owner: Key, kind: Kind, value: View, now: datetime) -> Child:
        name = text(value, "metadata", "name")
        clusters = [it for it in self.cache.owned(owner, RAY_CLUSTER) if controller_of(it) == name]
        pods = [it for it in self.cache.owned(owner, POD) if child_of_pod(it) == name]
        child = read_child(kind, value, clusters, pods)
        if child.state is ChildState.QUEUED:
            return replace(child, message=await self._admission(child) or child.message)
        age = (now - child.created).total_seconds()
        waiting = child.state is ChildState.STARTING and not pods and not child.reason
        if waiting and age >= self.settings.scheduling_grace_seconds:
            reason, message = await self._refusal(child.key)
            return replace(child, reason=reason, message=message)
        return child

    async def _admission(self, child: Child) -> str:
        """Why Kueue has not admitted a child, in its words; empty where there is no Kueue or it has not spoken."""
        selector = f"{LABEL_WORKLOAD_OF}={child.uid}"
        with contextlib.suppress(Refused):
            for workload in (await self.api.list(WORKLOAD, child.key.namespace, selector))[0]:
                for condition in items(workload, "status", "conditions"):
                    if text(condition, "type") == "QuotaReserved" and text(condition, "status") == "False":
                        return text(condition, "message")
        return ""

    async def _refusal(self, key: Key) -> tuple[str, str]:
        """The newest warning about a child that gets no pods: the words of a quota or a policy."""
        fields = f"regarding.kind={key.kind.name},regarding.name={key.name},type=Warning"
        found, _ = await self.api.list(EVENT, key.namespace, fields=fields)
        newest = max(found, key=lambda it: int(text(it, "metadata", "resourceVersion") or 0), default=None)
        return (text(newest, "reason"), text(newest, "note")) if newest is not None else ("", "")

    def _place(self, namespace: str) -> Place:
        annotations = mapping(self.cache.get(Key(NAMESPACE, "", namespace)) or {}, "metadata", "annotations")
        default = f"{self.settings.store.rstrip('/')}/{namespace}" if self.settings.store else ""
        return Place(
            text(annotations, ANNOTATION_STORE).rstrip("/") or default,
            text(annotations, ANNOTATION_STORE_SECRET) or self.settings.store_secret,
        )

    async def _missing(self, namespace: str, wanted: list[Reference]) -> tuple[Missing, ...]:
        found = []
        for item in wanted:
            kind = SECRET if item.kind == "Secret" else CLAIM
            try:
                exists = await self.api.get(Key(kind, namespace, item.name), metadata_only=True) is not None
            except Refused:  # not allowed to look: the pod will say it
                exists = True
            if not exists:
                found.append(Missing(item.kind, item.name, item.path))
        return tuple(found)


def referred_jobs(job: TrainingJob) -> Iterator[str]:
    """Names of the TrainingJobs whose bundles a job starts from or learns from."""
    if job.spec.model.pretrained.training_job_ref is not None:
        yield job.spec.model.pretrained.training_job_ref.name
    if job.spec.compression.distillation is not None:
        yield job.spec.compression.distillation.teacher_ref.name


def _secrets(place: Place) -> Iterator[Reference]:
    if place.store_secret:
        yield Reference("Secret", place.store_secret, "the store's credentials")


def _claims(uris: list[tuple[str, str]]) -> Iterator[Reference]:
    for uri, path in uris:
        if (claim := claim_of(uri)) is not None:
            yield Reference("PersistentVolumeClaim", claim, path)


def _may_start(owner: Dataset | TrainingJob, runs: tuple[RunView, ...]) -> bool:
    """Whether the planner may want to create a child, so that Secrets and claims have to be looked for."""
    if any(not child.state.ended for view in runs for child in view.children):
        return False
    status = owner.status
    if status is None or status.observed_generation != owner.metadata.generation:
        return True
    return str(status.phase) not in ("Ready", "Succeeded", "Failed", "Suspended")
