"""What the planners of all kinds with runs share: which run is current, its next step, the writes that carry it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict, TypeVar

from fovea_api import names
from fovea_api.common import Condition, Metadata, Model, Reference, RunPolicy, Status
from fovea_api.errors import InvalidInput
from fovea_api.run import (
    Execution,
    Progress,
    RunOwnerStatus,
    RunSpec,
    RunStatus,
    RunType,
    UsageOfRuns,
    is_same_recipe,
    read_recipe,
    run_name,
)
from pydantic import ValidationError

from fovea_operator.conditions import (
    Assessment,
    condition_of,
    conditions,
    own_conditions,
    progressing,
    stalled,
    waiting_for_leftover,
)
from fovea_operator.metrics import ATTEMPTS_ENDED
from fovea_operator.objects import RUN, JsonObject, Key, Kind, mapping
from fovea_operator.runs.build import child_writes, run_manifest
from fovea_operator.runs.lifecycle import Situation, Step, advance, is_finished, supersede
from fovea_operator.runs.snapshot import RunsSnapshot, RunView
from fovea_operator.runs.usage import own_part, usage_counts, usage_of, with_usage
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.work import Work
from fovea_operator.workloads.workload import ANNOTATION_PODS
from fovea_operator.writes import Count, Create, Delete, Emit, Plan, SetStatus, Write

R = TypeVar("R", bound=Model)
CLEANING_UP = "CleaningUp"
"""The reason of what waits until data are deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every planner of an object with runs needs."""

    key: Key
    metadata: Metadata
    store: StoreConfig
    policy: RunPolicy
    runs: Sequence[RunView]
    deferred: Sequence[RunView] = ()
    now: datetime
    settings: Settings

    @classmethod
    def of(
        cls, kind: Kind, metadata: Metadata, policy: RunPolicy, snapshot: RunsSnapshot, settings: Settings
    ) -> Context:
        """That of an object and what was observed of its runs."""
        return cls(
            key=Key(kind, metadata.namespace, metadata.name),
            metadata=metadata,
            store=snapshot.store,
            policy=policy,
            runs=snapshot.runs,
            deferred=snapshot.deferred,
            now=snapshot.now,
            settings=settings,
        )

    def run_key(self, name: str) -> Key:
        """The key of one of its Runs."""
        return Key(RUN, self.key.namespace, name)

    @property
    def all_runs(self) -> Sequence[RunView]:
        """All its Runs but cleanups, newest first."""
        if not self.deferred:
            return self.runs
        return sorted((*self.runs, *self.deferred), key=lambda view: (view.created, view.name), reverse=True)

    @property
    def restart(self) -> str:
        """Value of the restart annotation, without the `@` that parts it from a time in a nonce; empty: none."""
        return self.metadata.annotations.get(names.ANNOTATION_RESTART, "").replace("@", "%40")[:200]

    @property
    def retry(self) -> str:
        """Value of the retry annotation; empty: none."""
        return retry_of(self.metadata)

    @property
    def owner(self) -> str:
        """The object, as kubectl expects it."""
        return f"{self.key.kind.name.lower()} {self.key.name}"


def retry_of(metadata: Metadata) -> str:
    """Value of the annotation fovea.dev/retry of an object, as far as a status has room for it; empty: none."""
    return metadata.annotations.get(names.ANNOTATION_RETRY, "")[:256]


class ExecutionSettings(TypedDict):
    """How a run's work is carried out. No part of its identity, so a change of it starts no new run."""

    execution: Execution
    image: str


@dataclass(frozen=True, slots=True)
class ChildBuilder:
    """What carries a kind's runs out, and how it is built for an attempt."""

    kind: Kind
    build: Callable[[Work], JsonObject]
    pods_digest: str
    """Digest of what the spec says of the pods."""

    def manifest(self, work: Work) -> JsonObject:
        """The child of an attempt, with the digest."""
        manifest = self.build(work)
        metadata = dict(mapping(manifest, "metadata"))
        annotations = {**mapping(metadata, "annotations"), ANNOTATION_PODS: self.pods_digest}
        return manifest | {"metadata": metadata | {"annotations": annotations}}


def current_run(runs: Sequence[RunView], named: str | None) -> RunView | None:
    """The run that the status names; without one, the newest."""
    return next((view for view in runs if view.name == named), runs[0] if runs else None)


def run_that_goes_on(
    current: RunView | None, desired: RunSpec | Assessment, execution: ExecutionSettings
) -> RunSpec | Assessment:
    """The run to work on. One that is at work goes on where there can be no new one; an Assessment: there is none."""
    if isinstance(desired, RunSpec) or current is None or is_finished(current.status):
        return desired
    return current.run.spec.model_copy(update=execution)


def desired_recipe(context: Context, current: RunView | None, named: str | None, answered: int | None, spec: R) -> R:
    """The recipe that an object asks for.

    One whose spec has not been edited since its run was chosen asks for what it asked for then: another version may
    read other defaults out of the same spec. `answered`: the generation of the spec that the run `named` answers.
    """
    if current is None or current.name != named or answered != context.metadata.generation:
        return spec
    try:
        return read_recipe(current.run.spec.type, current.run.spec.recipe, type(spec))
    except ValidationError:  # made by a version that knows more, or had a field that is no more
        return spec


def answered_generation(context: Context, old: int | None, desired: RunSpec, spec: Model) -> int | None:
    """The generation of the spec that a run answers: this one, if the run has its recipe, else the one so far."""
    answers = is_same_recipe(desired.type, desired.recipe, spec)
    return context.metadata.generation if answers or old == context.metadata.generation else old


def without_run(
    context: Context, old: RunOwnerStatus, named: str | None, assessment: Assessment, **more: object
) -> Plan:
    """The status of an object that can have no new run now; earlier good state stays.

    `named`: its run so far. `more`: fields of its status that are new all the same.
    """
    generation, failed = context.metadata.generation, assessment.stalled is not None
    status = old.model_copy(
        update={
            "observed_generation": generation,
            "conditions": (
                *conditions(assessment, old.conditions, generation, context.now),
                *own_conditions(old.conditions),
            ),
            "phase": "Failed" if failed else "Pending",
            "usage": usage_of(context.all_runs, (), old, context.now),
            **more,
        }
    )
    reported = any(known.type == "Ready" and known.reason == assessment.reason for known in old.conditions)
    events: list[Write] = []
    if failed and not reported:
        events.append(Emit(context.key, "Warning", assessment.reason, assessment.message, named or ""))
    counts = (write for view in context.runs for write in _counted(context, view))
    return Plan((*counts, *events, *own_status(context.key, old, status, context.all_runs)))


def refusal(problems: Sequence[InvalidInput]) -> Assessment:
    """That what is asked for cannot be done, each wish with its field and the remedy."""
    return stalled(problems[0].reason, "; ".join(map(str, problems)))


def blocker_of(missing: Sequence[Reference], store: StoreConfig, leftover: Key | None = None) -> Assessment | None:
    """Why no attempt can start, as far as the namespace is concerned."""
    if not store.uri:
        return progressing(
            "StoreNotConfigured",
            "nobody said where results go; annotate the namespace with fovea.dev/store=<URI> "
            "or set defaults.store.uri of the chart",
            wakes=True,
        )
    if leftover is not None:
        return waiting_for_leftover(leftover)
    if not missing:
        return None
    first = missing[0]
    what = ", ".join(f"{reference.kind} {reference.name!r} ({reference.path})" for reference in missing)
    words = f"not found in this namespace: {what}; create it or correct the name"
    return progressing(f"{first.kind}NotFound", words, wakes=True)


def blocker_of_pods(view: RunView) -> Assessment | None:
    """Why no attempt may start after one that has ended and whose pods have not: both would write in one folder.

    Other runs of the object count too: runs of a TuningSweep that differ only in the number of trials share a folder.
    """
    if not view.stray_pods:
        return None
    return progressing(
        "Stopping",
        f"waiting for pod {view.stray_pods[0]} of an earlier attempt of run {view.name} to end; "
        "if its node will not come back, delete the Node, or the pod with kubectl delete --force",
    )


@dataclass(frozen=True, slots=True)
class RunWrites:
    """The writes for all runs of an owner, and where its current run stands."""

    writes: tuple[Write, ...]
    status_writes: tuple[Write, ...]
    """Events and statuses of Runs: written after the objects they speak of."""
    spec: RunSpec
    """The current run's."""
    step: Step
    run: str
    """Its name."""
    view: RunView | None
    """What was observed of it; None: it is made just now."""


def advance_runs(
    context: Context, named: str | None, desired: RunSpec, blocker: Assessment | None, child: ChildBuilder
) -> RunWrites:
    """Makes the desired run the current one, stops the others, and takes the desired run's next step.

    `named` is the run that the owner's status names so far.
    """
    name = run_name(desired.identity)
    view = next((view for view in context.runs if view.name == name), None)
    status = view.status if view is not None else RunStatus()

    run_key = context.run_key(name)
    first: list[Write] = []
    after: list[Write] = []
    stopping = False
    for other in context.runs:
        if other.name != name and (other.live or not is_finished(other.status)):
            stopping = stopping or other.live
            step = supersede(other.status, other.children, name, context.now)
            first += [Delete(child.key, child.uid) for child in step.delete]
            after += step_writes(context.key, context.run_key(other.name), desired.type, other, step, context.now)
        elif other.name != name:
            after += _counted(context, other)
    if view is None:
        first.append(Create(run_key, run_manifest(run_key, desired), context.key))
    if named != name and not status.attempts:
        note = f"run {name} was created"
        after.append(Emit(context.key, "Normal", "RunCreated", note, name))
    if blocker is None and stopping:
        blocker = progressing("Stopping", "waiting for the run before to stop")
    if blocker is None:
        blocker = next(filter(None, map(blocker_of_pods, context.runs)), None)
    step = advance(
        Situation(
            run=name,
            status=status,
            children=view.children if view is not None else (),
            policy=context.policy,
            blocker=blocker,
            now=context.now,
            settings=context.settings,
            retry=context.retry,
            owner=context.owner,
            adopt=context.store.adopt[:256],
            pods_digest=child.pods_digest,
        )
    )
    first += [Delete(child.key, child.uid) for child in step.delete]
    if step.start is not None:
        spec = view.run.spec if view is not None else desired
        now = spec.model_copy(update={"execution": desired.execution, "image": desired.image})
        work = Work(context.key.namespace, name, step.start, now, now.image, context.store)
        first += child_writes(run_key, child.kind, work, child.manifest(work), context.settings)
    after += step_writes(context.key, run_key, desired.type, view, step, context.now)
    return RunWrites(tuple(first), tuple(after), desired, step, name, view)


def step_writes(
    regarding: Key, run: Key, type: RunType, view: RunView | None, step: Step, now: datetime
) -> list[Write]:
    """What a run's step reports as events about an object, and the Run's status where it has changed.

    `view`: what was observed of the run; None: it is made just now.
    """
    events = [
        Emit(regarding, note.type, note.reason, f"run {run.name}: {note.text}", f"{run.name}-{note.attempt}")
        for note in step.notes
    ]
    ended = [attempt.outcome.value for attempt in step.ended if attempt.outcome is not None]
    counts = [Count(ATTEMPTS_ENDED.name, (type.value, outcome)) for outcome in ended]
    return [*events, *_status_writes(run, type, view, step.status, now), *counts]


def _status_writes(run: Key, type: RunType, view: RunView | None, status: RunStatus, now: datetime) -> list[Write]:
    """The status of a Run, where it has changed, with what its pods have reserved."""
    if view is None:
        return [SetStatus(run, status.to_dict())]
    before, after = own_part(view.status), with_usage(view, status, now)
    if before == after:
        return []
    return [SetStatus(run, after.to_dict()), *usage_counts(type, before.usage, after.usage)]


def _counted(context: Context, view: RunView) -> list[Write]:
    """What the last pods of a run have reserved that takes no step any more."""
    type, status = view.run.spec.type, own_part(view.status)
    return _status_writes(context.run_key(view.name), type, view, status, context.now)


def prune(context: Context, keep: Iterable[str]) -> tuple[Delete, ...]:
    """Finished Runs beyond the history limit, oldest first; their children go with them.

    One that still stops stays until then: without it nobody would know whose pods are left.
    """
    kept = set(keep)
    finished = [
        view
        for view in context.runs
        if view.name not in kept and is_finished(view.status) and not (view.live or view.stray_pods)
    ]
    return tuple(
        Delete(Key(RUN, context.key.namespace, view.name), view.run.metadata.uid)
        for view in finished[max(0, context.policy.history_limit - 1) :]
    )


def history(context: Context, newest: str | None, pruned: Sequence[Delete]) -> tuple[str, ...]:
    """Names of the Runs, newest first."""
    deleted = {delete.key.name for delete in pruned}
    names_ = [view.name for view in context.all_runs if view.name not in deleted]
    return tuple((names_ if newest is None or newest in names_ else [newest, *names_])[:100])


class OwnerFields(TypedDict):
    """What the status of every kind says of its runs."""

    observed_generation: int
    conditions: tuple[Condition, ...]
    run: str
    run_generation: int | None
    progress: Progress | None
    usage: UsageOfRuns | None
    history: tuple[str, ...]


def owner_fields(
    context: Context,
    old: RunOwnerStatus,
    made: RunWrites,
    asked: Model,
    assessment: Assessment,
    pruned: Sequence[Delete],
    lost: Sequence[RunView] = (),
) -> OwnerFields:
    """What a status says of the runs after a step.

    Args:
        asked: The recipe that the spec asks for.
        pruned: The Runs that the history limit deletes, and those of formats that are wanted no more.
        lost: Further Runs that are deleted.
    """
    generation = context.metadata.generation
    progress = made.view.status.progress if made.view is not None else None
    going = {*(each.key.name for each in pruned), *(view.name for view in lost)}
    return {
        "observed_generation": generation,
        "conditions": conditions(assessment, old.conditions, generation, context.now),
        "run": made.run,
        "run_generation": answered_generation(context, old.run_generation, made.spec, asked),
        "progress": progress.general() if progress is not None else None,
        "usage": usage_of((*context.all_runs, *lost), going, old, context.now),
        "history": history(context, made.run, pruned),
    }


def end_events(context: Context, run: str, assessment: Assessment, old: RunOwnerStatus) -> tuple[Write, ...]:
    """The event that says how a run came out, once."""
    before, under_way = condition_of(old, "Ready"), condition_of(old, "Reconciling")
    ended = old.run == run and (under_way is None or under_way.status != "True")
    reported = ended and before is not None and before.reason == assessment.reason
    if reported or assessment.reconciling or not (assessment.ready or assessment.stalled):
        return ()
    type: Literal["Normal", "Warning"] = "Normal" if assessment.ready else "Warning"
    return (Emit(context.key, type, assessment.reason, assessment.message, run),)


def own_status(key: Key, old: Status | None, new: Status, runs: Sequence[RunView] = ()) -> tuple[Write, ...]:
    """The status write, if anything changed. That the pods of `runs` run on, and reserve more, is no news."""
    growing = any(pod.until is None for view in runs for pod in view.pod_times)
    compared = new.model_copy(update={"usage": old.usage}) if growing and isinstance(old, RunOwnerStatus) else new
    return () if old == compared else (SetStatus(key, new.to_dict()),)
