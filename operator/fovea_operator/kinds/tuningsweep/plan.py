"""The planner of a TuningSweep: which run is to be made, what it has found so far, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fovea_api.run import (
    RunOwner,
    RunSpec,
    RunType,
    TrialsInput,
    frozen_recipe,
    is_same_recipe,
    run_identity,
)
from fovea_api.search_space import impossibilities
from fovea_api.sweep import SweepSummary
from fovea_api.tuningsweep import (
    Promotion,
    SweepRecipe,
    TuningSweepSpec,
    TuningSweepStatus,
)
from pydantic import ValidationError

from fovea_operator.cleanups.plan import blocker_of_attempts, with_deletion
from fovea_operator.conditions import Assessment, progressing, ready, stalled
from fovea_operator.kinds.tuningsweep.build import child_builder, execution_settings, pod_settings, promoted_job
from fovea_operator.kinds.tuningsweep.outcome import assess, better_trial, found_by, summary_of
from fovea_operator.kinds.tuningsweep.snapshot import SweepSnapshot
from fovea_operator.objects import TRAINING_JOB, TUNING_SWEEP, Key
from fovea_operator.runs.inputs import has_moved, inputs_of, unreadable
from fovea_operator.runs.plan import (
    CLEANING_UP,
    Context,
    advance_runs,
    blocker_of,
    current_run,
    desired_recipe,
    end_events,
    own_status,
    owner_fields,
    prune,
    refusal,
    run_that_goes_on,
    without_run,
)
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.writes import Emit, Plan, Promote, Write


def plan_sweep(snapshot: SweepSnapshot, settings: Settings) -> Plan:
    """The next writes for a TuningSweep."""
    sweep, spec = snapshot.sweep, snapshot.sweep.spec
    context = Context.of(TUNING_SWEEP, sweep.metadata, spec.run_policy, snapshot, settings)
    plan = _plan(context, snapshot)
    return with_deletion(plan, context, spec.deletion_policy, pod_settings(spec), snapshot.cleanups)


def _plan(context: Context, snapshot: SweepSnapshot) -> Plan:
    sweep, key, settings = snapshot.sweep, context.key, context.settings
    spec, old = sweep.spec, sweep.status or TuningSweepStatus()
    current = current_run(snapshot.runs, old.run)

    desired = _desired(context, snapshot, old, current)
    blocked = desired if isinstance(desired, Assessment) else None
    desired = run_that_goes_on(current, desired, execution_settings(spec, settings))
    if isinstance(desired, Assessment):
        wait = settings.reference_poll_seconds if desired.reason == CLEANING_UP else None
        return replace(without_run(context, old, old.run, desired), requeue_after=wait)
    made = advance_runs(context, old.run, desired, blocker_of_attempts(snapshot), child_builder(spec, settings))
    summary = summary_of(made.view)
    assessment = blocked or assess(spec, made, summary)
    outcome = _promote(context, snapshot, old, made.run, summary) if assessment.ready else _Promoted(old.promoted)
    if outcome.refused is not None:
        assessment = ready(assessment.reason, assessment.message, meanwhile=outcome.refused)
    pruned = prune(context, [made.run])
    status = old.model_copy(
        update={
            "phase": made.step.status.phase,
            **found_by(spec, old, made.view),
            "promoted": outcome.promotion,
            **owner_fields(context, old, made, spec.recipe(), assessment, pruned),
        }
    )
    events = (
        *better_trial(key, made.run, spec.objectives, old.best, status.best),
        *end_events(context, made.run, assessment, old),
    )
    waits = [made.step.requeue_after, settings.reference_poll_seconds if outcome.refused is not None else None]
    return Plan(
        (
            *made.writes,
            *events,
            *made.status_writes,
            *outcome.writes,
            *own_status(key, sweep.status, status, snapshot.runs),
            *pruned,
        ),
        min((seconds for seconds in waits if seconds is not None), default=None),
    )


# --- Which run -----------------------------------------------------------------------------------------------------


def _desired(
    context: Context, snapshot: SweepSnapshot, old: TuningSweepStatus, current: RunView | None
) -> RunSpec | Assessment:
    """The current run's spec, a new one, or why none can be given."""
    spec = snapshot.sweep.spec
    recipe = desired_recipe(context, current, old.run, old.run_generation, spec.recipe())
    if current is None or _is_new(context, spec, current, recipe):
        return _run_spec(context, snapshot, recipe)
    return current.run.spec.model_copy(update=execution_settings(spec, context.settings))


def _is_new(context: Context, spec: TuningSweepSpec, current: RunView, recipe: SweepRecipe) -> bool:
    """Whether something was changed that asks for a run other than the current one."""
    run = current.run.spec
    restarted = context.restart not in ("", run.nonce.partition("@")[0])
    moved = has_moved(spec.template.spec.dataset_ref, run)
    return restarted or moved or not is_same_recipe(RunType.TUNING_SWEEP, run.recipe, recipe)


def _run_spec(context: Context, snapshot: SweepSnapshot, recipe: SweepRecipe) -> RunSpec | Assessment:
    """A run of this recipe, or why there can be none now."""
    spec, name = snapshot.sweep.spec, snapshot.sweep.metadata.name
    if problems := impossibilities(spec, snapshot.dataset.spec if snapshot.dataset is not None else None):
        return refusal(problems)
    if (blocker := blocker_of((), snapshot.store)) is not None:
        return blocker
    inputs = inputs_of(snapshot, spec.template.spec, None, "spec.template.spec")
    earlier = _earlier_trials(snapshot)
    if isinstance(inputs, Assessment):
        return inputs
    if isinstance(earlier, Assessment):
        return earlier
    inputs = inputs.model_copy(update={"earlier_trials": earlier})
    owner = RunOwner(kind=TUNING_SWEEP.name, name=name)
    return RunSpec(
        type=RunType.TUNING_SWEEP,
        owner=owner,
        identity=run_identity(RunType.TUNING_SWEEP, owner, recipe, inputs, context.restart),
        nonce=context.restart,
        recipe=frozen_recipe(recipe),
        inputs=inputs,
        store=snapshot.store.uri,
        **execution_settings(spec, context.settings),
    )


def _earlier_trials(snapshot: SweepSnapshot) -> TrialsInput | Assessment | None:
    """The trials that the sweep starts from, or what it waits for."""
    warm = snapshot.sweep.spec.search.warm_start
    if warm is None or warm.tuning_sweep_ref is None:
        return None
    name, path = warm.tuning_sweep_ref.name, "spec.search.warmStart.tuningSweepRef"
    if name == snapshot.sweep.metadata.name:
        return stalled("InvalidReference", f"{path}: a sweep cannot start from itself; name another one")
    if snapshot.earlier is None:
        if (waits := unreadable(snapshot, TUNING_SWEEP, name)) is not None:
            return waits
        what = f"{path}: there is no TuningSweep {name!r} in this namespace; apply it"
        return progressing("TuningSweepNotFound", what)
    status = snapshot.earlier.status
    if status is None or status.artifact is None or status.digest is None:
        return progressing("TuningSweepNotReady", f"{path}: no run of TuningSweep {name!r} has ended yet")
    return TrialsInput(digest=status.digest, artifact=status.artifact)


# --- Promotion -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Promoted:
    """What became of the promotion."""

    promotion: Promotion | None
    writes: tuple[Write, ...] = ()
    refused: Assessment | None = None
    """Why the trial cannot be promoted."""


def _promote(
    context: Context, snapshot: SweepSnapshot, old: TuningSweepStatus, run: str, summary: SweepSummary | None
) -> _Promoted:
    """Promotes the chosen trial of a run, once: a job that was changed or deleted since is left as it is."""
    spec, promote = snapshot.sweep.spec, snapshot.sweep.spec.promote
    trial = summary.best if summary is not None else None
    if promote is not None and promote.trial == "Knee" and summary is not None:
        trial = summary.knee or trial
    if promote is None or trial is None:
        return _Promoted(old.promoted)
    promotion = Promotion(training_job=promote.name, run=run, trial=trial.trial)
    if old.promoted is not None and (old.promoted.run, old.promoted.training_job) == (run, promote.name):
        return _Promoted(old.promoted)
    key = Key(TRAINING_JOB, context.key.namespace, promote.name)
    if snapshot.promoted_from not in (None, context.key.name):
        return _Promoted(old.promoted, refused=_not_ours(promote.name, context.key.name))
    try:
        manifest = promoted_job(context.key, spec, promotion, trial)
    except ValidationError as error:
        problem = error.errors()[0]
        what = f"spec.promote: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        return _Promoted(old.promoted, refused=stalled("PromotionRefused", what))
    what = f"trial {trial.trial} of run {run} was promoted to TrainingJob {promote.name}"
    return _Promoted(
        promotion, (Promote(key, manifest), Emit(context.key, "Normal", "Promoted", what, f"{run}/{promote.name}"))
    )


def _not_ours(job: str, sweep: str) -> Assessment:
    return stalled(
        "PromotionRefused",
        f"TrainingJob {job} exists and was not promoted from this sweep; give spec.promote another name, or let the "
        f"sweep update it: kubectl label trainingjob {job} fovea.dev/promoted-from={sweep} --overwrite",
    )
