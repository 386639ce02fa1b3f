"""Why a child failed: what its pods report goes before what its controller says."""

from __future__ import annotations

from typing import Any

import pytest
from fovea_operator.objects import JOB, RAY_JOB, Kind
from fovea_operator.workloads.demand import kept_of_pod
from fovea_operator.workloads.job import JobWorkload
from fovea_operator.workloads.rayjob import RayJobWorkload
from fovea_operator.workloads.workload import Child, ChildState, read_child

OOM = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-11-24T20:05:00Z"}
ERROR = {"reason": "Error", "exitCode": 1, "finishedAt": "2026-11-24T20:06:00Z", "message": "reading\nno space left\n"}
LONG = ERROR | {"message": "\n".join(f"line {number}" for number in range(1000))}


def container(name: str, state: dict[str, Any] | None = None, last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "state": {"terminated": state} if state else {"running": {}},
        "lastState": {"terminated": last} if last else {},
    }


def pod(
    *containers: dict[str, Any], name: str = "p", node: str = "", at: str = "20:00", **fields: Any
) -> dict[str, Any]:
    labels = {"ray.io/node-type": node} if node else {}
    metadata = {"name": name, "labels": labels, "creationTimestamp": f"2026-11-24T{at}:00Z"}
    if fields.pop("deleted", False):
        metadata["deletionTimestamp"] = "2026-11-24T20:06:00Z"
    return {"metadata": metadata, "status": {"containerStatuses": list(containers), **fields}}


def failed_job(*pods: dict[str, Any]) -> Child:
    condition = {
        "type": "Failed",
        "status": "True",
        "reason": "BackoffLimitExceeded",
        "message": "Job has reached the specified backoff limit",
    }
    return read(JOB, {"conditions": [condition]}, *pods)


def failed_ray_job(*pods: dict[str, Any], reason: str = "SubmissionFailed", message: str = "") -> Child:
    said = message or "Ray Job submitter failed: BackoffLimitExceeded: Job has reached the specified backoff limit"
    return read(RAY_JOB, {"jobDeploymentStatus": "Failed", "reason": reason, "message": said}, *pods)


def starting_ray_job(*pods: dict[str, Any]) -> Child:
    return read(RAY_JOB, {"jobDeploymentStatus": "Initializing"}, *pods)


def checking(state: dict[str, Any] | None = None, last: dict[str, Any] | None = None) -> dict[str, Any]:
    """A Ray head whose first container is at work, or has ended so."""
    check = container("store-check", state, last)
    return pod(name="h", node="head", phase="Pending", initContainerStatuses=[check])


FULL = 'Usage of EmptyDir volume "generator-simulated" exceeds the limit "50Gi". '


def generating(state: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The pod of a build whose source's program runs, or has ended so."""
    first = container("generator-simulated", state)
    build = {"name": "fovea", "state": {"waiting": {"reason": "PodInitializing"}}}
    return pod(build, **{"phase": "Pending", "initContainerStatuses": [first], **fields})


def read(kind: Kind, status: dict[str, Any], *pods: dict[str, Any]) -> Child:
    metadata = {"name": "r-0123456789-1", "namespace": "ns", "labels": {"fovea.dev/run": "r-0123456789"}}
    workload = RayJobWorkload() if kind == RAY_JOB else JobWorkload()
    return read_child(workload, {"metadata": metadata, "status": status}, (), pods)


SUBMITTER = pod(container("submitter", ERROR), name="s", at="20:01")
HEAD, NEW_HEAD = pod(node="head", name="h"), pod(node="head", name="h2", at="20:04")
DELETED = "the pod of the Ray head was deleted, or its node was lost"

SITUATIONS: dict[str, tuple[Child, str, str]] = {
    "a build had too little memory": (
        failed_job(pod(container("fovea", OOM))),
        "OOMKilled",
        "pod p, container fovea needed more memory than it may have; raise spec.compute.resources.limits.memory",
    ),
    "a cleanup had too little memory": (
        failed_job(pod(container("cleanup", OOM))),
        "OOMKilled",
        "pod p, container cleanup needed more memory than it may have; raise the operator's setting cleanup_memory",
    ),
    "a program died: its last words are reported": (
        failed_job(pod(container("fovea", ERROR))),
        "BackoffLimitExceeded",
        "pod p, container fovea ended with exit code 1; its last words: reading\nno space left",
    ),
    "a program could not be started": (
        failed_job(pod(container("fovea", {"reason": "StartError", "exitCode": 128, "message": "no such file"}))),
        "StartError",
        "pod p, container fovea ended with exit code 128; its last words: no such file",
    ),
    "a pod was evicted": (
        failed_job(pod(phase="Failed", reason="Evicted", message='Usage of EmptyDir volume "fovea-work" exceeds 50Gi')),
        "Evicted",
        'pod p: Usage of EmptyDir volume "fovea-work" exceeds 50Gi',
    ),
    "the program of a source failed": (
        failed_job(generating(ERROR)),
        "GeneratorFailed",
        "the program of source 'simulated' (pod p, container generator-simulated) ended with exit code 1; "
        "correct spec.sources[simulated].generator, or the program; its last words: reading\nno space left",
    ),
    "it cannot be started": (
        failed_job(generating({"reason": "StartError", "exitCode": 128, "message": "no such file"})),
        "StartError",
        "the program of source 'simulated' (pod p, container generator-simulated) ended with exit code 128; "
        "correct spec.sources[simulated].generator, or the program; its last words: no such file",
    ),
    "it had too little memory": (
        failed_job(generating(OOM)),
        "OOMKilled",
        "the program of source 'simulated' (pod p, container generator-simulated) needed more memory than it may have; "
        "raise spec.compute.resources.limits.memory",
    ),
    "it wrote more than it may": (
        failed_job(generating({"reason": "Error", "exitCode": 137}, phase="Failed", reason="Evicted", message=FULL)),
        "GeneratorFailed",
        "the program of source 'simulated' wrote more than 50Gi, and pod p was evicted; "
        "let it write less, or raise the operator's setting work_dir_size",
    ),
    "its pod was deleted": (
        failed_job(generating({"reason": "Error", "exitCode": 143}, deleted=True)),
        "BackoffLimitExceeded",
        "pod p was deleted; container generator-simulated ended with exit code 143",
    ),
    "a pod is being deleted": (failed_job(pod(deleted=True)), "PodDeleted", "pod p was deleted"),
    "a deleted pod has stopped": (
        failed_job(pod(container("fovea", {"reason": "Error", "exitCode": 75}), deleted=True)),
        "BackoffLimitExceeded",
        "pod p was deleted; container fovea ended with exit code 75",
    ),
    "a pod is deleted and not known": (failed_job(), "PodDeleted", "its pod was deleted, or its node was lost"),
    "a Ray head had too little memory and was started again": (
        failed_ray_job(SUBMITTER, pod(container("ray-head", None, OOM), node="head", name="h")),
        "OOMKilled",
        "pod h, container ray-head needed more memory than it may have; "
        "raise spec.compute.head.resources.limits.memory",
    ),
    "a Ray head was replaced": (
        failed_ray_job(SUBMITTER, NEW_HEAD),
        "SubmissionFailed",
        f"{DELETED}; pod s, container submitter ended with exit code 1; its last words: reading\nno space left",
    ),
    "only the submitter died": (
        failed_ray_job(SUBMITTER, HEAD),
        "SubmissionFailed",
        "pod s, container submitter ended with exit code 1; its last words: reading\nno space left",
    ),
    "the store was refused before the Ray head started": (
        starting_ray_job(checking(ERROR | {"message": "the store belongs to namespace b", "exitCode": 75})),
        "StoreCheckFailed",
        "pod h, container store-check ended with exit code 75; its last words: the store belongs to namespace b",
    ),
    "and the kubelet tries again": (
        starting_ray_job(checking(None, ERROR)),
        "StoreCheckFailed",
        "pod h, container store-check ended with exit code 1; its last words: reading\nno space left",
    ),
    "KubeRay knows more than the submitter": (
        failed_ray_job(SUBMITTER, HEAD, reason="AppFailed", message="Job entrypoint command failed: ValueError"),
        "AppFailed",
        "Job entrypoint command failed: ValueError",
    ),
    "but not of memory": (
        failed_ray_job(SUBMITTER, pod(container("ray-worker", OOM), node="worker"), message="driver died"),
        "OOMKilled",
        "pod p, container ray-worker needed more memory than it may have; raise spec.compute.resources.limits.memory",
    ),
}


@pytest.mark.parametrize(
    ("pod", "state"),
    [
        (checking(), ChildState.STARTING),
        (checking({"reason": "Completed", "exitCode": 0}), ChildState.STARTING),
        (pod(phase="Pending", initContainerStatuses=[container("mine", ERROR)]), ChildState.STARTING),
        (checking(ERROR), ChildState.FAILED),
    ],
    ids=["at work", "the store is ours", "another init container", "refused"],
)
def test_a_ray_cluster_that_may_not_use_its_store_has_failed(pod: dict[str, Any], state: ChildState) -> None:
    assert starting_ray_job(pod).state is state


PULL = {"reason": "ErrImagePull", "message": "not found"}
PROGRAMS: dict[str, tuple[dict[str, Any], ChildState, str, str]] = {
    "it runs": (generating(), ChildState.RUNNING, "Generating", "the program of source 'simulated' is running"),
    "it has ended, and the build's image is pulled": (
        generating({"reason": "Completed", "exitCode": 0}),
        ChildState.STARTING,
        "",
        "",
    ),
    "its image cannot be pulled": (
        generating() | {"status": {"initContainerStatuses": [{"name": "generator-a", "state": {"waiting": PULL}}]}},
        ChildState.STARTING,
        "ErrImagePull",
        "the program of source 'a' (pod p, container generator-a): not found",
    ),
    "a sidecar that somebody injects runs": (
        pod(phase="Pending", initContainerStatuses=[container("mesh")]),
        ChildState.STARTING,
        "",
        "",
    ),
    "the build runs": (pod(container("fovea"), phase="Running"), ChildState.RUNNING, "", ""),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_of_a_source_is_part_of_the_work(name: str) -> None:
    given, state, reason, message = PROGRAMS[name]
    child = read(JOB, {"active": 1}, given)
    assert (child.state, child.reason, child.message) == (state, reason, message)


def unschedulable(group: str) -> dict[str, Any]:
    """A pod of a group of Ray's workers for which there is no node."""
    message = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    waiting = pod(node="worker", phase="Pending", conditions=[condition])
    waiting["metadata"]["labels"]["ray.io/group"] = group
    spec = kept_of_pod({"nodeSelector": {"disk": "ssd", "zone": "a"}, "volumes": [{"name": "v"}]})
    return waiting | {"spec": spec}


def test_a_run_says_what_measures_its_latency_waits_for_while_it_trains() -> None:
    running = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    child = read(RAY_JOB, running, unschedulable("worker"), unschedulable("latency"))
    assert (child.state, child.reason) == (ChildState.RUNNING, "Unschedulable")
    assert child.message.endswith("didn't match Pod's node affinity/selector.; its nodeSelector is disk=ssd, zone=a")
    elastic = read(RAY_JOB, running, unschedulable("worker"))
    assert (elastic.reason, elastic.message) == ("", ""), "workers may come later"
    assert starting_ray_job(unschedulable("worker")).message.endswith("its nodeSelector is disk=ssd, zone=a")


@pytest.mark.parametrize("name", SITUATIONS)
def test_why_it_failed(name: str) -> None:
    child, reason, message = SITUATIONS[name]
    assert (child.reason, child.message) == (reason, message)


def test_that_a_program_wrote_too_much_is_no_preemption() -> None:
    assert failed_job(generating(phase="Failed", reason="Evicted", message=FULL)).own_failure


def test_of_a_long_log_the_end_is_reported_in_whole_lines() -> None:
    message = failed_job(pod(container("fovea", LONG))).message
    assert len(message) < 1200
    assert "last words: … line " in message
    assert message.endswith("\nline 999")


def test_how_the_cluster_took_a_pod_away_is_reported_in_its_words() -> None:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "preempting to accommodate a higher priority pod",
    }
    child = failed_job(pod(conditions=[condition]))
    assert child.disruption is not None
    assert child.disruption.message == "pod p: preempting to accommodate a higher priority pod"
