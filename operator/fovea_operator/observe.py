"""Snapshots: everything a planner may know about one object, frozen, with the clock read once."""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from fovea_api import names
from fovea_api.common import DIGEST, DeletionPolicy, Model, Reference
from fovea_api.dataset import Dataset
from fovea_api.dataset import references as dataset_references
from fovea_api.errors import InvalidManifest
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.modeldeployment import references as deployment_references
from fovea_api.run import Attempt, Run, RunStatus, RunType
from fovea_api.trainingjob import TrainingJob
from fovea_api.trainingjob import references as training_references
from fovea_api.tuningsweep import TuningSweep
from fovea_api.tuningsweep import references as sweep_references
from pydantic import ValidationError

from fovea_operator.build.pod import claim_of, strings
from fovea_operator.cache import Cache
from fovea_operator.children import LABEL_ATTEMPT, Child, ChildState, child_of_pod, controller_of, read_child
from fovea_operator.client import Api, NotFound, Refused
from fovea_operator.objects import (
    CHILDREN,
    CLAIM,
    DATASET,
    EVENT,
    JOB,
    MODEL_DEPLOYMENT,
    NAMESPACE,
    OWNERS,
    POD,
    RAY_CLUSTER,
    RAY_JOB,
    RUN,
    SECRET,
    TRAINING_JOB,
    TUNING_SWEEP,
    WORKLOAD,
    Key,
    Kind,
    View,
    controller_uid,
    items,
    key_of,
    mapping,
    owner_of,
    text,
    time,
    uid_of,
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
    pods: tuple[str, ...] = ()
    """Names of the pods of any attempt that have not ended."""

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
    def at_work(self) -> bool:
        """Whether a pod may be working on it, or is about to."""
        return (
            any(it.outcome is None for it in self.status.attempts)
            or any(not child.state.ended for child in self.children)
            or bool(self.pods)
        )

    @property
    def deletes_all(self) -> bool:
        """Whether it is the cleanup that an object's deletion starts; the others delete old versions alone."""
        return self.run.spec.type is RunType.CLEANUP and not self.run.spec.nonce


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
    """Builds, newest first."""
    place: Place
    missing: tuple[Missing, ...]
    now: datetime
    cleanups: tuple[RunView, ...] = ()
    used: frozenset[str] | None = None
    """Versions that a Run reads or that are pinned. None: not looked for, so no cleanup of versions may start."""
    shared: str = ""
    """Another namespace with the same store, as of a cleanup of versions; empty: there is none."""
    leftover: Key | None = None
    """A Run, a child or a pod of an object that was deleted and made again; no attempt starts beside it."""


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """What the planner of a TrainingJob may know."""

    job: TrainingJob
    runs: tuple[RunView, ...]
    """Trainings, newest first."""
    dataset: Dataset | None
    """The Dataset that the job refers to."""
    others: Mapping[str, TrainingJob]
    """TrainingJobs that the job refers to, as far as they exist."""
    datasets: tuple[str, ...]
    """Names of all Datasets of the namespace, for suggestions."""
    place: Place
    missing: tuple[Missing, ...]
    now: datetime
    cleanups: tuple[RunView, ...] = ()
    dataset_cleanup: str = ""
    """Name of a cleanup that deletes versions of the Dataset, or is going to soon; empty: there is none."""
    leftover: Key | None = None
    """A Run, a child or a pod of an object that was deleted and made again; no attempt starts beside it."""


@dataclass(frozen=True, slots=True)
class GoneSnapshot:
    """What is known of an object that was deleted and whose data are to follow."""

    cleanup: RunView
    users: tuple[str, ...]
    """What works for the object still or refers to it, in words."""
    place: Place
    missing: tuple[Missing, ...]
    now: datetime
    retained: bool = False
    """Whether its last version that was seen had the policy Retain."""
    shared: str = ""
    """Another namespace whose store is the same, or lies in it or around it; empty: there is none."""


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
        runs, cleanups = _divided(await self._runs(key, now))
        place = await self._place(key.namespace)
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
        pruning = next((it for it in cleanups if _threatens(it) and not it.deletes_all), None)
        used: frozenset[str] | None = None
        if pruning is not None and not any(it.at_work for it in (*runs, *cleanups)):
            used = await self._used(key, pruning.run.spec.store)
        shared = self._sharing(key.namespace, pruning.run.spec.store) if pruning is not None else ""
        leftover = await self._leftover(key, (*runs, *cleanups))
        return DatasetSnapshot(dataset, runs, place, missing, now, cleanups, used, shared, leftover)

    async def training(self, key: Key, now: datetime) -> TrainingSnapshot | None:
        """The snapshot of a TrainingJob; None when it is gone."""
        value = self.cache.get(key)
        if value is None or text(value, "metadata", "deletionTimestamp"):
            return None
        job = parse(TrainingJob, value)
        runs, cleanups = _divided(await self._runs(key, now))
        place = await self._place(key.namespace)
        missing: tuple[Missing, ...] = ()
        if _may_start(job, runs):
            uris = [(place.store, "the store"), (job.spec.model.pretrained.uri or "", "spec.model.pretrained.uri")]
            missing = await self._missing(key.namespace, [*_secrets(place), *_claims(uris)])
        dataset_key = Key(DATASET, key.namespace, job.spec.dataset_ref.name)
        dataset = self.cache.get(dataset_key)
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
            cleanups,
            next((view.name for view in self._known_runs(dataset_key) if _threatens(view)), ""),
            await self._leftover(key, (*runs, *cleanups)),
        )

    async def gone(self, key: Key, now: datetime) -> GoneSnapshot | None:
        """The snapshot of an object that is no more; None where there is nothing to do for it.

        That a cache lacks an object may mean that it has not been listed: before an attempt can start, all that
        counts is read live.
        """
        if self.cache.get(key) is not None or self._is_going(key.namespace):
            return None
        cleanup = next((view for view in await self._runs(key, now) if view.deletes_all), None)
        if cleanup is None:
            return None
        store = cleanup.run.spec.store
        users, missing = self._users(key, cleanup.name, store), tuple[Missing, ...]()
        place, shared = replace(await self._place(key.namespace), store=store), self._sharing(key.namespace, store)
        if not (users or shared or cleanup.at_work or _has_ended(cleanup)):
            await self._read_live(key.namespace)
            if self.cache.get(key) is not None:
                return None
            users = self._users(key, cleanup.name, store)
            missing = await self._missing(key.namespace, [*_secrets(place), *_claims([(place.store, "the store")])])
        last = self.cache.last(key)
        retained = last is not None and text(last, "spec", "deletionPolicy") != DeletionPolicy.DELETE
        return GoneSnapshot(cleanup, users, place, missing, now, retained, shared)

    def _is_going(self, namespace: str) -> bool:
        return bool(text(self.cache.get(Key(NAMESPACE, "", namespace)) or {}, "metadata", "deletionTimestamp"))

    async def _read_live(self, namespace: str) -> None:
        """Takes all objects and Runs of a namespace into the cache. Raises NotFound where a kind is not served now."""
        for kind in (*OWNERS, RUN):
            listed, version = await self.api.list(kind, namespace)
            if not version:
                raise NotFound(f"the API server serves no {kind}s now", kind.name)
            for value in listed:
                self.cache.put(kind, value)

    def _users(self, key: Key, cleanup: str, store: str) -> tuple[str, ...]:
        """What works for an object that is gone, and what refers to it or to its data, in words."""
        own = [
            f"{kind} {text(value, 'metadata', 'name')}"
            for kind in (RUN, *CHILDREN)
            for value in self.cache.owned(key, kind)
            if text(mapping(value, "metadata", "labels"), names.LABEL_RUN) != cleanup
        ]
        named = [
            f"{other.kind} {other.name} ({reference.path})"
            for other, reference in self._references(key.namespace)
            if (reference.kind, reference.name) == (key.kind.name, key.name)
        ]
        return tuple(dict.fromkeys((*own, *named, *(who for who, _ in self._readers(key, store)))))

    def _readers(self, key: Key, store: str) -> Iterator[tuple[str, str]]:
        """What in the namespace names a place in an object's folder, in words, and that place below the folder.

        The object's own Runs do not count.
        """
        folder = _normal(f"{store}/{key.kind.name.lower()}/{key.name}")
        for kind in (*OWNERS, RUN):
            for other in self.cache.keys(kind, key.namespace):
                value = self.cache.get(other) or {}
                owner = owner_of(value) if kind == RUN else None
                if owner == key:
                    continue
                for path, uri in strings(dict(mapping(value, "spec"))):
                    if (place := _normal(uri)).startswith(folder):
                        who = f"of {owner.kind} {owner.name}" if owner is not None else f"(spec.{'.'.join(path)})"
                        yield f"{kind} {other.name} {who}", place.removeprefix(folder)

    def _sharing(self, namespace: str, store: str) -> str:
        """Another namespace whose store is this one, or lies in it or around it; empty: there is none.

        Claims of one name in two namespaces are two claims.
        """
        if claim_of(store) is not None:
            return ""
        own = _normal(store)
        for other in self.cache.keys(NAMESPACE):
            theirs = self._place_of(other.name).store
            if other.name != namespace and theirs and _nested(own, _normal(theirs)):
                return other.name
        return ""

    async def _used(self, key: Key, store: str) -> frozenset[str]:
        """Versions of a Dataset that are read or pinned."""
        await self._read_live(key.namespace)
        read = (run.spec.inputs.dataset for run in self._all(RUN, Run, key.namespace))
        jobs = (job.spec.dataset_ref for job in self._all(TRAINING_JOB, TrainingJob, key.namespace))
        sweeps = (it.spec.template.spec.dataset_ref for it in self._all(TUNING_SWEEP, TuningSweep, key.namespace))
        used = (it for it in (*read, *jobs, *sweeps) if it is not None and it.name == key.name)
        named = (below.partition("/")[0] for _, below in self._readers(key, store))
        versions = (*(it.version for it in used if it.version is not None), *named)
        return frozenset(it for it in versions if re.fullmatch(DIGEST, it))

    def _references(self, namespace: str) -> Iterator[tuple[Key, Reference]]:
        for job in self._all(TRAINING_JOB, TrainingJob, namespace):
            for it in training_references(job.spec):
                yield Key(TRAINING_JOB, namespace, job.metadata.name), it
        for sweep in self._all(TUNING_SWEEP, TuningSweep, namespace):
            for it in sweep_references(sweep.spec):
                yield Key(TUNING_SWEEP, namespace, sweep.metadata.name), it
        for deployment in self._all(MODEL_DEPLOYMENT, ModelDeployment, namespace):
            for it in deployment_references(deployment.spec):
                yield Key(MODEL_DEPLOYMENT, namespace, deployment.metadata.name), it

    def _all(self, kind: Kind, model: type[M], namespace: str) -> Iterator[M]:
        for key in self.cache.keys(kind, namespace):
            if (value := self.cache.get(key)) is not None:
                yield parse(model, value)

    async def _runs(self, owner: Key, now: datetime) -> tuple[RunView, ...]:
        """The Runs that the object controls, and the cleanups of its name that belong to nobody, newest first."""
        uid = uid_of(self.cache.get(owner) or {})
        views = []
        for value in list(self.cache.owned(owner, RUN)):
            free = text(value, "spec", "type") == RunType.CLEANUP and not controller_uid(value)
            if await self._gone(RUN, value) or text(value, "metadata", "deletionTimestamp"):
                continue
            if not free and controller_uid(value) != uid:
                continue
            children = [
                await self._child(owner, kind, child, now)
                for kind in (RAY_JOB, JOB)
                for child in list(self.cache.owned(owner, kind))
                if controller_uid(child) == uid_of(value) and not await self._gone(kind, child)
            ]
            view = RunView(parse(Run, value), tuple(children))
            pods = await self._pods(owner, view.name)
            views.append(await self._fresh(owner, replace(view, pods=pods), now))
        return tuple(sorted(views, key=lambda view: (view.created, view.name), reverse=True))

    async def _leftover(self, owner: Key, runs: Iterable[RunView]) -> Key | None:
        """What works for an object of this name and for none of its Runs.

        A pod of Ray hangs on objects that are not watched; one that is older than its Run, or of no Run that is
        known and older than the object, is left of the object before.
        """
        made = time(self.cache.get(owner) or {}, "metadata", "creationTimestamp")
        uids = {view.run.metadata.uid for view in runs}
        since = {view.name: view.created for view in runs}
        for kind in (RUN, RAY_JOB, JOB, RAY_CLUSTER, POD):
            for value in list(self.cache.owned(owner, kind)):
                run = text(mapping(value, "metadata", "labels"), names.LABEL_RUN)
                if kind in (RAY_CLUSTER, POD):
                    born, first = time(value, "metadata", "creationTimestamp"), since.get(run, made)
                    left = born is not None and first is not None and born < first
                else:
                    left = (uid_of(value) if kind == RUN else controller_uid(value)) not in uids
                if run and left and not await self._gone(kind, value):
                    return key_of(kind, value)
        return None

    async def _pods(self, owner: Key, run: str) -> tuple[str, ...]:
        """Names of a run's pods that have not ended; of one that was told to stop it is asked whether it is gone."""
        found = [
            pod
            for pod in self.cache.owned(owner, POD)
            if text(mapping(pod, "metadata", "labels"), names.LABEL_RUN) == run
            and text(pod, "status", "phase") not in ("Succeeded", "Failed")
        ]
        while found and await self._gone(POD, found[0]):
            found.pop(0)
        return tuple(text(pod, "metadata", "name") for pod in found)

    def _known_runs(self, owner: Key) -> Iterator[RunView]:
        """The Runs of another object, without their children."""
        yield from (RunView(parse(Run, value), ()) for value in self.cache.owned(owner, RUN))

    async def _fresh(self, owner: Key, view: RunView, now: datetime) -> RunView:
        """Reads again what two watches may show in the wrong order, before a planner judges by it.

        A run writes its result before its child ends, but the child's end may be seen first, beside no result or the
        error of an earlier attempt; and a child that is not in the cache although an attempt is open may just not
        have been seen yet.
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
            child = await self._child(owner, kind, value, now)
            view = replace(view, children=(*view.children, child))
        if child.state.ended and not _told(view.status, open_attempt):
            value = await self.api.get(Key(RUN, namespace, view.name))
            if value is not None:
                self.cache.put(RUN, value)
                view = replace(view, run=parse(Run, value))
        if child.state is ChildState.FAILED and not _told(view.status, open_attempt):
            failed = await self._with_pods(owner, child, now)
            view = replace(view, children=tuple(failed if it is child else it for it in view.children))
        return view

    async def _with_pods(self, owner: Key, child: Child, now: datetime) -> Child:
        """A failed child with what its pods tell, as they are now: the watch of pods may be behind that of Jobs."""
        value = self.cache.get(child.key)
        if value is None:
            return child
        selector = f"{names.LABEL_RUN}={child.run},{LABEL_ATTEMPT}={child.attempt}"
        for pod in (await self.api.list(POD, child.key.namespace, selector))[0]:
            self.cache.put(POD, pod)
        return await self._child(owner, child.key.kind, value, now)

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
        if child.state is not ChildState.STARTING or child.reason:
            return child
        pending = next((it for it in pods if text(it, "status", "phase") == "Pending"), None)
        since = time(pending, "metadata", "creationTimestamp") if pending is not None else child.created
        if since is None or (now - since).total_seconds() < self.settings.scheduling_grace_seconds:
            return child
        if pending is not None:
            reason, message = await self._trouble(key_of(POD, pending))
        elif not pods:
            reason, message = await self._refusal(child.key)
        else:
            return child
        return replace(child, reason=reason, message=message)

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
        newest = await self._newest_event(key, ",type=Warning")
        return text(newest, "reason"), text(newest, "note")

    async def _trouble(self, pod: Key) -> tuple[str, str]:
        """What keeps a pod's containers from being created (a missing Secret or claim), if that was told last."""
        newest = await self._newest_event(pod)
        if text(newest, "type") != "Warning" or text(newest, "reason") == "FailedScheduling":
            return "", ""
        return text(newest, "reason"), f"pod {pod.name}: {text(newest, 'note')}"

    async def _newest_event(self, key: Key, fields: str = "") -> View:
        regarding = f"regarding.kind={key.kind.name},regarding.name={key.name}"
        found, _ = await self.api.list(EVENT, key.namespace, fields=regarding + fields)
        return max(found, key=lambda it: int(text(it, "metadata", "resourceVersion") or 0), default={})

    async def _place(self, namespace: str) -> Place:
        """A namespace that has not been seen is read: a run's store is for good. Raises NotFound when there is none."""
        key = Key(NAMESPACE, "", namespace)
        if self.cache.get(key) is None:
            found = await self.api.get(key)
            if found is None:
                raise NotFound(f"{key} is gone")
            self.cache.put(NAMESPACE, found)
        return self._place_of(namespace)

    def _place_of(self, namespace: str) -> Place:
        """The place of a namespace in the cache."""
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


def _divided(views: tuple[RunView, ...]) -> tuple[tuple[RunView, ...], tuple[RunView, ...]]:
    """The runs that make something, and the cleanups."""
    cleanups = tuple(it for it in views if it.run.spec.type is RunType.CLEANUP)
    return tuple(it for it in views if it not in cleanups), cleanups


def _threatens(cleanup: RunView) -> bool:
    """Whether a run deletes versions, or will soon whatever happens to its Dataset."""
    if cleanup.run.spec.type is not RunType.CLEANUP:
        return False
    return cleanup.at_work or not (cleanup.deletes_all or _has_ended(cleanup))


def _told(status: RunStatus, attempt: Attempt) -> bool:
    """Whether the attempt's pods have reported how it ended; an error of an earlier attempt is none of this one."""
    result = status.result
    return result is not None and (result.error is None or result.is_of(attempt))


def _has_ended(view: RunView) -> bool:
    return view.status.phase in ("Succeeded", "Failed")


def _normal(uri: str) -> str:
    """A place in one spelling, with a slash at its end."""
    scheme, found, path = uri.rpartition("://")
    return f"{scheme}{found}{posixpath.normpath(path)}/"


def _nested(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


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
