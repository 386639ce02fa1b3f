"""Cleanups: the Runs that delete from the store, when an object is gone and when a Dataset has too many versions.

A Run that deletes all data of an object belongs to nobody, so that it outlives the object: it is ordered before the
object's first run can write anything, and waits. The observer finds it by its labels when the object is gone. Its
status says that the object was seen to want it: a Run that came back without one, from a backup, deletes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fovea_api.common import DeletionPolicy, PodTemplate, Resources, RunPolicy
from fovea_api.run import (
    CleanupRecipe,
    RunInputs,
    RunOwner,
    RunResult,
    RunSpec,
    RunStatus,
    RunType,
    run_identity,
    run_name,
)
from pydantic import ValidationError

from fovea_operator.build.job import build_job
from fovea_operator.build.pod import Work
from fovea_operator.conditions import Verdict, conditions, paused, stuck, working
from fovea_operator.objects import RUN, Key
from fovea_operator.observe import DatasetSnapshot, GoneSnapshot, RunView
from fovea_operator.plan import Create, Delete, Plan, Write
from fovea_operator.plan.owner import (
    Context,
    child_writes,
    hold_for,
    hold_for_pods,
    own_status,
    run_manifest,
    step_writes,
)
from fovea_operator.plan.runs import Step, advance, is_finished
from fovea_operator.settings import Settings

CLEANING_UP = "CleaningUp"
DELETED = "Deleted"
RETRIES = 20
"""Over an hour of attempts: nobody can raise them once the object is gone."""
USERS_TOLD = 5


@dataclass(frozen=True, slots=True)
class Pods:
    """What an object says of its pods, for those that clean up after it."""

    image: str
    template: PodTemplate
    policy: RunPolicy

    def recipe(self, keep_newest: int = 0) -> CleanupRecipe:
        """The recipe of a cleanup that runs where the object's other pods do."""
        queue, priority = self.policy.queue_name, self.policy.workload_priority_class_name
        policy = RunPolicy(retries=RETRIES, queue_name=queue, workload_priority_class_name=priority)
        return CleanupRecipe(keep_newest=keep_newest, pod_template=self.template, run_policy=policy)


# --- An object that is gone ----------------------------------------------------------------------------------------


def plan_gone(snapshot: GoneSnapshot, settings: Settings) -> Plan:
    """The next writes for an object that was deleted and whose data are to follow. Its Run goes when they are gone.

    Without the object nothing says that it wanted this but the Run's status, and its last version that was seen.
    """
    view = snapshot.cleanup
    if snapshot.retained and not view.at_work:
        return Plan((Delete(_key(view), view.run.metadata.uid),))
    if view.status.phase is None:
        return _unconfirmed(view, snapshot.now)
    hold = hold_for(snapshot.missing, snapshot.place)
    left = settings.cleanup_delay_seconds - (snapshot.now - _missing_since(view, snapshot.now)).total_seconds()
    if left > 0:
        hold = working(DELETED, f"{_owner(view)} is gone; its data follow {settings.cleanup_delay_seconds:g} s later")
    if snapshot.shared:
        hold = _store_shared(snapshot.shared)
    elif snapshot.users:
        more = len(snapshot.users) - USERS_TOLD
        used = ", ".join(snapshot.users[:USERS_TOLD]) + (f" and {more} more" if more > 0 else "")
        hold = working("InUse", f"the data are deleted when these are gone: {used}")
    writes, step = _step(view, hold, (), snapshot, settings)
    if step.status.phase == "Succeeded":
        writes = [*writes, Delete(_key(view), view.run.metadata.uid)]
    return Plan(tuple(writes), left if step.verdict.reason == DELETED else step.requeue_after)


def _store_shared(namespace: str) -> Verdict:
    return stuck(
        "StoreShared",
        f"the store of namespace {namespace} is the same, or lies in it or around it, so the data may belong there; "
        "nothing is deleted until each has a store of its own (annotation fovea.dev/store of the namespace)",
    )


def _missing_since(view: RunView, now: datetime) -> datetime:
    """When the object was first seen missing: since then its Run does not only wait but is on the way."""
    found = next((it for it in view.status.conditions if it.type == "Reconciling" and it.status == "True"), None)
    return found.last_transition_time if found is not None and found.last_transition_time is not None else now


def _unconfirmed(view: RunView, now: datetime) -> Plan:
    """What is told of a Run that has no status beside an object that is not there."""
    verdict = stuck(
        "Unconfirmed",
        f"{_owner(view)} was never seen to ask for this, so its data stay; to delete them apply it with "
        "deletionPolicy Delete and delete it anew, to keep them delete this Run",
    )
    status = RunStatus(observed_generation=1, conditions=conditions(verdict, view.status.conditions, 1, now))
    old = view.status.model_copy(update={"progress": None, "result": None})
    return Plan(own_status(_key(view), old, status))


# --- An object that exists -----------------------------------------------------------------------------------------


def hold_while_cleaning(cleanups: Sequence[RunView]) -> Verdict | None:
    """Why no attempt may start as long as a pod deletes below the object's folder."""
    at_work = next((it for it in cleanups if it.at_work), None)
    if at_work is None:
        return None
    what = "data of a deleted object of this name" if at_work.deletes_all else "old versions"
    return working(CLEANING_UP, f"waiting for run {at_work.name}, which deletes {what} from the store")


def with_deletion(
    plan: Plan, context: Context, policy: DeletionPolicy, pods: Pods, cleanups: Sequence[RunView]
) -> Plan:
    """The plan, and before it: the Run that deletes the object's data waits for the object's end, or there is none."""
    return Plan((*_deletion(plan, context, policy, pods, cleanups), *plan.writes), plan.requeue_after)


def _deletion(
    plan: Plan, context: Context, policy: DeletionPolicy, pods: Pods, cleanups: Sequence[RunView]
) -> Sequence[Write]:
    view = next((it for it in cleanups if it.deletes_all), None)
    hold = paused("Waiting", f"acts when {context.key.kind} {context.key.name} is deleted")
    store = context.runs[0].run.spec.store if context.runs else context.place.store
    wanted = _order(context.key, store, pods.recipe(), pods.image, nonce="")
    delete = policy is DeletionPolicy.DELETE
    fits = view is not None and delete and not is_finished(view.status) and _same(view.run.spec, wanted)
    if view is not None and (fits or view.at_work):
        return _step(view, hold, (), context, context.settings)[0]
    old = [Delete(_key(view), view.run.metadata.uid)] if view is not None else []
    orders = any(isinstance(it, Create) and it.key.kind == RUN for it in plan.writes)
    if not delete or not (context.runs or orders):
        return old
    run = Key(RUN, context.key.namespace, run_name(wanted.identity))
    retries = pods.recipe().run_policy
    step = advance(run.name, RunStatus(), (), retries, hold, context.now, context.settings)
    return [*old, Create(run, run_manifest(run, wanted), None), *step_writes(run, run, RunStatus(), step)]


def prune_versions(
    context: Context, snapshot: DatasetSnapshot, pods: Pods, current: RunView | None, building: bool
) -> tuple[tuple[Write, ...], float | None]:
    """The writes for the Run that deletes a Dataset's old versions, and the seconds until the next look.

    It is ordered when the current build has left more versions than are wanted, and starts a while later: by then
    every run that was being ordered on an old version is known, and what it reads is kept. Never while a build is at
    work.
    """
    retain = snapshot.dataset.spec.retain_versions
    views = [it for it in snapshot.cleanups if not it.deletes_all]
    result = current.status.result if current is not None else None
    wanted = None
    if current is not None and result is not None and result.error is None and len(result.versions) > retain:
        nonce = f"{result.digest}@{retain}"
        wanted = _order(context.key, current.run.spec.store, pods.recipe(retain), pods.image, nonce)
    name = run_name(wanted.identity) if wanted is not None else ""
    writes: list[Write] = []
    wait: float | None = None
    for view in views:
        if view.name == name or view.at_work:
            start = view.created + timedelta(seconds=context.settings.cleanup_delay_seconds)
            left = (start - context.now).total_seconds()
            hold = None
            if building:
                hold = working("Waiting", "acts when the build has ended")
            elif snapshot.shared:
                hold = _store_shared(snapshot.shared)
            elif left > 0:
                hold = working("Waiting", "acts when every run that was being ordered is known")
            elif snapshot.used is None:
                hold = working("Waiting", "acts when it is known which versions are in use")
            made, step = _step(view, hold, _kept(current, snapshot), context, context.settings)
            writes += made
            if left > 0:
                wait = left
            elif not building:
                wait = step.requeue_after
        else:
            writes.append(Delete(_key(view), view.run.metadata.uid))
    if wanted is not None and not any(it.name == name or it.at_work for it in views):
        run = Key(RUN, context.key.namespace, name)
        writes.append(Create(run, run_manifest(run, wanted), context.key))
    return tuple(writes), wait


def lost_builds(snapshot: DatasetSnapshot) -> tuple[RunView, ...]:
    """Builds whose version a cleanup has deleted since: their Runs must not be found again as if it were there."""
    ended = (it.status.result for it in snapshot.cleanups if not it.deletes_all)
    left = [it for it in ended if it is not None and it.error is None]
    return tuple(view for view in snapshot.runs for made in [view.status.result] if made and _is_lost(made, left))


def _is_lost(made: RunResult, left: Sequence[RunResult]) -> bool:
    return made.digest is not None and any(
        made.completed_at < cleanup.completed_at and made.digest not in cleanup.versions for cleanup in left
    )


def _kept(current: RunView | None, snapshot: DatasetSnapshot) -> tuple[str, ...]:
    """Versions that stay whatever their age: in use, pinned, the current one and the one whose splits it keeps."""
    kept: set[str | None] = set(snapshot.used or ())
    if snapshot.dataset.status is not None:
        kept.add(snapshot.dataset.status.version)
    if current is not None:
        kept.add(current.status.result.digest if current.status.result is not None else None)
        kept.add(current.run.spec.inputs.parent.version if current.run.spec.inputs.parent is not None else None)
    return tuple(sorted(it for it in kept if it is not None))


# --- The Run of a cleanup ------------------------------------------------------------------------------------------


def _step(
    view: RunView, hold: Verdict | None, keep: Sequence[str], where: Context | GoneSnapshot, settings: Settings
) -> tuple[list[Write], Step]:
    """The next step of a cleanup. What it tells, it tells about the Run itself: the object may be gone."""
    spec, run = view.run.spec, _key(view)
    recipe = CleanupRecipe.model_validate(dict(spec.recipe))
    policy = recipe.run_policy
    again = f"to try again apply {_owner(view)} and delete it anew"
    remedy = again if view.deletes_all else "the next version tries again"
    hold = hold or hold_for_pods(view)
    step = advance(view.name, view.status, view.children, policy, hold, where.now, settings, remedy)
    writes: list[Write] = [Delete(child.key, child.uid) for child in step.delete]
    if step.start is not None:
        now = spec.model_copy(update={"recipe": recipe.model_copy(update={"keep": tuple(keep)}).to_dict()})
        image = spec.image or settings.trainer_image
        work = Work(run.namespace, run.name, step.start, now, image, where.place.store_secret)
        job = build_job(work, _resources(settings), recipe.pod_template, policy, settings)
        writes += child_writes(run, work, job, settings)
    return [*writes, *step_writes(run, run, view.status, step)], step


def _order(key: Key, store: str, recipe: CleanupRecipe, image: str, nonce: str) -> RunSpec:
    """A cleanup is known by its object and the version that called for it; how it is carried out may change."""
    owner = RunOwner.model_validate({"kind": key.kind.name, "name": key.name})
    return RunSpec(
        type=RunType.CLEANUP,
        owner=owner,
        identity=run_identity(RunType.CLEANUP, owner, CleanupRecipe(), RunInputs(), nonce),
        nonce=nonce,
        recipe=recipe.to_dict(),
        store=store,
        image=image,
    )


def _same(found: RunSpec, wanted: RunSpec) -> bool:
    try:
        recipes = [CleanupRecipe.model_validate(dict(it.recipe)) for it in (found, wanted)]
    except ValidationError:  # made by another version of the API
        return False
    return recipes[0] == recipes[1] and (found.store, found.image) == (wanted.store, wanted.image)


def _resources(settings: Settings) -> Resources:
    memory = {"memory": settings.cleanup_memory}
    return Resources(requests={"cpu": settings.cleanup_cpu, **memory}, limits=memory)


def _owner(view: RunView) -> str:
    owner = view.run.spec.owner
    return f"{owner.kind} {owner.name}"


def _key(view: RunView) -> Key:
    return Key(RUN, view.run.metadata.namespace, view.name)
