"""Builds the Run of a cleanup and the Job that carries it out."""

from __future__ import annotations

from dataclasses import dataclass

from fovea_api.common import PodTemplate, Resources, RunPolicy
from fovea_api.run import CleanupRecipe, RunInputs, RunOwner, RunSpec, RunType, run_identity

from fovea_operator.objects import JsonObject, Key
from fovea_operator.settings import Settings
from fovea_operator.workloads.job import CLEANUP, build_job
from fovea_operator.workloads.work import Work

RETRIES = 20
"""Over an hour of attempts: nobody can raise them once the object is deleted."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What an object says of its pods, for those that clean up after it."""

    image: str
    template: PodTemplate
    policy: RunPolicy

    def recipe(self, keep_newest: int = 0) -> CleanupRecipe:
        """The recipe of a cleanup that runs where the object's other pods do."""
        queue, priority = self.policy.queue_name, self.policy.workload_priority_class_name
        policy = RunPolicy(retries=RETRIES, queue_name=queue, workload_priority_class_name=priority)
        return CleanupRecipe(keep_newest=keep_newest, pod_template=self.template, run_policy=policy)


def cleanup_spec(key: Key, store: str, pods: PodSettings, keep_newest: int = 0, nonce: str = "") -> RunSpec:
    """A cleanup is known by its object and the version that called for it; how it is carried out may change."""
    owner = RunOwner.model_validate({"kind": key.kind.name, "name": key.name})
    return RunSpec(
        type=RunType.CLEANUP,
        owner=owner,
        identity=run_identity(RunType.CLEANUP, owner, None, RunInputs(), nonce),
        nonce=nonce,
        recipe=pods.recipe(keep_newest).to_dict(),
        store=store,
        image=pods.image,
    )


def build_cleanup(work: Work, recipe: CleanupRecipe, settings: Settings) -> JsonObject:
    """The Job of a cleanup: it waits for the store, so it needs little."""
    memory = {"memory": settings.cleanup_memory}
    resources = Resources(requests={"cpu": settings.cleanup_cpu, **memory}, limits=memory)
    return build_job(work, CLEANUP, resources, recipe.pod_template, recipe.run_policy, settings)
