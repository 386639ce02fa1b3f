"""What the planners of Dataset and TrainingJob share: which run is current, its step, the writes that carry it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, TypeVar

from fovea_api import names
from fovea_api.common import Metadata, Model, RunPolicy, Status
from fovea_api.dataset import DatasetStatus
from fovea_api.errors import InvalidInput
from fovea_api.run import Execution, Run, RunSpec, RunStatus, Usage, run_name
from fovea_api.trainingjob import TrainingJobStatus
from pydantic import ValidationError

from fovea_operator.build.pod import Work
from fovea_operator.children import Child
from fovea_operator.conditions import Progressing, Verdict, conditions, stuck, waiting_for_leftover, working
from fovea_operator.objects import (
    BY_NAME,
    ROLE_BINDING,
    RUN,
    SERVICE_ACCOUNT,
    JsonObject,
    Key,
)
from fovea_operator.observe import Missing, Place, RunView
from fovea_operator.plan import Create, Delete, Emit, Plan, SetStatus, Write
from fovea_operator.plan.runs import Step, advance, is_finished, supersede
from fovea_operator.settings import Settings

Build = Callable[[Work], JsonObject]
R = TypeVar("R", bound=Model)


@dataclass(frozen=True, slots=True)
class Context:
    """What every planner needs beside its snapshot."""

    key: Key
    metadata: Metadata
    place: Place
    policy: RunPolicy
    runs: Sequence[RunView]
    now: datetime
    settings: Settings

    @property
    def restart(self) -> str:
        """Value of the restart annotation, without the `@` that parts it from a time in a nonce; empty: none."""
        return self.metadata.annotations.get(names.ANNOTATION_RESTART, "").replace("@", "%40")[:200]


class Means(TypedDict):
    """What a run's work is done with. No part of its identity, so a change of it starts no new run."""

    execution: Execution
    image: str


def current_run(runs: Sequence[RunView], named: str | None) -> RunView | None:
    """The run that the status names; without one, the newest."""
    return next((view for view in runs if view.name == named), runs[0] if runs else None)


def frozen(view: RunView, recipe: type[R]) -> R | None:
    """The recipe of a run as this version of the API reads it; a field that it lacks has its default."""
    try:
        return recipe.model_validate(dict(view.run.spec.recipe))
    except ValidationError:
        return None


def without_run(context: Context, old: DatasetStatus | TrainingJobStatus, verdict: Verdict) -> Plan:
    """The status of an object for which no run can be ordered now; earlier good state stays."""
    generation, failed = context.metadata.generation, verdict.progressing is Progressing.STUCK
    status = old.model_copy(
        update={
            "observed_generation": generation,
            "conditions": conditions(verdict, old.conditions, generation, context.now),
            "phase": "Failed" if failed else "Pending",
        }
    )
    told = any(it.type == "Ready" and it.reason == verdict.reason for it in old.conditions)
    events: list[Write] = []
    if failed and not told:
        events.append(Emit(context.key, "Warning", verdict.reason, verdict.message, old.run or ""))
    return Plan((*events, *own_status(context.key, old, status)))


def refusal(problems: Sequence[InvalidInput]) -> Verdict:
    """That what is asked for cannot be done, each wish with its field and the remedy."""
    return stuck(problems[0].reason, "; ".join(map(str, problems)))


def hold_for(missing: Sequence[Missing], place: Place, leftover: Key | None = None) -> Verdict | None:
    """Why no attempt can start, as far as the namespace is concerned."""
    if not place.store:
        return working(
            "StoreNotConfigured",
            "nobody said where results go; annotate the namespace with fovea.dev/store=<URI> "
            "or set defaults.store.uri of the chart",
        )
    if leftover is not None:
        return waiting_for_leftover(leftover)
    if not missing:
        return None
    first = missing[0]
    what = ", ".join(f"{it.kind} {it.name!r} ({it.path})" for it in missing)
    return working(f"{first.kind}NotFound", f"not found in this namespace: {what}; create it or correct the name")


def hold_for_pods(view: RunView) -> Verdict | None:
    """Why no attempt may start after one that has ended and whose pods have not: both would write in one folder."""
    if not view.pods:
        return None
    return working(
        "Stopping",
        f"waiting for pod {view.pods[0]} of an earlier attempt to end; if its node is gone for good, delete the Node, "
        "or the pod with kubectl delete --force",
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The writes for all runs of an owner, and where its current run stands."""

    writes: tuple[Write, ...]
    status_writes: tuple[Write, ...]
    """Events and statuses of Runs: written after the objects they speak of."""
    step: Step
    run: str


def carry_out(
    context: Context,
    named: str | None,
    wanted: RunSpec,
    hold: Verdict | None,
    build: Build,
) -> Outcome:
    """Makes the wanted run the current one, stops the others, and takes the wanted run's next step.

    `named` is the run that the owner's status names so far.
    """
    name = run_name(wanted.identity)
    view = next((it for it in context.runs if it.name == name), None)
    status = view.status if view is not None else RunStatus()
    children = view.children if view is not None else ()

    run_key = Key(RUN, context.key.namespace, name)
    first: list[Write] = []
    after: list[Write] = []
    stopping = False
    for other in context.runs:
        live = any(not child.state.ended for child in other.children)
        if other.name != name and (live or not is_finished(other.status)):
            stopping = stopping or live
            step = supersede(other.status, other.children, name, context.now)
            first += [Delete(child.key, child.uid) for child in step.delete]
            after += step_writes(context.key, Key(RUN, context.key.namespace, other.name), other.status, step)
    if view is None:
        first.append(Create(run_key, run_manifest(run_key, wanted), context.key))
    if named != name and not status.attempts:
        note = f"run {name} was created"
        after.append(Emit(context.key, "Normal", "RunCreated", note, name))
    if hold is None and stopping:
        hold = working("Stopping", "waiting for the run before to stop")
    if hold is None and view is not None:
        hold = hold_for_pods(view)
    step = advance(name, status, children, context.policy, hold, context.now, context.settings)
    first += [Delete(child.key, child.uid) for child in step.delete]
    if step.start is not None:
        spec = view.run.spec if view is not None else wanted
        now = spec.model_copy(update={"execution": wanted.execution, "image": wanted.image})
        work = Work(context.key.namespace, name, step.start, now, now.image, context.place.store_secret)
        first += child_writes(run_key, work, build(work), context.settings)
    after += step_writes(context.key, run_key, status, step)
    return Outcome(tuple(first), tuple(after), step, name)


def child_writes(run: Key, work: Work, manifest: JsonObject, settings: Settings) -> tuple[Create, ...]:
    """The child of an attempt, after what pods of its namespace need."""
    kind = BY_NAME[str(manifest["kind"])]
    return (
        *namespace_setup(run.namespace, settings),
        Create(Key(kind, run.namespace, work.name), manifest, run),
    )


def step_writes(regarding: Key, run: Key, old: RunStatus, step: Step) -> list[Write]:
    """What a run's step tells as events about an object, and the Run's status where it has changed."""
    own = old.model_copy(update={"progress": None, "result": None})
    writes: list[Write] = [
        Emit(regarding, note.type, note.reason, f"run {run.name}: {note.text}", f"{run.name}-{note.attempt}")
        for note in step.notes
    ]
    if own != step.status:
        writes.append(SetStatus(run, step.status.to_dict()))
    return writes


def run_manifest(run: Key, spec: RunSpec) -> JsonObject:
    """The Run, with the labels by which it is found."""
    return {
        "apiVersion": RUN.api_version,
        "kind": RUN.name,
        "metadata": {
            "name": run.name,
            "namespace": run.namespace,
            "labels": {
                names.LABEL_KIND: spec.owner.kind,
                names.LABEL_NAME: spec.owner.name,
                names.LABEL_RUN: run.name,
                names.LABEL_MANAGED_BY: names.MANAGED_BY,
            },
        },
        "spec": spec.to_dict(),
    }


def namespace_setup(namespace: str, settings: Settings) -> tuple[Create, ...]:
    """ServiceAccount of run pods and its binding; they belong to the namespace, so they have no controller."""
    name = names.RUN_SERVICE_ACCOUNT
    metadata: JsonObject = {
        "name": name,
        "namespace": namespace,
        "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
    }
    account: JsonObject = {
        "apiVersion": SERVICE_ACCOUNT.api_version,
        "kind": SERVICE_ACCOUNT.name,
        "metadata": metadata,
    }
    binding: JsonObject = {
        "apiVersion": ROLE_BINDING.api_version,
        "kind": ROLE_BINDING.name,
        "metadata": metadata,
        "roleRef": {
            "apiGroup": ROLE_BINDING.group,
            "kind": "ClusterRole",
            "name": settings.cluster_role,
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    return (
        Create(Key(SERVICE_ACCOUNT, namespace, name), account, None),
        Create(Key(ROLE_BINDING, namespace, name), binding, None),
    )


def prune(context: Context, keep: Iterable[str]) -> tuple[Delete, ...]:
    """Finished Runs beyond the history limit, oldest first; their children go with them."""
    kept = set(keep)
    finished = [view for view in context.runs if view.name not in kept and is_finished(view.status)]
    return tuple(
        Delete(Key(RUN, context.key.namespace, view.name), view.run.metadata.uid)
        for view in finished[max(0, context.policy.history_limit - 1) :]
    )


def history(context: Context, newest: str | None, pruned: Sequence[Delete]) -> tuple[str, ...]:
    """Names of the Runs, newest first."""
    gone = {it.key.name for it in pruned}
    names_ = [view.name for view in context.runs if view.name not in gone]
    return tuple((names_ if newest is None or newest in names_ else [newest, *names_])[:100])


def usage(runs: Sequence[RunView]) -> Usage | None:
    """Compute time of all Runs that are kept."""
    summaries = [
        view.status.result.training
        for view in runs
        if view.status.result is not None and view.status.result.training is not None
    ]
    if not summaries:
        return None
    return Usage(cpu_hours=sum(it.cpu_hours for it in summaries), gpu_hours=sum(it.gpu_hours for it in summaries))


def own_status(key: Key, old: Status | None, new: Status) -> tuple[Write, ...]:
    """The status write, if anything changed."""
    return () if old == new else (SetStatus(key, new.to_dict()),)


__all__ = [
    "Child",
    "Context",
    "Outcome",
    "Run",
    "carry_out",
    "current_run",
    "frozen",
    "history",
    "hold_for",
    "prune",
    "refusal",
    "without_run",
]
