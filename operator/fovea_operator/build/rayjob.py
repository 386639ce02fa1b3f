"""The KubeRay RayJob of a training.

Submission is K8sJobMode: a small pod submits the work and follows it. When the Ray head dies it fails, and with it
the RayJob, so a new attempt starts; HTTPMode would silently submit again on a fresh head, and SidecarMode adds a
container without a security context, which the restricted Pod Security Standard refuses (KubeRay 1.6.0).
"""

from __future__ import annotations

from fovea_api import names
from fovea_api.common import PodTemplate, Resources, RunPolicy, parse_duration
from fovea_api.trainingjob import Compute
from pydantic import JsonValue

from fovea_operator.build.pod import ENTRYPOINT, TERMINATION_MESSAGE_POLICY, Work, pod_template, security_context
from fovea_operator.children import HEAD, SUBMITTER, WORKER
from fovea_operator.objects import RAY_JOB, JsonObject
from fovea_operator.settings import Settings


def build_ray_job(work: Work, compute: Compute, policy: RunPolicy, settings: Settings) -> JsonObject:
    """A Ray cluster of a head, which works on nothing itself, and the workers; gone `ttlAfterFinished` after the end.

    Elastic training is Ray Train's own: it starts with the workers that have come up, so without a queue the largest
    number is asked for, and no autoscaler is needed. A queue admits exactly `workers`.
    """
    elastic = compute.elastic
    queued = bool(policy.queue_name or settings.queue_name)
    workers = elastic.max_workers if elastic is not None and not queued else compute.workers
    head = pod_template(work, HEAD, compute.head.resources, compute.pod_template, settings)
    worker = pod_template(work, WORKER, compute.resources, compute.pod_template, settings)
    spec: JsonObject = {
        "submissionMode": "K8sJobMode",
        "entrypoint": ENTRYPOINT,
        "backoffLimit": 0,
        "submitterConfig": {"backoffLimit": 0},
        "submitterPodTemplate": _submitter(work, compute.pod_template, settings),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": int(parse_duration(policy.ttl_after_finished).total_seconds()),
        "rayClusterSpec": {
            "rayVersion": settings.ray_version,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
                "template": head,
            },
            "workerGroupSpecs": [
                {
                    "groupName": "worker",
                    "replicas": workers,
                    "minReplicas": workers,
                    "maxReplicas": workers,
                    "rayStartParams": {},
                    "template": worker,
                }
            ],
        },
    }
    if settings.pre_running_seconds:
        spec["preRunningDeadlineSeconds"] = settings.pre_running_seconds
    return {
        "apiVersion": RAY_JOB.api_version,
        "kind": RAY_JOB.name,
        "metadata": {
            "name": work.name,
            "namespace": work.namespace,
            "labels": {**work.labels, **queue_labels(policy, settings)},
        },
        "spec": spec,
    }


def queue_labels(policy: RunPolicy, settings: Settings) -> dict[str, str]:
    """Kueue's labels on a child: its own queue, else the installation's. Kueue then owns its `suspend`."""
    labels = {
        names.LABEL_QUEUE: policy.queue_name or settings.queue_name,
        names.LABEL_PRIORITY: policy.workload_priority_class_name,
    }
    return {name: value for name, value in labels.items() if value}


def _submitter(work: Work, extra: PodTemplate, settings: Settings) -> JsonValue:
    """The pod that submits: neither mounts nor credentials, for it only speaks to the Ray head."""
    resources = Resources(
        requests={"cpu": settings.submitter_cpu, "memory": settings.submitter_memory},
        limits={"memory": settings.submitter_memory_limit},
    )
    user = extra.to_dict()
    spec: JsonObject = {
        name: user[name] for name in ("nodeSelector", "tolerations", "imagePullSecrets") if user.get(name)
    }
    return {
        "metadata": {"labels": dict(work.labels)},
        "spec": spec
        | {
            "restartPolicy": "Never",
            "securityContext": security_context(settings),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": SUBMITTER,
                    "image": work.image,
                    "imagePullPolicy": settings.image_pull_policy,
                    "terminationMessagePolicy": TERMINATION_MESSAGE_POLICY,
                    "resources": resources.to_dict(),
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
