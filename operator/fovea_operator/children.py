"""Jobs and RayJobs as the planners see them: one shape for both, with the reason why one does not get on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from fovea_api import names

from fovea_operator.objects import RAY_JOB, Key, Kind, View, flag, items, key_of, mapping, number, text, time

LABEL_ATTEMPT = f"{names.GROUP}/attempt"


class ChildState(Enum):
    """Where a child is, whatever its kind."""

    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        """Whether its pods work no more."""
        return self in (ChildState.SUCCEEDED, ChildState.FAILED)


@dataclass(frozen=True, slots=True)
class Child:
    """A Job or RayJob that works on a run."""

    key: Key
    uid: str
    run: str
    created: datetime
    state: ChildState
    deleting: bool = False
    reason: str = ""
    """Why it failed, or what it waits for, in a word."""
    message: str = ""
    """The same in words: those of KubeRay, of the scheduler, of a quota."""
    preempted: bool = False
    """Whether the cluster took a pod away: preemption by priority, eviction, a drained node."""

    @property
    def attempt(self) -> int:
        """Number of the attempt, from its name `<run>-<number>`."""
        return int(self.key.name.rpartition("-")[2])


def read_child(kind: Kind, value: View, clusters: Sequence[View] = (), pods: Sequence[View] = ()) -> Child:
    """Reads a RayJob or Job together with its RayClusters and pods."""
    state, reason, message = _ray_job(value, clusters) if kind == RAY_JOB else _job(value, pods)
    if state is ChildState.STARTING:
        reason, message = next(filter(None, map(_waits_for, pods)), (reason, message))
    return Child(
        key_of(kind, value),
        text(value, "metadata", "uid"),
        text(mapping(value, "metadata", "labels"), names.LABEL_RUN),
        time(value, "metadata", "creationTimestamp") or datetime.fromtimestamp(0, UTC),
        state,
        bool(text(value, "metadata", "deletionTimestamp")),
        reason,
        message,
        any(map(_disrupted, pods)),
    )


def child_of_pod(pod: View) -> str:
    """Name of the child that a pod works for, by its labels."""
    labels = mapping(pod, "metadata", "labels")
    return f"{text(labels, names.LABEL_RUN)}-{text(labels, LABEL_ATTEMPT)}"


def controller_of(value: View) -> str:
    """Name of the object that controls this one."""
    return next((text(it, "name") for it in items(value, "metadata", "ownerReferences") if flag(it, "controller")), "")


def _ray_job(value: View, clusters: Sequence[View]) -> tuple[ChildState, str, str]:
    deployment, job = text(value, "status", "jobDeploymentStatus"), text(value, "status", "jobStatus")
    reason, message = text(value, "status", "reason"), text(value, "status", "message")
    if deployment in ("Failed", "ValidationFailed") or job in ("FAILED", "STOPPED"):
        return ChildState.FAILED, reason or job.capitalize() or deployment, message
    if deployment == "Complete" or job == "SUCCEEDED":
        return ChildState.SUCCEEDED, "", ""
    if deployment in ("Suspended", "Suspending") or (flag(value, "spec", "suspend") and not deployment):
        return ChildState.QUEUED, "WaitingForQuota", "waiting for its queue to admit it"
    if job == "RUNNING":
        return ChildState.RUNNING, "", ""
    for cluster in clusters:
        for condition in items(cluster, "status", "conditions"):
            if text(condition, "type") == "ReplicaFailure" and text(condition, "status") == "True":
                return ChildState.STARTING, text(condition, "reason"), text(condition, "message")
    return ChildState.STARTING, "", ""


def _job(value: View, pods: Sequence[View]) -> tuple[ChildState, str, str]:
    for condition in items(value, "status", "conditions"):
        if text(condition, "status") != "True":
            continue
        match text(condition, "type"):
            case "Complete" | "SuccessCriteriaMet":
                return ChildState.SUCCEEDED, "", ""
            case "Failed" | "FailureTarget":
                return ChildState.FAILED, text(condition, "reason"), text(condition, "message")
            case "Suspended":
                return ChildState.QUEUED, "WaitingForQuota", "waiting for its queue to admit it"
    if flag(value, "spec", "suspend"):
        return ChildState.QUEUED, "WaitingForQuota", "waiting for its queue to admit it"
    running = number(value, "status", "active") and any(text(pod, "status", "phase") == "Running" for pod in pods)
    return (ChildState.RUNNING if running else ChildState.STARTING), "", ""


def _waits_for(pod: View) -> tuple[str, str] | None:
    """What keeps a pod from running, in the words of the scheduler or the kubelet."""
    if text(pod, "status", "phase") not in ("", "Pending"):
        return None
    name = text(pod, "metadata", "name")
    for condition in items(pod, "status", "conditions"):
        if text(condition, "type") == "PodScheduled" and text(condition, "status") == "False":
            return text(condition, "reason"), f"pod {name}: {text(condition, 'message')}"
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in items(pod, "status", field):
            waiting = mapping(container, "state", "waiting")
            reason = text(waiting, "reason")
            if reason and reason not in ("ContainerCreating", "PodInitializing"):
                return reason, f"pod {name}, container {text(container, 'name')}: {text(waiting, 'message')}"
    return None


def _disrupted(pod: View) -> bool:
    return any(
        text(it, "type") == "DisruptionTarget" and text(it, "status") == "True"
        for it in items(pod, "status", "conditions")
    )
