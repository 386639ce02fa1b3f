"""A workload: a kind of object that works on one attempt of a run. One shape for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from fovea_api import names

from fovea_operator.objects import Key, Kind, View, flag, items, key_of, mapping, text, time
from fovea_operator.workloads.demand import PodSet
from fovea_operator.workloads.pods import Disruption, disruption, waits_for

LABEL_ATTEMPT = f"{names.GROUP}/attempt"
ANNOTATION_PODS = f"{names.GROUP}/pods"
"""Digest of what the spec said of a child's pods when it was made."""


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
class State:
    """Where a child is, and why it failed or what it waits for: a word, and words."""

    state: ChildState
    reason: str = ""
    message: str = ""
    own: bool = False
    """Whether no pod that the cluster took away can have caused it."""


WAITING_FOR_QUOTA = State(ChildState.QUEUED, "WaitingForQuota", "waiting for its queue to admit it")


class Workload(Protocol):
    """How one kind of child is read. Each also has a function that builds its manifest."""

    @property
    def kind(self) -> Kind:
        """The kind of the child."""

    @property
    def parts(self) -> tuple[Kind, ...]:
        """Kinds of objects between the child and its pods, which are watched with it."""

    @property
    def memory_fields(self) -> Mapping[str, str]:
        """Where the memory limit of each of its containers is set, by the container's name."""

    def state(self, value: View, parts: Sequence[View], pods: Sequence[View]) -> State:
        """Where the child is, by its own status and that of its parts."""

    def demand(self, value: View) -> tuple[PodSet, ...]:
        """What the child's pods ask for."""

    def ended_at(self, value: View) -> datetime | None:
        """When the child ended, as its controller says."""

    def released_at(self, value: View) -> datetime | None:
        """Until when the child keeps its pods after its end; None: it has not ended."""

    def cause(self, pods: Sequence[View], failure: State) -> State:
        """Why a failed child failed, as far as its pods report; else what its controller says."""


@dataclass(frozen=True, slots=True)
class Child:
    """An object that works on an attempt of a run, as the planners see it."""

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
    stalled: bool = False
    """Whether nothing more happens to it until somebody changes something."""
    started: datetime | None = None
    """When it last left its queue, or began without one; None: never."""
    queued_since: datetime | None = None
    """When it last went back into its queue, where that is known."""
    ended_at: datetime | None = None
    """When it ended, as far as its controller says."""
    released_at: datetime | None = None
    """Until when it keeps its pods after its end."""
    disruption: Disruption | None = None
    """The last pod that the cluster took away."""
    own_failure: bool = False
    """Whether it failed of something that no such pod can have caused."""
    pods_digest: str = ""
    """Digest of what the spec said of its pods when it was made; empty: not known."""

    @property
    def attempt(self) -> int:
        """Number of the attempt, from its name `<run>-<number>`."""
        return int(self.key.name.rpartition("-")[2])


def read_child(workload: Workload, value: View, parts: Sequence[View] = (), pods: Sequence[View] = ()) -> Child:
    """Reads a child together with its parts and pods."""
    current = workload.state(value, parts, pods)
    if current.state is ChildState.STARTING:
        reason, message = next(filter(None, map(waits_for, pods)), (current.reason, current.message))
        current = State(current.state, reason, message)
    if current.state is ChildState.FAILED:
        current = workload.cause(pods, current)
    return Child(
        key=key_of(workload.kind, value),
        uid=text(value, "metadata", "uid"),
        run=text(mapping(value, "metadata", "labels"), names.LABEL_RUN),
        created=time(value, "metadata", "creationTimestamp") or datetime.fromtimestamp(0, UTC),
        state=current.state,
        deleting=bool(text(value, "metadata", "deletionTimestamp")),
        reason=current.reason,
        message=current.message,
        started=time(value, "status", "startTime"),
        queued_since=next(
            (
                time(condition, "lastTransitionTime")
                for condition in items(value, "status", "conditions")
                if text(condition, "type") == "Suspended" and text(condition, "status") == "True"
            ),
            None,
        ),
        ended_at=workload.ended_at(value),
        released_at=workload.released_at(value),
        disruption=disruption(pods),
        own_failure=current.own,
        pods_digest=text(mapping(value, "metadata", "annotations"), ANNOTATION_PODS),
    )


def child_of_pod(pod: View) -> str:
    """Name of the child that a pod works for, by its labels."""
    labels = mapping(pod, "metadata", "labels")
    return f"{text(labels, names.LABEL_RUN)}-{text(labels, LABEL_ATTEMPT)}"


def controller_of(value: View) -> str:
    """Name of the object that controls this one."""
    references = items(value, "metadata", "ownerReferences")
    return next((text(reference, "name") for reference in references if flag(reference, "controller")), "")
