"""The planner of a TrainingJob: which run is wanted, on which dataset version, and what came out of it."""

from __future__ import annotations

import difflib
from dataclasses import replace

from fovea_api.impossible import impossible
from fovea_api.run import (
    BundleInput,
    DatasetInput,
    Execution,
    RunInputs,
    RunOwner,
    RunSpec,
    RunType,
    run_identity,
    run_name,
)
from fovea_api.trainingjob import Recipe, TrainingJob, TrainingJobStatus, TrainingResult, judge, unsupported

from fovea_operator.build.rayjob import build_ray_job
from fovea_operator.conditions import Progressing, Verdict, conditions, done, stuck, working
from fovea_operator.objects import TRAINING_JOB, Key
from fovea_operator.observe import RunView, TrainingSnapshot
from fovea_operator.plan import Emit, Plan, Write
from fovea_operator.plan.cleanup import CLEANING_UP, Pods, hold_while_cleaning, with_deletion
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
from fovea_operator.settings import Settings


def plan_training(snapshot: TrainingSnapshot, settings: Settings) -> Plan:
    """The next writes for a TrainingJob."""
    job, spec = snapshot.job, snapshot.job.spec
    key = Key(TRAINING_JOB, job.metadata.namespace, job.metadata.name)
    context = Context(key, job.metadata, snapshot.place, spec.run_policy, snapshot.runs, snapshot.now, settings)
    pods = Pods(spec.compute.image, spec.compute.pod_template, spec.run_policy)
    return with_deletion(_plan(context, snapshot), context, spec.deletion_policy, pods, snapshot.cleanups)


def _plan(context: Context, snapshot: TrainingSnapshot) -> Plan:
    job, key, now, settings = snapshot.job, context.key, context.now, context.settings
    spec, old = job.spec, job.status or TrainingJobStatus()
    current = current_run(snapshot.runs, old.run)

    wanted = _wanted(context, snapshot, old, current)
    blocked = wanted if isinstance(wanted, Verdict) else None
    if isinstance(wanted, Verdict):
        if current is None or is_finished(current.status):
            wait = settings.reference_poll_seconds if wanted.reason == CLEANING_UP else None
            return replace(without_run(context, old, wanted), requeue_after=wait)
        wanted = current.run.spec.model_copy(update=_means(context, job))
    hold = hold_for(snapshot.missing, snapshot.place, snapshot.leftover) or hold_while_cleaning(snapshot.cleanups)
    outcome = carry_out(
        context,
        old.run,
        wanted,
        hold,
        lambda work: build_ray_job(work, spec.compute, spec.run_policy, settings),
    )
    step, name = outcome.step, outcome.run
    view = next((it for it in snapshot.runs if it.name == name), None)
    result = _result(job, old, view)
    verdict = blocked or _verdict(step.verdict, result, name)
    pruned = prune(context, [name, *([result.run] if result is not None else [])])
    assert wanted.inputs.dataset is not None
    status = TrainingJobStatus(
        observed_generation=job.metadata.generation,
        conditions=conditions(verdict, old.conditions, job.metadata.generation, now),
        phase=step.status.phase,
        run=name,
        dataset_version=wanted.inputs.dataset.version,
        progress=view.status.progress if view is not None else None,
        result=result,
        usage=usage(snapshot.runs),
        history=history(context, name, pruned),
    )
    events = _events(key, name, verdict, old)
    return Plan(
        (*outcome.writes, *events, *outcome.status_writes, *own_status(key, job.status, status), *pruned),
        step.requeue_after,
    )


# --- Which run ---------------------------------------------------------------------------------------------------


def _wanted(
    context: Context, snapshot: TrainingSnapshot, old: TrainingJobStatus, current: RunView | None
) -> RunSpec | Verdict:
    """The current run's order, a new one, or why none can be given."""
    job, spec = snapshot.job, snapshot.job.spec
    if current is not None and not _is_new(context, snapshot, current):
        return current.run.spec.model_copy(update=_means(context, job))
    dataset = snapshot.dataset.spec if snapshot.dataset is not None else None
    if problems := impossible(spec, dataset) or unsupported(spec):
        return refusal(problems)
    if (hold := hold_for((), snapshot.place)) is not None:
        return hold
    inputs = _inputs(snapshot, old)
    if isinstance(inputs, Verdict):
        return inputs
    recipe, owner = spec.recipe(), RunOwner(kind="TrainingJob", name=job.metadata.name)
    return RunSpec(
        type=RunType.TRAINING,
        owner=owner,
        identity=run_identity(RunType.TRAINING, owner, recipe, inputs, context.restart),
        nonce=context.restart,
        recipe=recipe.to_dict(),
        success_criteria=spec.success_criteria,
        inputs=inputs,
        store=snapshot.place.store,
        **_means(context, job),
    )


def _is_new(context: Context, snapshot: TrainingSnapshot, current: RunView) -> bool:
    """Whether something was changed that asks for a run other than the current one."""
    spec, run = snapshot.job.spec, current.run.spec
    policy, used = spec.run_policy, run.inputs.dataset
    if context.restart not in ("", run.nonce):
        return True
    other_dataset = used is None or used.name != spec.dataset_ref.name
    pinned = spec.dataset_ref.version
    moved = other_dataset or (pinned is not None and used is not None and pinned != used.version)
    if policy.on_change == "NewRun" and (moved or frozen(current, Recipe) != spec.recipe()):
        return True
    if policy.on_new_dataset_version == "Ignore" or pinned is not None or snapshot.dataset is None:
        return False
    newest = snapshot.dataset.status.version if snapshot.dataset.status is not None else None
    return newest is not None and used is not None and newest != used.version


def _means(context: Context, job: TrainingJob) -> Means:
    compute, checkpoint = job.spec.compute, job.spec.checkpoint
    elastic = compute.elastic
    return {
        "execution": Execution(
            workers=compute.workers,
            min_workers=elastic.min_workers if elastic is not None else None,
            max_workers=elastic.max_workers if elastic is not None else None,
            resources=compute.resources,
            checkpoint_every_epochs=checkpoint.every_epochs,
            checkpoints_kept=checkpoint.keep,
        ),
        "image": compute.image or context.settings.trainer_image,
    }


def _inputs(snapshot: TrainingSnapshot, old: TrainingJobStatus) -> RunInputs | Verdict:
    spec = snapshot.job.spec
    dataset = _dataset(snapshot)
    if isinstance(dataset, Verdict):
        return dataset
    pretrained, distillation = spec.model.pretrained, spec.compression.distillation
    base: BundleInput | Verdict | None = None
    if pretrained.training_job_ref is not None:
        base = _bundle(snapshot, pretrained.training_job_ref.name, "spec.model.pretrained.trainingJobRef")
    elif pretrained.from_ is not None:
        own = old.result
        if own is None:
            return stuck(
                "NoCurrentModel", "spec.model.pretrained.from is Current, but there is no model yet; use weights"
            )
        base = BundleInput(digest=own.digest, artifact=own.bundle)
    teacher: BundleInput | Verdict | None = None
    if distillation is not None:
        teacher = _bundle(snapshot, distillation.teacher_ref.name, "spec.compression.distillation.teacherRef")
    if isinstance(base, Verdict):
        return base
    if isinstance(teacher, Verdict):
        return teacher
    return RunInputs(dataset=dataset, base_weights=base, teacher=teacher)


def _dataset(snapshot: TrainingSnapshot) -> DatasetInput | Verdict:
    reference = snapshot.job.spec.dataset_ref
    if snapshot.dataset is None:
        near = difflib.get_close_matches(reference.name, snapshot.datasets, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; apply it, or correct spec.datasetRef.name"
        return working("DatasetNotFound", f"there is no Dataset {reference.name!r} in this namespace{hint}")
    status = snapshot.dataset.status
    problem = snapshot.dataset.spec.problem.stated()
    if reference.version is not None:
        if snapshot.dataset_cleanup and (status is None or status.version != reference.version):
            what = f"run {snapshot.dataset_cleanup}, which deletes old versions of Dataset {reference.name!r}"
            return working(CLEANING_UP, f"waiting for {what}")
        artifact = f"{snapshot.place.store}/dataset/{reference.name}/{reference.version}/"
        return DatasetInput(name=reference.name, version=reference.version, artifact=artifact, problem=problem)
    if status is None or status.version is None or status.artifact is None:
        why = next((it.message for it in status.conditions if it.type == "Ready"), "") if status is not None else ""
        words = f": {why}" if why else ""
        return working("DatasetNotReady", f"Dataset {reference.name!r} has no version yet{words}")
    return DatasetInput(name=reference.name, version=status.version, artifact=status.artifact, problem=problem)


def _bundle(snapshot: TrainingSnapshot, name: str, path: str) -> BundleInput | Verdict:
    other = snapshot.others.get(name)
    if other is None:
        return working("TrainingJobNotFound", f"{path}: there is no TrainingJob {name!r} in this namespace; apply it")
    result = other.status.result if other.status is not None else None
    if result is None or not result.eligible:
        return working("TrainingJobNotReady", f"{path}: TrainingJob {name!r} has no eligible model yet")
    return BundleInput(digest=result.digest, artifact=result.bundle)


# --- What came out -----------------------------------------------------------------------------------------------


def _result(job: TrainingJob, old: TrainingJobStatus, view: RunView | None) -> TrainingResult | None:
    """The newest result, held against the criteria as they stand now: editing one judges again, it trains nothing."""
    criteria = job.spec.success_criteria
    made = view.status.result if view is not None else None
    if view is not None and made is not None and made.error is None and made.artifact and made.digest:
        judged = judge(criteria, made.metrics)
        return TrainingResult(
            run=view.name,
            completed_at=made.completed_at.replace(microsecond=0),
            bundle=made.artifact,
            digest=made.digest,
            report=made.report,
            metrics=made.metrics,
            success_criteria=judged,
            eligible=all(it.met for it in judged),
        )
    if old.result is None:
        return None
    judged = judge(criteria, old.result.metrics)
    update = {"success_criteria": judged, "eligible": all(it.met for it in judged)}
    return old.result.model_copy(update=update)


def _verdict(verdict: Verdict, result: TrainingResult | None, run: str) -> Verdict:
    if verdict.progressing is not Progressing.DONE:
        return verdict
    if result is None or result.run != run:
        return stuck("ResultIncomplete", f"run {run} named no bundle; the trainer image does not fit this operator")
    missed = [str(it) for it in result.success_criteria if not it.met]
    if missed:
        return stuck("CriteriaNotMet", "; ".join(missed))
    met = "; ".join(str(it) for it in result.success_criteria) or "no criteria were set"
    return done("Succeeded", f"trained by run {run}: {met}")


def _events(key: Key, run: str, verdict: Verdict, old: TrainingJobStatus) -> tuple[Write, ...]:
    before = next((it for it in old.conditions if it.type == "Ready"), None)
    told = old.run == run and before is not None and before.reason == verdict.reason
    if told or verdict.progressing in (Progressing.WORKING, Progressing.PAUSED):
        return ()
    good = verdict.progressing is Progressing.DONE
    return (Emit(key, "Normal" if good else "Warning", verdict.reason, verdict.message, run),)


__all__ = ["plan_training", "run_name"]
