"""Observes the Runs of an object with their children and pods.

It reads again live what two watches may show in the wrong order: a child's end before its run's result, a child that is
missing although an attempt is open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypedDict

from fovea_api import names
from fovea_api.common import Metadata, Reference, Status
from fovea_api.dataset import Dataset
from fovea_api.errors import InvalidManifest
from fovea_api.run import Attempt, Run, RunRequest, RunStatus, RunType
from fovea_api.trainingjob import TrainingJob, TrainingJobSpec, references

from fovea_operator.client import Refused
from fovea_operator.objects import (
    DATASET,
    POD,
    RUN,
    TRAINING_JOB,
    WORKLOAD,
    JsonObject,
    Key,
    Kind,
    View,
    controller_uid,
    items,
    key_of,
    mapping,
    parse,
    text,
    time,
    uid_of,
)
from fovea_operator.observe import Observer
from fovea_operator.polling import LABEL_WORKLOAD_OF, about_admission, about_events
from fovea_operator.runs.capacity import UNSCHEDULABLE, shortage
from fovea_operator.runs.requests import Requested
from fovea_operator.runs.snapshot import RunView
from fovea_operator.store import StoreConfig, claim_of
from fovea_operator.workloads.demand import pod_time
from fovea_operator.workloads.kueue import (
    DEACTIVATED,
    admission,
    current,
    dropped,
    is_elastic_in_queue,
    queued_since,
)
from fovea_operator.workloads.pods import Disruption
from fovea_operator.workloads.workload import (
    LABEL_ATTEMPT,
    Child,
    ChildState,
    Workload,
    child_of_pod,
    controller_of,
    read_child,
)

NEVER_ACCEPTED = " is invalid: "
"""The API server's words for a manifest that it accepts at no time, such as that of a pod."""


@dataclass(frozen=True, slots=True)
class OwnRuns:
    """The Runs of one object."""

    runs: tuple[RunView, ...]
    """Those that make what it is about, newest first."""
    deferred: tuple[RunView, ...]
    """Those that build further formats of that, newest first."""
    cleanups: tuple[RunView, ...]
    leftover: Key | None
    """What works for an object of this name and for none of its Runs."""

    def may_start(self, metadata: Metadata, status: Status | None) -> bool:
        """Whether the planner may want to create a child, so that Secrets and claims have to be looked for."""
        if any(not child.state.ended for view in self.runs for child in view.children):
            return False
        if status is None or status.observed_generation != metadata.generation:
            return True
        return str(getattr(status, "phase", "")) not in ("Ready", "Succeeded", "Failed", "Suspended")


async def observe_runs(observer: Observer, owner: Key) -> OwnRuns:
    """The Runs that the object controls, and the cleanups of its name that belong to nobody."""
    views = await views_of(observer, owner)
    cleanups, deferred = (
        tuple(view for view in views if view.run.spec.type is type) for type in (RunType.CLEANUP, RunType.ENGINE_BUILD)
    )
    runs = tuple(view for view in views if view not in (*cleanups, *deferred))
    return OwnRuns(runs, deferred, cleanups, await _leftover(observer, owner, views))


async def views_of(observer: Observer, owner: Key) -> tuple[RunView, ...]:
    """The Runs that the object controls, and the cleanups of its name that belong to nobody, newest first."""
    cache = observer.cache
    uid = uid_of(cache.get(owner) or {})
    views = []
    observer.unreadable[owner] = unreadable = {}
    for value in list(cache.owned(owner, RUN)):
        free = text(value, "spec", "type") == RunType.CLEANUP and not controller_uid(value)
        if await observer.is_deleted(RUN, value) or text(value, "metadata", "deletionTimestamp"):
            continue
        if not free and controller_uid(value) != uid:
            continue
        children = [
            await _child(observer, owner, workload, child)
            for workload in observer.registry.workloads
            for child in list(cache.owned(owner, workload.kind))
            if controller_uid(child) == uid_of(value) and not await observer.is_deleted(workload.kind, child)
        ]
        try:
            view = RunView(parse(Run, value), tuple(children))
        except InvalidManifest as error:  # the engine reports it in the Run's own conditions
            unreadable[key_of(RUN, value)] = error
            continue
        view = replace(await _fresh(observer, owner, view), pods=await _pods(observer, owner, view.name))
        view = replace(view, pod_times=tuple(filter(None, map(pod_time, _pods_of(observer, owner, view.name)))))
        views.append(await _with_queue_time(observer, view))
    return tuple(sorted(views, key=lambda view: (view.created, view.name), reverse=True))


class RunsObjects(TypedDict):
    """What is known of the runs of an object: the fields of a RunsSnapshot."""

    runs: tuple[RunView, ...]
    deferred: tuple[RunView, ...]
    cleanups: tuple[RunView, ...]
    store: StoreConfig
    missing: tuple[Reference, ...]
    leftover: Key | None
    now: datetime


async def runs_objects(
    observer: Observer,
    key: Key,
    metadata: Metadata,
    status: Status | None,
    needed: Iterable[Reference],
    now: datetime,
) -> RunsObjects:
    """What is known of the runs of an object. `needed`: Secrets and claims that its pods mount beside the store's."""
    own = await observe_runs(observer, key)
    store = await observer.store(key.namespace)
    missing: tuple[Reference, ...] = ()
    if own.may_start(metadata, status):
        mounted = [*secret_of(store), *needed, *claims_of([(store.uri, "the store")])]
        missing = await observer.missing(key, mounted)
    return {
        "runs": own.runs,
        "deferred": own.deferred,
        "cleanups": own.cleanups,
        "store": store,
        "missing": missing,
        "leftover": own.leftover,
        "now": now,
    }


class RecipeObjects(TypedDict):
    """What a recipe refers to: the fields of a RecipeSnapshot."""

    dataset: Dataset | None
    jobs: Mapping[str, TrainingJob]
    unreadable: frozenset[Key]
    datasets: tuple[str, ...]
    dataset_cleanup: str


def recipe_objects(observer: Observer, namespace: str, spec: TrainingJobSpec) -> RecipeObjects:
    """The objects that a recipe refers to, as far as they exist."""
    dataset_key = Key(DATASET, namespace, spec.dataset_ref.name)
    dataset = observer.readable(Dataset, dataset_key)
    names_ = {reference.name for reference in references(spec) if reference.kind == TRAINING_JOB.name}
    jobs = {name: observer.readable(TrainingJob, Key(TRAINING_JOB, namespace, name)) for name in names_}
    not_read = [Key(TRAINING_JOB, namespace, name) for name, job in jobs.items() if job is None]
    not_read += [dataset_key] if dataset is None else []
    return {
        "dataset": dataset,
        "jobs": {name: job for name, job in jobs.items() if job is not None},
        "unreadable": frozenset(key for key in not_read if observer.cache.get(key) is not None),
        "datasets": tuple(sorted(key.name for key in observer.cache.keys(DATASET, namespace))),
        "dataset_cleanup": next(
            (view.name for view in known_runs(observer, dataset_key) if view.threatens_versions), ""
        ),
    }


def known_runs(observer: Observer, owner: Key) -> Iterator[RunView]:
    """The Runs of another object, without their children."""
    for value in observer.cache.owned(owner, RUN):
        with contextlib.suppress(InvalidManifest):
            yield RunView(parse(Run, value), ())


def requests_of(observer: Observer, target: Key) -> tuple[Requested, ...]:
    """The runs that objects which refer to this one ask it for, the oldest first."""
    requests = []
    for by in observer.cache.referrers(target):
        value = observer.cache.get(by) or {}
        if text(value, "metadata", "deletionTimestamp"):
            continue
        for entry in items(value, "status", "runRequests"):
            with contextlib.suppress(InvalidManifest):  # made by another version of the operator
                request = parse(RunRequest, entry)
                if (request.target.kind, request.target.name) == (target.kind.name, target.name):
                    requests.append(Requested(by, request))
    return tuple(sorted(requests, key=lambda each: (each.request.requested_at, each.by, each.request.cause)))


def secret_of(store: StoreConfig) -> Iterator[Reference]:
    """The Secret with the store's credentials, if one is needed."""
    if store.secret:
        yield Reference("Secret", store.secret, "the store's credentials")


def claims_of(uris: Iterable[tuple[str, str]]) -> Iterator[Reference]:
    """The claims that URIs name, each URI given with the field that says it."""
    for uri, path in uris:
        if (claim := claim_of(uri)) is not None:
            yield Reference("PersistentVolumeClaim", claim, path)


async def _leftover(observer: Observer, owner: Key, runs: Iterable[RunView]) -> Key | None:
    """What works for an object of this name and for none of its Runs.

    A pod of Ray hangs on objects that are not watched; one that is older than its Run, or of no Run that is known and
    older than the object, is left of the object before.
    """
    cache, registry = observer.cache, observer.registry
    made = time(cache.get(owner) or {}, "metadata", "creationTimestamp")
    uids = {view.run.metadata.uid for view in runs} | {
        uid_of(cache.get(run) or {}) for run in observer.unreadable[owner]
    }
    since = {view.name: view.created for view in runs}
    direct = (RUN, *(workload.kind for workload in registry.workloads))
    indirect = (*(part for workload in registry.workloads for part in workload.parts), POD)
    for kind in (*direct, *indirect):
        for value in list(cache.owned(owner, kind)):
            run = text(mapping(value, "metadata", "labels"), names.LABEL_RUN)
            if kind in indirect:
                born, first = time(value, "metadata", "creationTimestamp"), since.get(run, made)
                left = born is not None and first is not None and born < first
            else:
                left = (uid_of(value) if kind == RUN else controller_uid(value)) not in uids
            if run and left and not await observer.is_deleted(kind, value):
                return key_of(kind, value)
    return None


def _pods_of(observer: Observer, owner: Key, run: str) -> list[JsonObject]:
    """The pods of all attempts of a run."""
    pods = observer.cache.owned(owner, POD)
    return [pod for pod in pods if text(mapping(pod, "metadata", "labels"), names.LABEL_RUN) == run]


async def _pods(observer: Observer, owner: Key, run: str) -> tuple[str, ...]:
    """Names of a run's pods that have not ended; of one that is being deleted it is asked whether it still exists."""
    pods = [
        pod for pod in _pods_of(observer, owner, run) if text(pod, "status", "phase") not in ("Succeeded", "Failed")
    ]
    while pods and await observer.is_deleted(POD, pods[0]):
        pods.pop(0)
    return tuple(text(pod, "metadata", "name") for pod in pods)


async def _fresh(observer: Observer, owner: Key, view: RunView) -> RunView:
    """Reads again what two watches may show in the wrong order, before a planner decides by it.

    A run writes its result before its child ends, but the child's end may be seen first, beside no result or the
    error of an earlier attempt; and a child that is not in the cache although an attempt is open may just not
    have been seen yet.
    """
    open_attempt = next((attempt for attempt in view.status.attempts if attempt.outcome is None), None)
    if open_attempt is None:
        return view
    child = next((child for child in view.children if child.key.name == open_attempt.child), None)
    namespace = view.run.metadata.namespace
    if child is None:
        workload = observer.registry.run_types[view.run.spec.type]
        value = await observer.api.get(Key(workload.kind, namespace, open_attempt.child))
        if value is None:
            return view
        observer.cache.put(workload.kind, value)
        child = await _child(observer, owner, workload, value)
        view = replace(view, children=(*view.children, child))
    if child.state.ended and not _reported(view.status, open_attempt):
        value = await observer.api.get(Key(RUN, namespace, view.name))
        if value is not None:
            observer.cache.put(RUN, value)
            with contextlib.suppress(InvalidManifest):  # its next reconcile reports that
                view = replace(view, run=parse(Run, value))
    if child.state is ChildState.FAILED and not _reported(view.status, open_attempt):
        failed = await _with_pods(observer, owner, child)
        view = replace(view, children=tuple(failed if each is child else each for each in view.children))
    return view


async def _with_pods(observer: Observer, owner: Key, child: Child) -> Child:
    """A failed child with what its pods report, as they are now: the watch of pods may be behind that of Jobs."""
    value = observer.cache.get(child.key)
    if value is None:
        return child
    selector = f"{names.LABEL_RUN}={child.run},{LABEL_ATTEMPT}={child.attempt}"
    for pod in (await observer.api.list(POD, child.key.namespace, selector))[0]:
        observer.cache.put(POD, pod)
    return await _child(observer, owner, _workload(observer, child.key.kind), value)


def _workload(observer: Observer, kind: Kind) -> Workload:
    return next(workload for workload in observer.registry.workloads if workload.kind == kind)


async def _child(observer: Observer, owner: Key, workload: Workload, value: View) -> Child:
    cache, name = observer.cache, text(value, "metadata", "name")
    parts = [part for kind in workload.parts for part in cache.owned(owner, kind) if controller_of(part) == name]
    pods = [pod for pod in cache.owned(owner, POD) if child_of_pod(pod) == name]
    child = read_child(workload, value, parts, pods)
    workloads = _workloads(observer, owner, child, value)
    if why := dropped(workloads, child.state is ChildState.QUEUED):
        return _given_up(child, why)
    if child.state is ChildState.QUEUED:
        reason, message = _admission(child, workloads)
    elif child.state is ChildState.STARTING and not child.reason:
        reason, message = _obstacle(observer, owner, child, pods)
    else:
        reason, message = child.reason, child.message
    if child.state is ChildState.STARTING and reason == UNSCHEDULABLE:
        message += shortage(observer, workload, value)
    stalled = not child.state.ended and (reason == DEACTIVATED or NEVER_ACCEPTED in message)
    return replace(child, reason=reason, message=message, stalled=stalled)


def _workloads(observer: Observer, owner: Key, child: Child, value: View) -> tuple[View, ...]:
    """Kueue's Workloads of a child about which its own status does not say all: that is queued, or elastic."""
    if child.state is not ChildState.QUEUED and (child.state.ended or not is_elastic_in_queue(value)):
        return ()
    return tuple(items(observer.poller.ask(about_admission(child.key, child.uid), owner, child.created), "items"))


def _given_up(child: Child, why: str) -> Child:
    """A child for which Kueue does no more: that it was at work before is the end of a preemption."""
    taken = Disruption(None, f"Kueue took its quota: {why}") if child.started is not None else None
    return replace(child, state=ChildState.FAILED, reason="FailedToStart", message=why, disruption=taken)


def _admission(child: Child, workloads: Sequence[View]) -> tuple[str, str]:
    """What a child in a queue waits for, in Kueue's words where it has spoken."""
    if not (workload := current(workloads)):
        return child.reason, child.message
    state = admission(workload)
    return state.reason, state.message or child.message


def _obstacle(observer: Observer, owner: Key, child: Child, pods: Sequence[View]) -> tuple[str, str]:
    """What keeps a child from starting about which neither it nor its pods report anything: the newest event.

    About a child that gets no pods it is the newest warning: the words of a quota or a policy. About a pod without
    containers (a missing Secret or claim) it is a warning only if that was reported last.
    """
    grace = timedelta(seconds=observer.settings.scheduling_grace_seconds)
    pending = next((pod for pod in pods if text(pod, "status", "phase") == "Pending"), None)
    if pending is not None:
        key, created = key_of(POD, pending), time(pending, "metadata", "creationTimestamp") or child.created
        newest = observer.poller.ask(about_events(key), owner, created + grace)
        if text(newest, "type") == "Warning" and text(newest, "reason") != "FailedScheduling":
            return text(newest, "reason"), f"pod {key.name}: {text(newest, 'note')}"
    elif not pods:
        newest = observer.poller.ask(about_events(child.key, warning=True), owner, child.created + grace)
        return text(newest, "reason"), text(newest, "note")
    return "", ""


async def _with_queue_time(observer: Observer, view: RunView) -> RunView:
    """A run whose child went back into its queue, with the time when it did, which only Kueue's Workload has."""
    for child in view.children:
        came_back = child.state is ChildState.QUEUED and view.status.phase != "Queued" and child.started is not None
        if came_back and child.queued_since is None:
            with contextlib.suppress(Refused):
                listed, _ = await observer.api.list(WORKLOAD, child.key.namespace, f"{LABEL_WORKLOAD_OF}={child.uid}")
                known = replace(child, queued_since=max(filter(None, map(queued_since, listed)), default=None))
                return replace(view, children=tuple(known if each is child else each for each in view.children))
    return view


def _reported(status: RunStatus, attempt: Attempt) -> bool:
    """Whether the attempt's pods have reported how it ended; an error of an earlier attempt is none of this one."""
    result = status.result
    return result is not None and (result.error is None or result.is_of(attempt))
