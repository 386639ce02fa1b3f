"""The TensorRT engine of a TrainingJob's newest result: a Run of its own, which changes nothing about the training.

What comes of it is in the condition EngineReady and in `status.engine`; Ready and phase are the training's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fovea_api.common import Condition
from fovea_api.run import (
    BundleInput,
    Execution,
    RunInputs,
    RunOwner,
    RunSpec,
    RunStatus,
    RunType,
    digest_of,
    run_identity,
    run_name,
)
from fovea_api.trainingjob import BuiltEngine, TrainingJobSpec, TrainingJobStatus, TrainingResult

from fovea_operator.conditions import Assessment, Finding, condition_at, condition_of
from fovea_operator.kinds.trainingjob.build import engine_builder
from fovea_operator.objects import RUN, Key
from fovea_operator.runs.build import child_writes, run_manifest
from fovea_operator.runs.lifecycle import Situation, Step, advance
from fovea_operator.runs.plan import Context, blocker_of_pods, step_writes
from fovea_operator.runs.snapshot import RunView
from fovea_operator.workloads.work import Work
from fovea_operator.writes import Create, Delete, Emit, Write

CONDITION = "EngineReady"
BUILT = "EngineBuilt"


@dataclass(frozen=True, slots=True)
class Deferred:
    """What is to be written for the engine, and what the status says of it."""

    writes: tuple[Write, ...] = ()
    condition: tuple[Condition, ...] = ()
    """The one condition; none where no engine is asked for."""
    engine: BuiltEngine | None = None
    deleted: tuple[Delete, ...] = ()
    """The Runs of engines that are wanted no more."""
    requeue_after: float | None = None


def advance_engine(
    context: Context,
    spec: TrainingJobSpec,
    old: TrainingJobStatus,
    result: TrainingResult | None,
    blocker: Assessment | None,
) -> Deferred:
    """The next step of the engine of the newest result, if one is asked for.

    Args:
        context: That of the TrainingJob.
        spec: Its spec.
        old: Its status so far.
        result: Its newest result.
        blocker: Why no attempt may start, as far as namespace and cleanups are concerned.
    """
    if "TensorRT" not in spec.export.deferred:
        return Deferred(deleted=_deleted(context, None))
    desired = _desired(context, spec, result)
    if isinstance(desired, Finding):
        return Deferred((), (_condition(context, old, "False", desired),), None, _deleted(context, None))
    name = run_name(desired.identity)
    view = next((view for view in context.deferred if view.name == name), None)
    builder = engine_builder(spec.deferred_export, context.policy, context.settings)
    step = advance(
        Situation(
            run=name,
            status=view.status if view is not None else RunStatus(),
            children=view.children if view is not None else (),
            policy=context.policy,
            blocker=blocker or (blocker_of_pods(view) if view is not None else None),
            now=context.now,
            settings=context.settings,
            remedy="to try again give the annotation fovea.dev/retry a new value",
            pods_digest=builder.pods_digest,
            retry=context.retry,
            owner=context.owner,
            adopt=context.store.adopt[:256],
        )
    )
    run, made = context.run_key(name), view.run.spec if view is not None else desired
    writes: list[Write] = [Delete(child.key, child.uid) for child in step.delete]
    if view is None:
        writes.append(Create(run, run_manifest(run, desired), context.key))
    if step.start is not None:
        work = Work(run.namespace, name, step.start, made, made.image, context.store)
        writes += child_writes(run, builder.kind, work, builder.manifest(work), context.settings)
    writes += step_writes(context.key, run, RunType.ENGINE_BUILD, view, step, context.now)
    engine = _built(view, desired)
    finding = _finding(step, engine)
    return Deferred(
        (*writes, *_end(context, old, name, step, finding)),
        (_condition(context, old, "True" if engine is not None else "False", finding),),
        engine,
        _deleted(context, name),
        step.requeue_after,
    )


def _desired(context: Context, spec: TrainingJobSpec, result: TrainingResult | None) -> RunSpec | Finding:
    """The build, or why there is none to be made."""
    deferred = spec.deferred_export
    image = deferred.image or context.settings.tensorrt_image
    if result is None:
        return Finding("NoModel", "an engine is built when a model has been trained")
    if not result.eligible:
        return Finding(
            "NotEligible", f"an engine is built of a model that may be served; that of run {result.run} may not"
        )
    if not image:
        return Finding(
            "NoTensorRTImage",
            "there is no image with TensorRT; name one in spec.deferredExport.image or, for all, in the chart's "
            "defaults.tensorrtImage (docs/operations.md says how to build it)",
        )
    owner = RunOwner(kind=context.key.kind.name, name=context.key.name)
    inputs = RunInputs(bundle=BundleInput(digest=result.digest, artifact=result.bundle))
    recipe = deferred.model_copy(update={"image": image}).to_dict()
    nonce = digest_of(recipe)  # another type of node, or another TensorRT, is another engine
    return RunSpec(
        type=RunType.ENGINE_BUILD,
        owner=owner,
        identity=run_identity(RunType.ENGINE_BUILD, owner, None, inputs, nonce),
        nonce=nonce,
        recipe=recipe,
        inputs=inputs,
        execution=Execution(resources=deferred.resources),
        store=next((view.run.spec.store for view in context.runs if view.name == result.run), context.store.uri),
        image=image,
    )


def _built(view: RunView | None, spec: RunSpec) -> BuiltEngine | None:
    """The engine that a run has reported."""
    made = view.status.result if view is not None else None
    if view is None or made is None or made.error is not None or made.engine is None or made.artifact is None:
        return None
    assert spec.inputs.bundle is not None
    return BuiltEngine(**dict(made.engine), run=view.name, bundle=spec.inputs.bundle.digest, engine=made.artifact)


def _finding(step: Step, engine: BuiltEngine | None) -> Finding:
    if engine is not None:
        words = f"for TensorRT {engine.tensorrt} and compute capability {engine.compute_capability} ({engine.gpu})"
        return Finding(BUILT, f"built by run {engine.run} {words}")
    if step.status.phase == "Succeeded":
        return Finding("ResultIncomplete", "the build named no engine; the image does not fit this operator")
    return Finding(step.assessment.reason, step.assessment.message)


def _end(context: Context, old: TrainingJobStatus, run: str, step: Step, finding: Finding) -> Sequence[Emit]:
    """The event that says how a build came out, once."""
    known = condition_of(old, CONDITION)
    if step.status.phase not in ("Succeeded", "Failed") or (known is not None and known.reason == finding.reason):
        return ()
    type: Literal["Normal", "Warning"] = "Normal" if finding.reason == BUILT else "Warning"
    reason = finding.reason if finding.reason == BUILT else "EngineNotBuilt"
    return (Emit(context.key, type, reason, f"run {run}: {finding.message}", run),)


def _condition(context: Context, old: TrainingJobStatus, status: str, finding: Finding) -> Condition:
    known = condition_of(old, CONDITION)
    return condition_at(known, CONDITION, status, finding, context.metadata.generation, context.now)


def _deleted(context: Context, kept: str | None) -> tuple[Delete, ...]:
    """The Runs of other engines; their Jobs go with them."""
    return tuple(
        Delete(Key(RUN, context.key.namespace, view.name), view.run.metadata.uid)
        for view in context.deferred
        if view.name != kept
    )
