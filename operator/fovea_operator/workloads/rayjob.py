"""The KubeRay RayJob of a training or a sweep.

Submission is K8sJobMode: a small pod submits the work and follows it. When the Ray head dies it fails, and with it
the RayJob, so a new attempt starts; HTTPMode would silently submit again on a fresh head, and SidecarMode adds a
container without a security context, which the restricted Pod Security Standard refuses (KubeRay 1.6.0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from fovea_api import names
from fovea_api.common import PodTemplate, Resources, RunPolicy, parse_duration
from fovea_api.trainingjob import Compute, Latency
from pydantic import JsonValue

from fovea_operator.objects import (
    RAY_CLUSTER,
    RAY_JOB,
    JsonObject,
    Kind,
    View,
    flag,
    items,
    mapping,
    number,
    text,
    time,
)
from fovea_operator.settings import Settings
from fovea_operator.workloads.autoscaler import autoscaler_options
from fovea_operator.workloads.demand import PodSet, requests_of
from fovea_operator.workloads.pod_template import (
    ENTRYPOINT,
    TERMINATION_MESSAGE_POLICY,
    latency_pod_template,
    main_container,
    pod_template,
    queue_labels,
    security_context,
)
from fovea_operator.workloads.pods import deaths, waits_for
from fovea_operator.workloads.work import Work
from fovea_operator.workloads.workload import WAITING_FOR_QUOTA, ChildState, State

LABEL_RAY_NODE, LABEL_RAY_GROUP = "ray.io/node-type", "ray.io/group"
_WAIT_FOR_HEAD = {"cpu": 0.2, "memory": 256 * 2.0**20}
"""Requests of the init container `wait-gcs-ready` that KubeRay adds to each worker."""
HEAD, WORKER, SUBMITTER, STORE_CHECK = "ray-head", "ray-worker", "submitter", "store-check"
LATENCY = "ray-latency"
AUTOSCALER = "autoscaler"
"""Names of the containers; the autoscaler's is KubeRay's."""


@dataclass(frozen=True, slots=True)
class RayJobWorkload:
    """How a RayJob is read."""

    kind: Kind = RAY_JOB
    parts: tuple[Kind, ...] = (RAY_CLUSTER,)

    @property
    def memory_fields(self) -> Mapping[str, str]:
        """Where the memory limit of each container is set."""
        return {
            HEAD: "spec.compute.head.resources.limits.memory",
            STORE_CHECK: "spec.compute.head.resources.limits.memory",
            WORKER: "spec.compute.resources.limits.memory",
            LATENCY: "spec.evaluation.latency.resources.limits.memory",
            SUBMITTER: "the operator's setting submitter_memory_limit",
            AUTOSCALER: "the operator's setting ray_autoscaler_memory_limit",
        }

    def state(self, value: View, parts: Sequence[View], pods: Sequence[View]) -> State:
        """Where the RayJob is; what keeps its cluster from getting pods stands on the RayCluster."""
        deployment, job = text(value, "status", "jobDeploymentStatus"), text(value, "status", "jobStatus")
        reason, message = text(value, "status", "reason"), text(value, "status", "message")
        if deployment in ("Failed", "ValidationFailed") or job in ("FAILED", "STOPPED"):
            return State(ChildState.FAILED, reason or job.capitalize() or deployment, message)
        if deployment == "Complete" or job == "SUCCEEDED":
            return State(ChildState.SUCCEEDED)
        if deployment in ("Suspended", "Suspending") or (flag(value, "spec", "suspend") and not deployment):
            return WAITING_FOR_QUOTA
        if job == "RUNNING":  # also while what measures its latency waits for a node
            return State(ChildState.RUNNING, *next(filter(None, map(waits_for, filter(_measures_latency, pods))), ()))
        if any(map(_check_failed, pods)):  # else the kubelet repeats it for ever, beside workers that wait
            return State(ChildState.FAILED, "StoreCheckFailed")
        for cluster in parts:
            for condition in items(cluster, "status", "conditions"):
                if text(condition, "type") == "ReplicaFailure" and text(condition, "status") == "True":
                    return State(ChildState.STARTING, text(condition, "reason"), text(condition, "message"))
        return State(ChildState.STARTING)

    def demand(self, value: View) -> tuple[PodSet, ...]:
        """Head, to which KubeRay adds an autoscaler, workers that it starts with and what measures latency, to which
        KubeRay adds an init container, and the pod that submits."""
        cluster = mapping(value, "spec", "rayClusterSpec")
        pod = mapping(cluster, "headGroupSpec", "template", "spec")
        beside = mapping(cluster, "autoscalerOptions")
        head = requests_of({**pod, "containers": [*map(dict, items(pod, "containers")), dict(beside)]})
        workers = (
            PodSet(
                text(group, "groupName"),
                number(group, "replicas"),
                requests_of(mapping(group, "template", "spec"), _WAIT_FOR_HEAD),
            )
            for group in items(cluster, "workerGroupSpecs")
        )
        submitter = requests_of(mapping(value, "spec", "submitterPodTemplate", "spec"))
        return (PodSet("head", 1, head), *workers, PodSet("submitter", 1, submitter))

    def ended_at(self, value: View) -> datetime | None:
        """When KubeRay saw the end."""
        return time(value, "status", "endTime")

    def released_at(self, value: View) -> datetime | None:
        """KubeRay keeps the Ray cluster for a while."""
        ended = self.ended_at(value)
        kept = timedelta(seconds=number(value, "spec", "ttlSecondsAfterFinished"))
        return ended + kept if ended is not None else None

    def cause(self, pods: Sequence[View], failure: State) -> State:
        """What ended its pods; a head that was replaced explains a failure of which KubeRay says nothing."""
        known = deaths(pods, self.memory_fields)
        unexplained = not failure.message or "backoff limit" in failure.message.lower()
        if (replaced := _replaced_head(pods)) and unexplained:
            return State(failure.state, failure.reason, "; ".join([replaced, *(death.message for death in known[:1])]))
        if known and (known[0].reason or unexplained):
            return State(failure.state, known[0].reason or failure.reason, known[0].message, known[0].own)
        return failure


def _check_failed(pod: View) -> bool:
    """Whether the check of the store before the Ray head has ended with an error, at this try or an earlier one."""
    return any(
        number(container, state, "terminated", "exitCode")
        for container in items(pod, "status", "initContainerStatuses")
        if text(container, "name") == STORE_CHECK
        for state in ("state", "lastState")
    )


def _measures_latency(pod: View) -> bool:
    return text(mapping(pod, "metadata", "labels"), LABEL_RAY_GROUP) == names.RAY_LATENCY


def _replaced_head(pods: Sequence[View]) -> str:
    """That the Ray head died: KubeRay submits when a head is there, so a younger head has taken its place."""
    heads = [pod for pod in pods if text(mapping(pod, "metadata", "labels"), LABEL_RAY_NODE) == "head"]
    submitters = [pod for pod in pods if not text(mapping(pod, "metadata", "labels"), LABEL_RAY_NODE)]
    submitted = min((text(pod, "metadata", "creationTimestamp") for pod in submitters), default="")
    if submitted and any(text(pod, "metadata", "creationTimestamp") > submitted for pod in heads):
        return "the pod of the Ray head was deleted, or its node was lost"
    return ""


def build_ray_job(
    work: Work,
    compute: Compute,
    workers: int,
    policy: RunPolicy,
    settings: Settings,
    latency: Latency,
    custom: Mapping[str, int] = MappingProxyType({}),
    least: int | None = None,
) -> JsonObject:
    """A Ray cluster of a head, which works on nothing itself, and workers; deleted `ttlAfterFinished` after the end.

    `latency`: where it is measured; a group of one pod beside the workers, where that is not one of them.
    `custom`: custom resources of Ray that each worker offers.
    `least`: workers that it starts with and keeps, where Ray's autoscaler decides on further ones. None: all of them.
    """
    elastic = least is not None
    head = _with_store_check(pod_template(work, HEAD, compute.head.resources, compute.pod_template, settings))
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
                    "replicas": least if elastic else workers,
                    "minReplicas": least if elastic else workers,
                    "maxReplicas": workers,
                    "rayStartParams": _offered(custom),
                    "template": _with_node_name(worker),
                },
                *([_latency_group(work, latency, compute.pod_template, settings)] if latency.elsewhere else []),
            ],
        },
    }
    if elastic:
        cluster: JsonObject = {"enableInTreeAutoscaling": True, "autoscalerOptions": _autoscaler(settings)}
        spec["rayClusterSpec"] = {**mapping(spec, "rayClusterSpec"), **cluster}
    if settings.pre_running_seconds:
        spec["preRunningDeadlineSeconds"] = settings.pre_running_seconds
    queue = queue_labels(policy, settings)
    return {
        "apiVersion": RAY_JOB.api_version,
        "kind": RAY_JOB.name,
        "metadata": {
            "name": work.name,
            "namespace": work.namespace,
            "labels": {**work.labels, **queue},
            # without a queue Kueue would gate the pods all the same, for ever
            **({"annotations": {names.ANNOTATION_ELASTIC: "true"}} if elastic and queue else {}),
        },
        "spec": spec,
    }


def _latency_group(work: Work, latency: Latency, extra: PodTemplate, settings: Settings) -> JsonObject:
    """The one pod that latency is measured on.

    It offers neither CPUs nor GPUs, so that nothing is trained there. It comes and goes with the cluster: Ray's
    autoscaler, by which it could come later, gives the head rights over the namespace's pods.
    """
    return {
        "groupName": names.RAY_LATENCY,
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", **_offered({names.RAY_LATENCY: 1})},
        "template": _with_node_name(latency_pod_template(work, LATENCY, latency, extra, settings)),
    }


def _offered(custom: Mapping[str, int]) -> JsonObject:
    """The parameter of `ray start` for custom resources; KubeRay puts it into a shell's command line as it is."""
    return {"resources": json.dumps(json.dumps(dict(custom)))} if custom else {}


def _with_node_name(template: JsonObject) -> JsonObject:
    """A pod that knows its node, for the record of where latency was measured."""
    main = main_container(template)
    name: JsonObject = {"name": names.NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    main = main | {"env": [*map(dict, items(main, "env")), name]}
    return template | {"spec": {**mapping(template, "spec"), "containers": [main]}}


def _autoscaler(settings: Settings) -> JsonObject:
    """Its second version, for the first one keeps a pod that waits for its node when no trial waits any more."""
    pending: JsonObject = {
        "name": "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S",
        "value": str(settings.ray_idle_seconds),
    }
    return autoscaler_options(settings) | {"version": "v2", "env": [pending]}


def _with_store_check(head: JsonObject) -> JsonObject:
    """The head, which starts no cluster on a store that is another's or cannot be reached.

    The check asks for what the container after it does, and so adds nothing to what the pod asks for.
    """
    check = main_container(head) | {"name": STORE_CHECK, "command": [*ENTRYPOINT.split(), "--check-store"]}
    return head | {"spec": {**mapping(head, "spec"), "initContainers": [check]}}


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
