"""Builds the Job of a dataset build."""

from __future__ import annotations

from fovea_api.dataset import DatasetSpec
from fovea_api.run import Execution

from fovea_operator.cleanups.build import PodSettings
from fovea_operator.objects import JOB, JsonObject
from fovea_operator.runs.build import pods_digest
from fovea_operator.runs.plan import ChildBuilder, ExecutionSettings
from fovea_operator.settings import Settings
from fovea_operator.workloads.job import BUILD, build_job
from fovea_operator.workloads.work import Work


def execution_settings(spec: DatasetSpec, settings: Settings) -> ExecutionSettings:
    """How a build is carried out."""
    compute = spec.compute
    return {
        "execution": Execution(workers=compute.workers, resources=compute.resources),
        "image": compute.image or settings.trainer_image,
    }


def child_builder(spec: DatasetSpec, settings: Settings) -> ChildBuilder:
    """What builds the Job of an attempt."""

    def build(work: Work) -> JsonObject:
        compute = spec.compute
        return build_job(work, BUILD, compute.resources, compute.pod_template, spec.run_policy, settings)

    return ChildBuilder(JOB, build, pods_digest(spec.compute, spec.run_policy))


def pod_settings(spec: DatasetSpec) -> PodSettings:
    """What the Dataset says of its pods, for those that clean up after it."""
    return PodSettings(spec.compute.image, spec.compute.pod_template, spec.run_policy)
