"""The planner of a Dataset: builds a version, builds again when the spec or the schedule says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from fovea_api.dataset import Dataset, DatasetStatus, unsupported
from fovea_api.run import (
    RunInputs,
    RunOwner,
    RunResult,
    RunSpec,
    RunType,
    VersionInput,
    frozen_recipe,
    is_same_recipe,
    run_identity,
)
from fovea_api.version import DatasetSummary, Severity

from fovea_operator.cleanups.build import PodSettings
from fovea_operator.cleanups.plan import blocker_of_attempts, with_deletion
from fovea_operator.conditions import Assessment, ready, stalled
from fovea_operator.kinds.dataset.build import child_builder, execution_settings, pod_settings
from fovea_operator.kinds.dataset.retention import lost_builds, prune_versions
from fovea_operator.kinds.dataset.snapshot import DatasetSnapshot
from fovea_operator.objects import DATASET, RUN, Key
from fovea_operator.runs.lifecycle import is_finished
from fovea_operator.runs.plan import (
    Context,
    advance_runs,
    blocker_of,
    current_run,
    desired_recipe,
    own_status,
    owner_fields,
    prune,
    refusal,
    run_that_goes_on,
    without_run,
)
from fovea_operator.runs.snapshot import RunView
from fovea_operator.runs.usage import usage_of
from fovea_operator.schedule import InvalidSchedule, last_time, next_time
from fovea_operator.settings import Settings
from fovea_operator.writes import Delete, Emit, Plan, Write

SHOWN_FINDINGS, FINDING_LIMIT = 3, 200
"""Serious findings in a condition's message, and characters of each: the message is one line."""
_PHASES: dict[str | None, Any] = {"Running": "Building", "Succeeded": "Ready"}


def plan_dataset(snapshot: DatasetSnapshot, settings: Settings) -> Plan:
    """The next writes for a Dataset."""
    dataset = snapshot.dataset
    spec = dataset.spec
    lost = lost_builds(snapshot)
    runs = tuple(view for view in snapshot.runs if view not in lost)
    context = Context.of(DATASET, dataset.metadata, spec.run_policy, replace(snapshot, runs=runs), settings)
    pods = pod_settings(spec)
    plan = _plan(context, snapshot, pods)
    forgotten = (Delete(Key(RUN, context.key.namespace, view.name), view.run.metadata.uid) for view in lost)
    plan = Plan((*forgotten, *plan.writes), plan.requeue_after)
    return with_deletion(plan, context, spec.deletion_policy, pods, snapshot.cleanups)


def _plan(context: Context, snapshot: DatasetSnapshot, pods: PodSettings) -> Plan:
    dataset, key, now, settings = snapshot.dataset, context.key, context.now, context.settings
    spec, old = dataset.spec, dataset.status or DatasetStatus()
    current = current_run(context.runs, old.run)
    lost = [view for view in snapshot.runs if view not in context.runs]

    refresh: datetime | None = None
    desired: RunSpec | Assessment
    try:
        refresh, due = _schedule(dataset, current, now)
        desired = _desired(context, snapshot, old, current, due)
    except InvalidSchedule as error:
        desired = stalled(error.reason, str(error))
    blocked = desired if isinstance(desired, Assessment) else None
    desired = run_that_goes_on(current, desired, execution_settings(spec, settings))
    if isinstance(desired, Assessment):
        at_work = any(view.at_work for view in context.runs)
        cleanup, later = prune_versions(context, snapshot, pods, current, at_work)
        used = usage_of(snapshot.runs, {view.name for view in lost}, old, now)
        plan = without_run(context, old, old.run, desired, usage=used)
        return Plan((*plan.writes, *cleanup), later)
    made = advance_runs(context, old.run, desired, blocker_of_attempts(snapshot), child_builder(spec, settings))
    step, name, view = made.step, made.run, made.view
    result = view.status.result if view is not None else None
    assessment = _assess(step.assessment, result)
    pruned = prune(context, [name])
    status = _with_version(
        old.model_copy(
            update={
                "phase": _PHASES.get(step.status.phase, step.status.phase),
                "next_refresh": refresh.strftime("%Y-%m-%dT%H:%M:%SZ") if refresh is not None else None,
                **owner_fields(context, old, made, spec.recipe(), blocked or assessment, pruned, lost),
            }
        ),
        result,
    )
    events = _events(key, name, assessment, result, old)
    building = not is_finished(step.status) or any(view.at_work for view in context.runs)
    cleanup, later = prune_versions(context, snapshot, pods, view, building)
    wait = [step.requeue_after, later, (refresh - now).total_seconds() + 1 if refresh is not None else None]
    return Plan(
        (
            *made.writes,
            *events,
            *made.status_writes,
            *own_status(key, dataset.status, status, context.runs),
            *pruned,
            *cleanup,
        ),
        min((seconds for seconds in wait if seconds is not None), default=None),
    )


def _desired(
    context: Context, snapshot: DatasetSnapshot, old: DatasetStatus, current: RunView | None, due: datetime | None
) -> RunSpec | Assessment:
    """The current run's spec; a new one if the spec, the restart annotation or the schedule say so; or why none.

    A model that is served anew starts none: the next build labels beforehand by it.
    """
    dataset, spec = snapshot.dataset, snapshot.dataset.spec
    recipe = desired_recipe(context, current, old.run, old.run_generation, spec.recipe())
    if current is not None:
        restarted = context.restart not in ("", current.run.spec.nonce.partition("@")[0])
        same = is_same_recipe(RunType.DATASET_BUILD, current.run.spec.recipe, recipe)
        if same and not restarted and due is None:
            return current.run.spec.model_copy(update=execution_settings(spec, context.settings))
    if problems := unsupported(recipe):
        return refusal(problems)
    if (blocker := blocker_of((), context.store)) is not None:
        return blocker
    parent = None
    if spec.splits.keep_assignments and old.version is not None and old.artifact is not None:
        parent = VersionInput(version=old.version, artifact=old.artifact)
    nonce = context.restart + (f"@{due:%Y-%m-%dT%H:%M:%SZ}" if due is not None else "")
    owner = RunOwner(kind="Dataset", name=dataset.metadata.name)
    inputs = RunInputs(parent=parent, prelabel=snapshot.prelabel)
    return RunSpec(
        type=RunType.DATASET_BUILD,
        owner=owner,
        identity=run_identity(RunType.DATASET_BUILD, owner, recipe, inputs, nonce),
        nonce=nonce,
        recipe=frozen_recipe(recipe),
        inputs=inputs,
        store=context.store.uri,
        **execution_settings(spec, context.settings),
    )


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
    if since > now:  # by a clock that was ahead; else nothing would be due until then
        since = current.created
    latest = last_time(refresh.schedule, refresh.time_zone, now)
    return following, latest if latest > max(since, current.created) else None


def _assess(assessment: Assessment, result: RunResult | None) -> Assessment:
    if not assessment.ready or result is None or result.dataset is None:
        return assessment
    return ready("VersionBuilt", _words(result.dataset))


def _words(summary: DatasetSummary) -> str:
    """The version in one line, with what makes a model learn something wrong from it, or nothing."""
    words = f"{summary.images} images in {len(summary.splits)} splits"
    serious = [finding for finding in summary.findings if finding.severity is Severity.SERIOUS]
    if not serious:
        return words
    shown = "; ".join(f"{each.kind}: {_cut(each.message)}" for each in serious[:SHOWN_FINDINGS])
    more = f"; and {len(serious) - SHOWN_FINDINGS} more" if len(serious) > SHOWN_FINDINGS else ""
    return f"{words}; serious findings, see the report: {shown}{more}"


def _cut(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= FINDING_LIMIT else f"{line[: FINDING_LIMIT - 1]}…"


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
            "findings": made.findings,
            "report": result.report,
        }
    )


def _events(
    key: Key, run: str, assessment: Assessment, result: RunResult | None, old: DatasetStatus
) -> tuple[Write, ...]:
    if old.run == run and old.phase in ("Ready", "Failed"):
        return ()
    if assessment.stalled is not None:
        return (Emit(key, "Warning", "BuildFailed", f"run {run}: {assessment.message}", run),)
    if not assessment.ready or result is None or result.dataset is None:
        return ()
    if result.dataset.version == old.version:
        return (Emit(key, "Normal", "NothingChanged", f"run {run} found the version that was there", run),)
    serious = any(finding.severity is Severity.SERIOUS for finding in result.dataset.findings)
    message = f"run {run} built {result.dataset.version}: {assessment.message}"
    return (Emit(key, "Warning" if serious else "Normal", "VersionBuilt", message, run),)
