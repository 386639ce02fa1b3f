"""The batch/v1 Job of a dataset build or a cleanup."""

from __future__ import annotations

from fovea_api.common import PodTemplate, Resources, RunPolicy, parse_duration
from fovea_api.run import RunType

from fovea_operator.build.pod import ENTRYPOINT, Work, main_container, pod_template
from fovea_operator.build.rayjob import queue_labels
from fovea_operator.children import BUILD, CLEANUP
from fovea_operator.objects import JOB, JsonObject
from fovea_operator.settings import Settings


def build_job(
    work: Work, resources: Resources, extra: PodTemplate, policy: RunPolicy, settings: Settings
) -> JsonObject:
    """One pod that works once: Fovea itself repeats attempts. A queue's `suspend` is never written."""
    name = CLEANUP if work.spec.type is RunType.CLEANUP else BUILD
    template = pod_template(work, name, resources, extra, settings)
    spec = template["spec"]
    assert isinstance(spec, dict)
    container = main_container(template)
    container["command"] = [*ENTRYPOINT.split()]
    spec["restartPolicy"] = "Never"
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.name,
        "metadata": {
            "name": work.name,
            "namespace": work.namespace,
            "labels": {**work.labels, **queue_labels(policy, settings)},
        },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": int(parse_duration(policy.ttl_after_finished).total_seconds()),
            "template": template,
        },
    }
