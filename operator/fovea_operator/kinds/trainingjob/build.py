"""Builds the RayJob of a training, and the Job of an engine build."""

from __future__ import annotations

from fovea_api.common import RunPolicy
from fovea_api.run import Execution
from fovea_api.trainingjob import DeferredExport, TrainingJobSpec

from fovea_operator.cleanups.build import PodSettings
from fovea_operator.objects import JOB, RAY_JOB, JsonObject
from fovea_operator.runs.build import latency_of, pods_digest
from fovea_operator.runs.plan import ChildBuilder, ExecutionSettings
from fovea_operator.settings import Settings
from fovea_operator.workloads.job import ENGINE, build_job
from fovea_operator.workloads.rayjob import build_ray_job
from fovea_operator.workloads.work import Work


def execution_settings(spec: TrainingJobSpec, settings: Settings) -> ExecutionSettings:
    """How a training is carried out."""
    compute, checkpoint = spec.compute, spec.checkpoint
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
        "image": compute.image or settings.trainer_image,
    }


def child_builder(spec: TrainingJobSpec, settings: Settings) -> ChildBuilder:
    """What builds the RayJob of an attempt."""

    def build(work: Work) -> JsonObject:
        latency = latency_of(work.spec.recipe, "evaluation.latency")
        return build_ray_job(work, spec.compute, _workers(spec, settings), spec.run_policy, settings, latency)

    digest = pods_digest(spec.compute, spec.run_policy, settings.submitter_memory_limit)
    return ChildBuilder(RAY_JOB, build, digest)


def _workers(spec: TrainingJobSpec, settings: Settings) -> int:
    """The workers to ask for.

    Elastic training is Ray Train's own: it starts with the workers that have come up, so without a queue the largest
    number is asked for, and no autoscaler is needed. A queue admits exactly `workers`.
    """
    elastic = spec.compute.elastic
    queued = bool(spec.run_policy.queue_name or settings.queue_name)
    return elastic.max_workers if elastic is not None and not queued else spec.compute.workers


def engine_builder(deferred: DeferredExport, policy: RunPolicy, settings: Settings) -> ChildBuilder:
    """What builds the Job of an engine build."""

    def build(work: Work) -> JsonObject:
        return build_job(work, ENGINE, deferred.resources, deferred.pod_template, policy, settings)

    return ChildBuilder(JOB, build, pods_digest(deferred, policy))


def pod_settings(spec: TrainingJobSpec) -> PodSettings:
    """What the TrainingJob says of its pods, for those that clean up after it."""
    return PodSettings(spec.compute.image, spec.compute.pod_template, spec.run_policy)
