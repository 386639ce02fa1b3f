"""Builds the RayJob of a sweep, and the TrainingJob that a trial is promoted to."""

from __future__ import annotations

from fovea_api import names
from fovea_api.partial import merged
from fovea_api.paths import with_at
from fovea_api.run import Execution
from fovea_api.sweep import Trial
from fovea_api.trainingjob import Compute, TrainingJobSpec
from fovea_api.tuningsweep import OPTIONS_PREFIX, Promotion, TuningSweepSpec
from pydantic import JsonValue

from fovea_operator.cleanups.build import PodSettings
from fovea_operator.objects import RAY_JOB, TRAINING_JOB, JsonObject, Key
from fovea_operator.runs.build import latency_of, pods_digest
from fovea_operator.runs.plan import ChildBuilder, ExecutionSettings
from fovea_operator.settings import Settings
from fovea_operator.workloads.rayjob import build_ray_job
from fovea_operator.workloads.work import Work


def compute_of(spec: TuningSweepSpec) -> Compute:
    """What each trial runs on."""
    return spec.compute or spec.template.spec.compute


def is_elastic(spec: TuningSweepSpec, settings: Settings) -> bool:
    """Whether workers come and go as trials need them."""
    return settings.elastic_sweeps and spec.trials.parallel > 1


def execution_settings(spec: TuningSweepSpec, settings: Settings) -> ExecutionSettings:
    """How a sweep is carried out."""
    compute, checkpoint = compute_of(spec), spec.template.spec.checkpoint
    return {
        "execution": Execution(
            workers=compute.workers,
            resources=compute.resources,
            checkpoint_every_epochs=checkpoint.every_epochs,
            checkpoints_kept=checkpoint.keep,
            parallel_trials=spec.trials.parallel,
            elastic_trials=is_elastic(spec, settings),
        ),
        "image": compute.image or settings.trainer_image,
    }


def child_builder(spec: TuningSweepSpec, settings: Settings) -> ChildBuilder:
    """What builds the RayJob of an attempt: the workers of all trials that train at the same time, or at first, where
    they come and go, those of one trial."""
    compute, parallel = compute_of(spec), spec.trials.parallel
    custom = {names.RAY_TRIAL: 1} if compute.workers > 1 else {}
    elastic = is_elastic(spec, settings)
    least = compute.workers if elastic else None

    def build(work: Work) -> JsonObject:
        workers, latency = parallel * compute.workers, latency_of(work.spec.recipe, "template.evaluation.latency")
        return build_ray_job(work, compute, workers, spec.run_policy, settings, latency, custom, least)

    kind = ["elastic"] if elastic else []
    digest = pods_digest(compute, spec.run_policy, settings.submitter_memory_limit, str(parallel), *kind)
    return ChildBuilder(RAY_JOB, build, digest)


def pod_settings(spec: TuningSweepSpec) -> PodSettings:
    """What the TuningSweep says of its pods, for those that clean up after it."""
    compute = compute_of(spec)
    return PodSettings(compute.image, compute.pod_template, spec.run_policy)


def promoted_job(sweep: Key, spec: TuningSweepSpec, promotion: Promotion, trial: Trial) -> JsonObject:
    """The TrainingJob of a trial: the template as it is written, with the values of the trial.

    Raises pydantic's ValidationError where the epochs of spec.promote do not fit them.
    """
    template = spec.template.spec
    part: dict[str, JsonValue] = {}
    if any(path.startswith(OPTIONS_PREFIX) for path in trial.parameters):
        part = with_at(part, "model.options", dict(template.model.options))
    for path, value in trial.parameters.items():
        part = with_at(part, path, value)
    if spec.promote is not None and spec.promote.epochs is not None:
        part = with_at(part, "training.epochs", spec.promote.epochs)
    given = merged(TrainingJobSpec, template.model_dump(mode="json", exclude_unset=True, exclude_none=True), part)
    TrainingJobSpec.model_validate(given)
    return {
        "apiVersion": TRAINING_JOB.api_version,
        "kind": TRAINING_JOB.name,
        "metadata": {
            "name": promotion.training_job,
            "namespace": sweep.namespace,
            "labels": {names.LABEL_PROMOTED_FROM: sweep.name},
            "annotations": {names.ANNOTATION_PROMOTED_TRIAL: f"{promotion.run}/{promotion.trial}"},
        },
        "spec": given,
    }
