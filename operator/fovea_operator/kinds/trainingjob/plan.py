"""The planner of a TrainingJob: which run is to be made, on which dataset version, and what came out of it."""

from __future__ import annotations

from dataclasses import replace

from fovea_api.choice import in_words
from fovea_api.compatibility import incompatibilities
from fovea_api.criteria import eligible, evaluate_criteria, measures_quality, missing_splits
from fovea_api.metrics import headline
from fovea_api.partial import merge
from fovea_api.run import (
    BundleInput,
    RequestedRun,
    RunOwner,
    RunSpec,
    RunType,
    choice_limits,
    frozen_recipe,
    is_same_recipe,
    run_identity,
    run_name,
)
from fovea_api.trainingjob import (
    Recipe,
    TrainingJob,
    TrainingJobSpec,
    TrainingJobStatus,
    TrainingResult,
)
from pydantic import ValidationError

from fovea_operator.cleanups.plan import blocker_of_attempts, with_deletion
from fovea_operator.conditions import Assessment, ready, stalled
from fovea_operator.kinds.trainingjob.build import child_builder, execution_settings, pod_settings
from fovea_operator.kinds.trainingjob.deferred import advance_engine
from fovea_operator.kinds.trainingjob.snapshot import TrainingSnapshot
from fovea_operator.objects import TRAINING_JOB
from fovea_operator.runs.inputs import has_moved, inputs_of
from fovea_operator.runs.plan import (
    CLEANING_UP,
    Context,
    RunWrites,
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
from fovea_operator.runs.requests import Requested, unanswered
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.writes import Plan


def plan_training(snapshot: TrainingSnapshot, settings: Settings) -> Plan:
    """The next writes for a TrainingJob."""
    job, spec = snapshot.job, snapshot.job.spec
    context = Context.of(TRAINING_JOB, job.metadata, spec.run_policy, snapshot, settings)
    plan = _plan(context, snapshot)
    return with_deletion(plan, context, spec.deletion_policy, pod_settings(spec), snapshot.cleanups)


def _plan(context: Context, snapshot: TrainingSnapshot) -> Plan:
    job, key, settings = snapshot.job, context.key, context.settings
    spec, old = job.spec, job.status or TrainingJobStatus()
    current = current_run(snapshot.runs, old.run)

    desired = _desired(context, snapshot, old, current)
    blocked = desired if isinstance(desired, Assessment) else None
    desired = run_that_goes_on(current, desired, execution_settings(spec, settings))
    if isinstance(desired, Assessment):
        wait = settings.reference_poll_seconds if desired.reason == CLEANING_UP else None
        requested_runs = _requested_runs(context, snapshot, old, None, desired)
        plan = without_run(context, old, old.run, desired, requested_runs=requested_runs)
        return replace(plan, requeue_after=wait)
    blocker = blocker_of_attempts(snapshot)
    made = advance_runs(context, old.run, desired, blocker, child_builder(spec, settings))
    step, name, view = made.step, made.run, made.view
    result = _result(job, old, view)
    assessment = blocked or _assess(job, step.assessment, result, desired)
    deferred = advance_engine(context, spec, old, result, blocker)
    pruned = (*prune(context, [name, *([result.run] if result is not None else [])]), *deferred.deleted)
    fields = owner_fields(context, old, made, _asked(spec, desired), assessment, pruned)
    fields["conditions"] = (*fields["conditions"], *deferred.condition)
    assert desired.inputs.dataset is not None
    status = TrainingJobStatus(
        phase=step.status.phase,
        dataset_version=desired.inputs.dataset.version,
        result=result,
        engine=deferred.engine,
        requested_runs=_requested_runs(context, snapshot, old, made, blocked),
        **fields,
    )
    events = end_events(context, name, assessment, old)
    return Plan(
        (
            *(*made.writes, *events, *made.status_writes, *deferred.writes),
            *own_status(key, job.status, status, context.all_runs),
            *pruned,
        ),
        min((each for each in (step.requeue_after, deferred.requeue_after) if each is not None), default=None),
    )


# --- Which run ---------------------------------------------------------------------------------------------------


def _desired(
    context: Context, snapshot: TrainingSnapshot, old: TrainingJobStatus, current: RunView | None
) -> RunSpec | Assessment:
    """The current run's spec, a new one, or why none can be given."""
    spec = snapshot.job.spec
    asked = _asked(spec, current.run.spec) if current is not None else spec.recipe()
    recipe = desired_recipe(context, current, old.run, old.run_generation, asked)
    if current is None or _is_new(context, snapshot, current, recipe):
        requested = current is not None and current.run.spec.request is not None
        return _run_spec(context, snapshot, spec.recipe() if requested else recipe)
    if current.has_ended and not spec.run_policy.suspend:
        for requested_run in unanswered(snapshot.requests, snapshot.runs, old.requested_runs):
            view = requested_run.run(snapshot.runs)
            made = view.run.spec if view is not None else _requested_spec(context, snapshot, requested_run)
            if isinstance(made, RunSpec):
                return made.model_copy(update=execution_settings(spec, context.settings))
    return current.run.spec.model_copy(update=execution_settings(spec, context.settings))


def _run_spec(
    context: Context, snapshot: TrainingSnapshot, recipe: Recipe, requested: Requested | None = None
) -> RunSpec | Assessment:
    """A run of this recipe, or why there can be none now. `requested`: the request that it answers."""
    job, spec, old = snapshot.job, snapshot.job.spec, snapshot.job.status or TrainingJobStatus()
    as_asked = spec.model_copy(update=dict(recipe)) if requested is not None else spec
    dataset = snapshot.dataset.spec if snapshot.dataset is not None else None
    if problems := incompatibilities(as_asked, dataset):
        return refusal(problems)
    if (blocker := blocker_of((), snapshot.store)) is not None:
        return blocker
    champion = requested.request.champion if requested is not None else None
    own = BundleInput(digest=old.result.digest, artifact=old.result.bundle) if old.result is not None else None
    inputs = inputs_of(snapshot, as_asked, champion or own)
    if isinstance(inputs, Assessment):
        return inputs
    inputs = inputs.model_copy(update={"champion": champion})
    owner = RunOwner(kind="TrainingJob", name=job.metadata.name)
    nonce = context.restart + (f"@{requested.nonce}" if requested is not None else "")
    return RunSpec(
        type=RunType.TRAINING,
        owner=owner,
        identity=run_identity(RunType.TRAINING, owner, recipe, inputs, nonce, spec.success_criteria),
        nonce=nonce,
        request=requested.origin if requested is not None else None,
        recipe=frozen_recipe(recipe),
        success_criteria=spec.success_criteria,
        inputs=inputs,
        store=snapshot.store.uri,
        **execution_settings(spec, context.settings),
    )


def _asked(spec: TrainingJobSpec, run: RunSpec) -> Recipe:
    """The recipe that spec and request together ask for, as far as they fit; so an edit beside it changes nothing."""
    try:
        return merge(spec.recipe(), run.request.recipe) if run.request is not None else spec.recipe()
    except (ValidationError, KeyError):
        return spec.recipe()


def _requested_spec(context: Context, snapshot: TrainingSnapshot, requested: Requested) -> RunSpec | Assessment:
    """The run that answers a request, or why there can be none."""
    try:
        recipe = merge(snapshot.job.spec.recipe(), requested.request.recipe)
    except (ValidationError, KeyError) as error:
        return stalled("InvalidRequest", f"its recipe does not fit that of this TrainingJob: {error}")
    return _run_spec(context, snapshot, recipe, requested)


def _requested_runs(
    context: Context,
    snapshot: TrainingSnapshot,
    old: TrainingJobStatus,
    current: RunWrites | None,
    blocked: Assessment | None,
) -> tuple[RequestedRun, ...]:
    """What became of each request that others make. `blocked`: why the job itself can have no new run now."""
    return tuple(_requested_run(context, snapshot, requested, old, current, blocked) for requested in snapshot.requests)


def _requested_run(
    context: Context,
    snapshot: TrainingSnapshot,
    requested: Requested,
    old: TrainingJobStatus,
    current: RunWrites | None,
    blocked: Assessment | None,
) -> RequestedRun:
    if current is not None and requested.is_of(current.spec.request):
        return requested.answered(current.run, current.step.status.phase)
    if (view := requested.run(snapshot.runs)) is not None:
        return requested.answered(view.name, view.status.phase)
    entry = requested.entry(old.requested_runs)
    if entry is not None and entry.run is not None:  # its Run was deleted with the history
        return entry
    made = blocked or _requested_spec(context, snapshot, requested)
    if isinstance(made, Assessment):
        return requested.unanswered("Refused" if made.stalled is not None else "Waiting", made.message)
    assert current is not None
    return requested.unanswered("Waiting", f"waits until run {current.run} has ended")


def _is_new(context: Context, snapshot: TrainingSnapshot, current: RunView, recipe: Recipe) -> bool:
    """Whether something was changed that asks for a run other than the current one."""
    spec, run = snapshot.job.spec, current.run.spec
    policy, used = spec.run_policy, run.inputs.dataset
    if context.restart not in ("", run.nonce.partition("@")[0]):
        return True
    limits, before = (choice_limits(recipe, each.success_criteria) for each in (spec, run))
    changed = not is_same_recipe(RunType.TRAINING, run.recipe, recipe) or limits != before
    if policy.on_change == "NewRun" and (has_moved(spec.dataset_ref, run) or changed):
        return True
    if policy.on_new_dataset_version == "Ignore" or spec.dataset_ref.version is not None or snapshot.dataset is None:
        return False
    if not current.has_ended:  # else a dataset that changes faster than a training takes would have no model, ever
        return False
    newest = snapshot.dataset.status.version if snapshot.dataset.status is not None else None
    return newest is not None and used is not None and newest != used.version


# --- What came out -----------------------------------------------------------------------------------------------


def _result(job: TrainingJob, old: TrainingJobStatus, view: RunView | None) -> TrainingResult | None:
    """The newest result, checked against the criteria as they are now: editing one trains nothing."""
    criteria = job.spec.success_criteria
    made = view.status.result if view is not None else None
    if view is not None and made is not None and made.error is None and made.artifact and made.digest:
        evaluated = evaluate_criteria(criteria, made.metrics)
        return TrainingResult(
            run=view.name,
            completed_at=made.completed_at.replace(microsecond=0),
            bundle=made.artifact,
            digest=made.digest,
            report=made.report,
            metrics=made.metrics,
            headline=headline(made.metrics),
            success_criteria=evaluated,
            compression=made.training.compression if made.training is not None else (),
            architecture=made.training.architecture if made.training is not None else None,
            candidates=made.training.candidates if made.training is not None else (),
            latency_measured_on=made.training.latency_measured_on if made.training is not None else None,
            eligible=eligible(evaluated, made.metrics),
        )
    if old.result is None:
        return None
    evaluated = evaluate_criteria(criteria, old.result.metrics)
    metrics = old.result.metrics
    update = {
        "success_criteria": evaluated,
        "eligible": eligible(evaluated, metrics),
        "headline": headline(metrics),
    }
    return old.result.model_copy(update=update)


def _assess(job: TrainingJob, assessment: Assessment, result: TrainingResult | None, desired: RunSpec) -> Assessment:
    """Where the job stands. A run that others asked for takes nothing from a model that keeps what the spec asks."""
    run = run_name(desired.identity)
    if not assessment.ready and desired.request is not None and result is not None and result.eligible:
        return ready("Succeeded", _words(job, result), meanwhile=assessment)
    if not assessment.ready:
        return assessment
    if result is None or result.run != run:
        return stalled("ResultIncomplete", f"run {run} named no bundle; the trainer image does not fit this operator")
    if not measures_quality(result.metrics):
        remedy = "give validation and test a share in the Dataset's splits.ratios, and evaluate them"
        return stalled("NotEvaluated", f"the quality of the model of run {run} was not measured ({remedy})")
    missed = [str(criterion) for criterion in result.success_criteria if not criterion.met]
    if missed:
        return stalled("CriteriaNotMet", "; ".join(missed))
    return ready("Succeeded", _words(job, result))


def _words(job: TrainingJob, result: TrainingResult) -> str:
    met = "; ".join(map(str, result.success_criteria)) or "no criteria were set"
    warnings = missing_splits(job.spec.evaluation.splits, result.metrics)
    chosen = in_words(result.candidates)
    return f"trained by run {result.run}: {'; '.join((met, *warnings, *([chosen] if chosen else [])))}"
