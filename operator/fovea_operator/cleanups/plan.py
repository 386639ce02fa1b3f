"""Plans cleanups: the Runs that delete from the store, when an object is deleted and when there is too much of it.

A Run that deletes all data of an object belongs to nobody, so that it outlives the object: it is created before the
object's first run can write anything, and waits. The observer finds it by its labels when the object is deleted. Its
status says that the object was seen to ask for it: a Run that came back without one, from a backup, deletes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fovea_api import names
from fovea_api.common import DeletionPolicy
from fovea_api.run import CleanupRecipe, RunSpec, RunStatus, RunType, run_name
from pydantic import ValidationError

from fovea_operator.cleanups.build import PodSettings, build_cleanup, cleanup_spec
from fovea_operator.cleanups.snapshot import DeletedSnapshot
from fovea_operator.conditions import Assessment, condition_of, conditions, progressing, stalled, suspended
from fovea_operator.objects import JOB, RUN, Key
from fovea_operator.runs.build import child_writes, run_manifest
from fovea_operator.runs.lifecycle import Situation, Step, advance, is_finished
from fovea_operator.runs.plan import (
    CLEANING_UP,
    Context,
    blocker_of,
    blocker_of_pods,
    own_status,
    retry_of,
    step_writes,
)
from fovea_operator.runs.snapshot import RunsSnapshot, RunView
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.work import Work
from fovea_operator.writes import Create, Delete, Plan, Write

DELETED = "Deleted"
_USERS_LISTED = 5


# --- An object that is deleted -------------------------------------------------------------------------------------


def plan_deleted(snapshot: DeletedSnapshot, settings: Settings) -> Plan:
    """The next writes for an object that was deleted and whose data are to follow. Its Run goes when they are deleted.

    Without the object nothing says that it asked for this but the Run's status, and its last version that was seen.
    """
    view = snapshot.cleanup
    if snapshot.retained and not view.at_work:
        return Plan((Delete(run_key(view), view.run.metadata.uid),))
    if view.status.phase is None:
        return _unconfirmed(view, snapshot.now)
    blocker = blocker_of(snapshot.missing, snapshot.store)
    left = settings.cleanup_delay_seconds - (snapshot.now - _missing_since(view, snapshot.now)).total_seconds()
    if left > 0:
        delay = f"{settings.cleanup_delay_seconds:g} s"
        blocker = progressing(DELETED, f"{owner_of(view)} is deleted; its data follow {delay} later")
    if snapshot.shared:
        blocker = store_shared(snapshot.shared)
    elif snapshot.users:
        more = len(snapshot.users) - _USERS_LISTED
        used = ", ".join(snapshot.users[:_USERS_LISTED]) + (f" and {more} more" if more > 0 else "")
        blocker = progressing("InUse", f"the data are kept until these are deleted: {used}")
    writes, step = advance_cleanup(CleanupSituation(view, blocker, snapshot.store, snapshot.now, settings))
    if step.status.phase == "Succeeded":
        writes = [*writes, Delete(run_key(view), view.run.metadata.uid)]
    return Plan(tuple(writes), left if step.assessment.reason == DELETED else step.requeue_after)


def store_shared(namespace: str) -> Assessment:
    """That nothing can be deleted from a store that another namespace has too."""
    return stalled(
        "StoreShared",
        f"the store of namespace {namespace} is the same, or lies in it or around it, so the data may belong there; "
        "nothing is deleted until each has a store of its own (annotation fovea.dev/store of the namespace)",
    )


def _missing_since(view: RunView, now: datetime) -> datetime:
    """When the object was first seen missing: since then its Run does not only wait but is on the way."""
    known = condition_of(view.status, "Reconciling")
    return known.last_transition_time if known is not None and known.status == "True" else now


def _unconfirmed(view: RunView, now: datetime) -> Plan:
    """What is reported of a Run that has no status beside an object that is not there."""
    assessment = stalled(
        "Unconfirmed",
        f"{owner_of(view)} was never seen to ask for this, so its data stay; to delete them apply it with "
        "deletionPolicy Delete and delete it anew, to keep them delete this Run",
    )
    status = RunStatus(observed_generation=1, conditions=conditions(assessment, view.status.conditions, 1, now))
    old = view.status.model_copy(update={"progress": None, "result": None})
    return Plan(own_status(run_key(view), old, status))


# --- An object that exists -----------------------------------------------------------------------------------------


def blocker_of_cleanups(cleanups: Sequence[RunView]) -> Assessment | None:
    """Why no attempt may start as long as a pod deletes below the object's folder."""
    at_work = next((view for view in cleanups if view.at_work), None)
    if at_work is None:
        return None
    what = "data of a deleted object of this name" if at_work.deletes_all else "old versions"
    return progressing(CLEANING_UP, f"waiting for run {at_work.name}, which deletes {what} from the store")


def blocker_of_attempts(snapshot: RunsSnapshot) -> Assessment | None:
    """Why no attempt of an object's own runs may start, as far as its namespace and its cleanups are concerned."""
    namespace = blocker_of(snapshot.missing, snapshot.store, snapshot.leftover)
    return namespace or blocker_of_cleanups(snapshot.cleanups)


def with_deletion(
    plan: Plan, context: Context, policy: DeletionPolicy, pods: PodSettings, cleanups: Sequence[RunView]
) -> Plan:
    """The plan, and before it: the Run that deletes the object's data waits for the object's end, or there is none."""
    return Plan((*_deletion(plan, context, policy, pods, cleanups), *plan.writes), plan.requeue_after)


def _deletion(
    plan: Plan, context: Context, policy: DeletionPolicy, pods: PodSettings, cleanups: Sequence[RunView]
) -> Sequence[Write]:
    view = next((view for view in cleanups if view.deletes_all), None)
    blocker = suspended("Waiting", f"acts when {context.key.kind} {context.key.name} is deleted")
    store = context.runs[0].run.spec.store if context.runs else context.store.uri
    desired = cleanup_spec(context.key, store, pods)
    delete = policy is DeletionPolicy.DELETE
    fits = view is not None and delete and not is_finished(view.status) and _same(view.run.spec, desired)
    if view is not None and (fits or view.at_work):
        situation = CleanupSituation(view, blocker, context.store, context.now, context.settings, context=context)
        return advance_cleanup(situation)[0]
    old = [Delete(run_key(view), view.run.metadata.uid)] if view is not None else []
    starts = any(isinstance(write, Create) and write.key.kind == RUN for write in plan.writes)
    if not delete or not (context.runs or starts):
        return old
    run = Key(RUN, context.key.namespace, run_name(desired.identity))
    step = advance(
        Situation(
            run=run.name,
            status=RunStatus(),
            policy=pods.recipe().run_policy,
            blocker=blocker,
            now=context.now,
            settings=context.settings,
        )
    )
    return [
        *old,
        Create(run, run_manifest(run, desired), None),
        *step_writes(run, run, RunType.CLEANUP, None, step, context.now),
    ]


# --- The Run of a cleanup ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CleanupSituation:
    """All that decides on the next step of a cleanup."""

    view: RunView
    blocker: Assessment | None
    store: StoreConfig
    now: datetime
    settings: Settings
    keep: tuple[str, ...] = ()
    """Dataset versions that stay whatever their age."""
    context: Context | None = None
    """That of the object that it works for; None: the object is deleted."""

    @property
    def asked(self) -> tuple[str, str]:
        """The object whose annotation asks for another attempt, as kubectl expects it, and what the annotation says.

        It is the object that the cleanup works for, and where that is deleted the Run.
        """
        if self.context is not None:
            return self.context.owner, self.context.retry
        return f"run {self.view.name}", retry_of(self.view.run.metadata)


def advance_cleanup(situation: CleanupSituation) -> tuple[list[Write], Step]:
    """The next step of a cleanup. What it reports, it reports about the Run itself: the object may be deleted."""
    view, settings = situation.view, situation.settings
    spec, run = view.run.spec, run_key(view)
    recipe = CleanupRecipe.model_validate(dict(spec.recipe))
    who, retry = situation.asked
    again = f"to try again give the annotation {names.ANNOTATION_RETRY} of {who} a new value"
    step = advance(
        Situation(
            run=view.name,
            status=view.status,
            children=view.children,
            policy=recipe.run_policy,
            blocker=situation.blocker or blocker_of_pods(view),
            now=situation.now,
            settings=settings,
            remedy=again if situation.context is not None else f"{again}, or apply {owner_of(view)} and delete it anew",
            retry=retry,
            owner=who,
            adopt=situation.store.adopt[:256],
        )
    )
    writes: list[Write] = [Delete(child.key, child.uid) for child in step.delete]
    if step.start is not None:
        now = spec.model_copy(update={"recipe": recipe.model_copy(update={"keep": situation.keep}).to_dict()})
        image = spec.image or settings.trainer_image
        work = Work(run.namespace, run.name, step.start, now, image, situation.store)
        writes += child_writes(run, JOB, work, build_cleanup(work, recipe, settings), settings)
    return [*writes, *step_writes(run, run, RunType.CLEANUP, view, step, situation.now)], step


def _same(existing: RunSpec, desired: RunSpec) -> bool:
    try:
        recipes = [CleanupRecipe.model_validate(dict(spec.recipe)) for spec in (existing, desired)]
    except ValidationError:  # made by another version of the API
        return False
    return recipes[0] == recipes[1] and (existing.store, existing.image) == (desired.store, desired.image)


def owner_of(view: RunView) -> str:
    """The object that a cleanup works for, in words."""
    owner = view.run.spec.owner
    return f"{owner.kind} {owner.name}"


def run_key(view: RunView) -> Key:
    """The key of a cleanup's Run."""
    return Key(RUN, view.run.metadata.namespace, view.name)
