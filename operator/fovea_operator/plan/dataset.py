"""The planner of a Dataset: builds a version, builds again when the spec or the schedule says so."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fovea_api.dataset import Dataset, DatasetStatus, Recipe, unsupported
from fovea_api.run import Execution, RunInputs, RunOwner, RunResult, RunSpec, RunType, VersionInput, run_identity

from fovea_operator.build.job import build_job
from fovea_operator.conditions import Progressing, Verdict, conditions, done, stuck
from fovea_operator.objects import DATASET, RUN, Key
from fovea_operator.observe import DatasetSnapshot, RunView
from fovea_operator.plan import Delete, Emit, Plan, Write
from fovea_operator.plan.cleanup import Pods, hold_while_cleaning, lost_builds, prune_versions, with_deletion
from fovea_operator.plan.owner import (
    Context,
    Means,
    carry_out,
    current_run,
    frozen,
    history,
    hold_for,
    own_status,
    prune,
    refusal,
    usage,
    without_run,
)
from fovea_operator.plan.runs import is_finished
from fovea_operator.plan.schedule import InvalidSchedule, last_time, next_time
from fovea_operator.settings import Settings

_PHASES: dict[str | None, Any] = {"Running": "Building", "Succeeded": "Ready"}


def plan_dataset(snapshot: DatasetSnapshot, settings: Settings) -> Plan:
    """The next writes for a Dataset."""
    dataset = snapshot.dataset
    spec = dataset.spec
    key = Key(DATASET, dataset.metadata.namespace, dataset.metadata.name)
    lost = lost_builds(snapshot)
    runs = tuple(view for view in snapshot.runs if view not in lost)
    context = Context(key, dataset.metadata, snapshot.place, spec.run_policy, runs, snapshot.now, settings)
    pods = Pods(spec.compute.image, spec.compute.pod_template, spec.run_policy)
    plan = _plan(context, snapshot, pods)
    forgotten = (Delete(Key(RUN, key.namespace, view.name), view.run.metadata.uid) for view in lost)
    plan = Plan((*forgotten, *plan.writes), plan.requeue_after)
    return with_deletion(plan, context, spec.deletion_policy, pods, snapshot.cleanups)


def _plan(context: Context, snapshot: DatasetSnapshot, pods: Pods) -> Plan:
    dataset, key, now, settings = snapshot.dataset, context.key, context.now, context.settings
    spec, old = dataset.spec, dataset.status or DatasetStatus()
    current = current_run(context.runs, old.run)

    refresh: datetime | None = None
    wanted: RunSpec | Verdict
    try:
        refresh, due = _schedule(dataset, current, now)
        wanted = _wanted(context, dataset, old, current, due)
    except InvalidSchedule as error:
        wanted = stuck(error.reason, str(error))
    blocked = wanted if isinstance(wanted, Verdict) else None
    if isinstance(wanted, Verdict):
        if current is None or is_finished(current.status):
            cleanup, later = prune_versions(context, snapshot, pods, current, any(it.at_work for it in context.runs))
            return Plan((*without_run(context, old, wanted).writes, *cleanup), later)
        wanted = current.run.spec.model_copy(update=_means(context, dataset))
    hold = hold_for(snapshot.missing, snapshot.place, snapshot.leftover) or hold_while_cleaning(snapshot.cleanups)
    outcome = carry_out(
        context,
        old.run,
        wanted,
        hold,
        lambda work: build_job(work, spec.compute.resources, spec.compute.pod_template, spec.run_policy, settings),
    )
    step, name = outcome.step, outcome.run
    view = next((it for it in context.runs if it.name == name), None)
    result = view.status.result if view is not None else None
    verdict = _verdict(step.verdict, result)
    pruned = prune(context, [name])
    status = _with_version(
        old.model_copy(
            update={
                "observed_generation": dataset.metadata.generation,
                "conditions": conditions(blocked or verdict, old.conditions, dataset.metadata.generation, now),
                "phase": _PHASES.get(step.status.phase, step.status.phase),
                "run": name,
                "progress": view.status.progress if view is not None else None,
                "next_refresh": refresh.strftime("%Y-%m-%dT%H:%M:%SZ") if refresh is not None else None,
                "usage": usage(context.runs),
                "history": history(context, name, pruned),
            }
        ),
        result,
    )
    events = _events(key, name, verdict, result, old)
    building = not is_finished(step.status) or any(it.at_work for it in context.runs)
    cleanup, later = prune_versions(context, snapshot, pods, view, building)
    wait = [step.requeue_after, later, (refresh - now).total_seconds() + 1 if refresh is not None else None]
    return Plan(
        (*outcome.writes, *events, *outcome.status_writes, *own_status(key, dataset.status, status), *pruned, *cleanup),
        min((it for it in wait if it is not None), default=None),
    )


def _wanted(
    context: Context, dataset: Dataset, old: DatasetStatus, current: RunView | None, due: datetime | None
) -> RunSpec | Verdict:
    """The current run's order; a new one if the spec, the restart annotation or the schedule say so; or why none."""
    spec, recipe = dataset.spec, dataset.spec.recipe()
    if current is not None:
        restarted = context.restart not in ("", current.run.spec.nonce.partition("@")[0])
        before = frozen(current, Recipe)
        same = before is not None and before.identifying() == recipe.identifying()
        if same and not restarted and due is None:
            return current.run.spec.model_copy(update=_means(context, dataset))
    if problems := unsupported(recipe):
        return refusal(problems)
    if (hold := hold_for((), context.place)) is not None:
        return hold
    parent = None
    if spec.splits.keep_assignments and old.version is not None and old.artifact is not None:
        parent = VersionInput(version=old.version, artifact=old.artifact)
    nonce = context.restart + (f"@{due:%Y-%m-%dT%H:%M:%SZ}" if due is not None else "")
    owner = RunOwner(kind="Dataset", name=dataset.metadata.name)
    inputs = RunInputs(parent=parent)
    return RunSpec(
        type=RunType.DATASET_BUILD,
        owner=owner,
        identity=run_identity(RunType.DATASET_BUILD, owner, recipe, inputs, nonce),
        nonce=nonce,
        recipe=recipe.to_dict(),
        inputs=inputs,
        store=context.place.store,
        **_means(context, dataset),
    )


def _means(context: Context, dataset: Dataset) -> Means:
    compute = dataset.spec.compute
    return {
        "execution": Execution(workers=compute.workers, resources=compute.resources),
        "image": compute.image or context.settings.trainer_image,
    }


def _schedule(dataset: Dataset, current: RunView | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    """When the sources are read next, and the time that is due now, if one is. Missed times are made up once."""
    refresh = dataset.spec.refresh
    if refresh is None:
        return None, None
    following = next_time(refresh.schedule, refresh.time_zone, now)
    if current is None or current.status.phase not in ("Succeeded", "Failed"):
        return following, None
    stamp = current.run.spec.nonce.partition("@")[2]
    since = datetime.fromisoformat(stamp) if stamp else current.created
    latest = last_time(refresh.schedule, refresh.time_zone, now)
    return following, latest if latest > max(since, current.created) else None


def _verdict(verdict: Verdict, result: RunResult | None) -> Verdict:
    if verdict.progressing is not Progressing.DONE or result is None or result.dataset is None:
        return verdict
    summary = result.dataset
    return done("VersionBuilt", f"{summary.images} images in {len(summary.splits)} splits")


def _with_version(status: DatasetStatus, result: RunResult | None) -> DatasetStatus:
    """The status with the version that the run made; without one it keeps what was built before."""
    if result is None or result.error is not None or result.dataset is None:
        return status
    made = result.dataset
    return status.model_copy(
        update={
            "version": made.version,
            "artifact": result.artifact,
            "images": made.images,
            "annotations": made.annotations,
            "splits": made.splits,
            "classes": made.classes,
            "quality": made.quality,
            "report": result.report,
        }
    )


def _events(key: Key, run: str, verdict: Verdict, result: RunResult | None, old: DatasetStatus) -> tuple[Write, ...]:
    if old.run == run and old.phase in ("Ready", "Failed"):
        return ()
    if verdict.progressing is Progressing.STUCK:
        return (Emit(key, "Warning", "BuildFailed", f"run {run}: {verdict.message}", run),)
    if verdict.progressing is not Progressing.DONE or result is None or result.dataset is None:
        return ()
    if result.dataset.version == old.version:
        return (Emit(key, "Normal", "NothingChanged", f"run {run} found the version that was there", run),)
    return (Emit(key, "Normal", "VersionBuilt", f"run {run} built {result.dataset.version}: {verdict.message}", run),)
