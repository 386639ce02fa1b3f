"""Jobs and RayJobs as the planners see them: one shape for both, with the reason why one does not get on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from fovea_api import names

from fovea_operator.objects import JOB, RAY_JOB, Key, Kind, View, flag, items, key_of, mapping, number, text, time

LABEL_ATTEMPT = f"{names.GROUP}/attempt"
LABEL_RAY_NODE = "ray.io/node-type"
BUILD, CLEANUP, HEAD, WORKER, SUBMITTER = "fovea", "cleanup", "ray-head", "ray-worker", "submitter"
"""Names of the containers."""
MEMORY = {
    BUILD: "spec.compute.resources.limits.memory",
    HEAD: "spec.compute.head.resources.limits.memory",
    WORKER: "spec.compute.resources.limits.memory",
    CLEANUP: "the operator's setting cleanup_memory",
    SUBMITTER: "the operator's setting submitter_memory_limit",
}
"""Where the memory limit of a container is set."""
LAST_WORDS = 1000
"""Characters at the end of a dead container's log that are told."""


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
    preempted: str = ""
    """How the cluster took a pod away: preemption by priority, eviction, a drained node. Empty: it did not."""

    @property
    def attempt(self) -> int:
        """Number of the attempt, from its name `<run>-<number>`."""
        return int(self.key.name.rpartition("-")[2])


def read_child(kind: Kind, value: View, clusters: Sequence[View] = (), pods: Sequence[View] = ()) -> Child:
    """Reads a RayJob or Job together with its RayClusters and pods."""
    state, reason, message = _ray_job(value, clusters) if kind == RAY_JOB else _job(value, pods)
    if state is ChildState.STARTING:
        reason, message = next(filter(None, map(_waits_for, pods)), (reason, message))
    if state is ChildState.FAILED:
        reason, message = _cause(kind, pods, reason, message)
    return Child(
        key_of(kind, value),
        text(value, "metadata", "uid"),
        text(mapping(value, "metadata", "labels"), names.LABEL_RUN),
        time(value, "metadata", "creationTimestamp") or datetime.fromtimestamp(0, UTC),
        state,
        bool(text(value, "metadata", "deletionTimestamp")),
        reason,
        message,
        next(filter(None, map(_disruption, pods)), ""),
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


def _disruption(pod: View) -> str:
    for it in items(pod, "status", "conditions"):
        if text(it, "type") == "DisruptionTarget" and text(it, "status") == "True":
            return f"pod {text(pod, 'metadata', 'name')}: {text(it, 'message') or text(it, 'reason')}"
    return ""


# --- Why a child failed --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Death:
    """The end of a pod or of one of its containers."""

    reason: str
    """A word that says more than that it failed; empty: there is none."""
    message: str
    still: bool
    """Whether it is dead now; else its container was started again."""
    at: str

    @property
    def weight(self) -> tuple[bool, bool, str]:
        """What explains most comes first: lack of memory, then what is dead now, then what died first."""
        return (self.reason != "OOMKilled", not self.still, self.at)


def _cause(kind: Kind, pods: Sequence[View], reason: str, message: str) -> tuple[str, str]:
    """Why a child failed, as far as its pods tell; else what its controller says."""
    deaths = sorted((death for pod in pods for death in _deaths(pod)), key=lambda it: it.weight)
    says_nothing = not message or "backoff limit" in message.lower()
    if (replaced := _replaced_head(pods)) and says_nothing:
        return reason, "; ".join([replaced, *(it.message for it in deaths[:1])])
    if deaths and (deaths[0].reason or says_nothing):
        return deaths[0].reason or reason, deaths[0].message
    if kind == JOB and says_nothing:
        going = [text(pod, "metadata", "name") for pod in pods if text(pod, "metadata", "deletionTimestamp")]
        if going or not pods:
            return "PodDeleted", f"pod {going[0]} was deleted" if going else "its pod was deleted, or its node was lost"
    return reason, message


def _deaths(pod: View) -> Iterator[_Death]:
    name = text(pod, "metadata", "name")
    if reason := text(pod, "status", "reason"):  # the pod as a whole: evicted, or its node was shut down
        yield _Death(reason, f"pod {name}: {text(pod, 'status', 'message') or reason}", True, "")
    deleted = text(pod, "metadata", "deletionTimestamp")
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in items(pod, "status", field):
            for state in ("state", "lastState"):
                ended = mapping(container, state, "terminated")
                if ended and number(ended, "exitCode"):
                    where = f"pod {name}, container {text(container, 'name')}"
                    if deleted and text(ended, "reason") != "OOMKilled":
                        where = f"pod {name} was deleted; container {text(container, 'name')}"
                    yield _death(where, text(container, "name"), ended, state == "state")
                    break


def _death(where: str, container: str, ended: View, still: bool) -> _Death:
    at, said = text(ended, "finishedAt"), text(ended, "message").strip()
    words = f"; its last words: {_end_of(said)}" if said else ""
    if text(ended, "reason") == "OOMKilled":
        remedy = f"; raise {MEMORY[container]}" if container in MEMORY else ""
        return _Death("OOMKilled", f"{where} needed more memory than it may have{remedy}{words}", still, at)
    reason = text(ended, "reason")
    what = f"{where} ended with exit code {number(ended, 'exitCode')}"
    return _Death("" if reason in ("Error", "Completed") else reason, f"{what}{words}", still, at)


def _end_of(said: str) -> str:
    """The end of a log, from the start of a line where one fits."""
    if len(said) <= LAST_WORDS:
        return said
    end = said[-LAST_WORDS:]
    return f"… {end.partition(chr(10))[2] or end}"


def _replaced_head(pods: Sequence[View]) -> str:
    """That the Ray head died: KubeRay submits when a head is there, so a younger head has taken its place."""
    heads = [pod for pod in pods if text(mapping(pod, "metadata", "labels"), LABEL_RAY_NODE) == "head"]
    submitters = [pod for pod in pods if not text(mapping(pod, "metadata", "labels"), LABEL_RAY_NODE)]
    submitted = min((text(pod, "metadata", "creationTimestamp") for pod in submitters), default="")
    if submitted and any(text(pod, "metadata", "creationTimestamp") > submitted for pod in heads):
        return "the pod of the Ray head was deleted, or its node was lost"
    return ""
