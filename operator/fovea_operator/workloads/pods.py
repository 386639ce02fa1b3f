"""What pods report: what keeps one from running, how one was taken away, what ended its containers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fovea_api import names

from fovea_operator.objects import View, items, mapping, number, text, time
from fovea_operator.workloads.generators import source_of

_LOG_TAIL = 1000
"""Characters at the end of a dead container's log that are reported."""
_OVERUSE = re.compile(
    r"Container (?P<container>\S+) was using \S+, request is \S+, has larger consumption of (?P<resource>[\w-]+)"
)
"""The kubelet's words when it evicts, from a node that runs out, a pod that uses more than it asked for."""
_FULL_VOLUME = re.compile(r'Usage of EmptyDir volume "(?P<volume>\S+)" exceeds the limit "(?P<limit>\S+)"')
"""The kubelet's words when it evicts a pod that has written more to a volume than the volume may hold."""
_GENERATOR_FAILED = "GeneratorFailed"
"""The reason where the program of a source has failed, and Kubernetes has no better word."""


def waits_for(pod: View) -> tuple[str, str] | None:
    """What keeps a pod from running, in the words of the scheduler or the kubelet, or that it is its queue."""
    if text(pod, "status", "phase") not in ("", "Pending"):
        return None
    name = text(pod, "metadata", "name")
    if any(text(gate, "name") == names.GATE_ELASTIC for gate in items(pod, "spec", "schedulingGates")):
        return "WaitingForQuota", f"pod {name} waits for its queue to admit it"
    for condition in items(pod, "status", "conditions"):
        if text(condition, "type") == "PodScheduled" and text(condition, "status") == "False":
            wanted = mapping(pod, "spec", "nodeSelector")
            labels = ", ".join(f"{label}={value}" for label, value in wanted.items())
            where = f"; its nodeSelector is {labels}" if labels else ""
            return text(condition, "reason"), f"pod {name}: {text(condition, 'message')}{where}"
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in items(pod, "status", field):
            waiting = mapping(container, "state", "waiting")
            reason = text(waiting, "reason")
            if reason and reason not in ("ContainerCreating", "PodInitializing"):
                return reason, f"{_place(name, text(container, 'name'))}: {text(waiting, 'message')}"
    return None


def source_at_work(pod: View) -> str:
    """Name of the source whose program runs in a pod now; empty: none does."""
    for container in items(pod, "status", "initContainerStatuses"):
        if "running" in mapping(container, "state") and (source := source_of(text(container, "name"))):
            return source
    return ""


@dataclass(frozen=True, slots=True)
class Disruption:
    """That the cluster took a pod away: preemption by priority, eviction, a drained or lost node."""

    at: datetime | None
    message: str


def disruption(pods: Sequence[View]) -> Disruption | None:
    """The last of them, by Kubernetes' own condition. A pod that used more than it asked for is its own cause."""
    disruptions = [
        Disruption(
            time(condition, "lastTransitionTime"),
            f"pod {text(pod, 'metadata', 'name')}: {text(condition, 'message') or text(condition, 'reason')}",
        )
        for pod in pods
        for condition in items(pod, "status", "conditions")
        if text(condition, "type") == "DisruptionTarget" and text(condition, "status") == "True"
        if not _overuse(pod)
    ]
    return max(disruptions, key=lambda each: each.at.timestamp() if each.at is not None else math.inf, default=None)


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a pod or of one of its containers."""

    reason: str
    """A word that says more than that it failed; empty: there is none."""
    message: str
    still: bool
    """Whether it is dead now; else its container was started again."""
    at: datetime | None
    own: bool = False
    """Whether no disruption can have caused it."""
    taken: bool = False
    """Whether its pod was being taken away."""

    @property
    def weight(self) -> tuple[bool, bool, bool, bool, float]:
        """What explains most comes first: what no disruption caused, lack of memory, what is dead now, the earliest."""
        at = self.at.timestamp() if self.at is not None else 0.0
        return (not self.own, self.reason != "OOMKilled", self.taken, not self.still, at)


def deaths(pods: Sequence[View], memory_fields: Mapping[str, str]) -> list[Death]:
    """All deaths of pods and containers, what explains most first.

    `memory_fields`: where the memory limit of a container is set, by its name; that of programs by GENERATOR_CONTAINER.
    """
    lost = [each.at for pod in pods if (each := disruption([pod])) is not None and each.at is not None]
    known = [
        replace(death, own=death.own or _is_own(death, taken, lost), taken=taken is not None)
        for pod, taken in zip(pods, map(disruption, ([pod] for pod in pods)), strict=True)
        for death in _deaths(pod, memory_fields)
    ]
    return sorted(known, key=lambda death: death.weight)


def _is_own(death: Death, taken: Disruption | None, lost: Sequence[datetime]) -> bool:
    """Whether a death has nothing to do with the pods that the cluster took away at these times.

    A container that ran out of memory did so by itself, unless its own pod was being ended. Others that died in time
    before any pod was lost were not torn along; those that died after it may have been.
    """
    if death.at is None or (taken is not None and (taken.at is None or taken.at <= death.at)):
        return False
    if death.reason == "OOMKilled":
        return death.still or all(at < death.at for at in lost)
    return death.still and bool(lost) and death.at < min(lost)


def _overuse(pod: View) -> tuple[str, str] | None:
    """Container and resource of a pod that was evicted because it used more than it had asked for."""
    message = text(pod, "status", "message")
    if text(pod, "status", "reason") != "Evicted" or (match := _OVERUSE.search(message)) is None:
        return None
    return match["container"], match["resource"]


def _deaths(pod: View, memory_fields: Mapping[str, str]) -> Iterator[Death]:
    name = text(pod, "metadata", "name")
    if (overuse := _overuse(pod)) is not None:
        culprit, resource = overuse
        field = _memory_field(memory_fields, culprit) if resource == "memory" else ""
        remedy = f"; raise {field.replace('limits', 'requests')}, and the limit with it" if field else ""
        words = f"pod {name} was evicted, for it used more {resource} than it had asked for: "
        yield Death("Evicted", f"{words}{text(pod, 'status', 'message').strip()}{remedy}", True, None, own=True)
    elif (full := _FULL_VOLUME.search(text(pod, "status", "message"))) and (source := source_of(full["volume"])):
        remedy = "let it write less, or raise the operator's setting work_dir_size"
        words = f"{_program(source)} wrote more than {full['limit']}, and pod {name} was evicted; {remedy}"
        yield Death(_GENERATOR_FAILED, words, True, None, own=True)
    elif reason := text(pod, "status", "reason"):  # the pod as a whole: evicted, or its node was shut down
        yield Death(reason, f"pod {name}: {text(pod, 'status', 'message') or reason}", True, None)
    deleted = text(pod, "metadata", "deletionTimestamp")
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in items(pod, "status", field):
            for state in ("state", "lastState"):
                ended = mapping(container, state, "terminated")
                if ended and number(ended, "exitCode"):
                    called = text(container, "name")
                    where, source = _place(name, called), source_of(called)
                    if deleted and text(ended, "reason") != "OOMKilled":
                        where, source = f"pod {name} was deleted; container {called}", ""
                    yield _death(where, _memory_field(memory_fields, called), ended, state == "state", source)
                    break


def _place(pod: str, container: str) -> str:
    """A container in words."""
    where, source = f"pod {pod}, container {container}", source_of(container)
    return f"{_program(source)} ({where})" if source else where


def _program(source: str) -> str:
    return f"the program of source {source!r}"


def _memory_field(memory_fields: Mapping[str, str], container: str) -> str:
    return memory_fields.get(names.GENERATOR_CONTAINER if source_of(container) else container, "")


def _death(where: str, memory_field: str, ended: View, still: bool, source: str) -> Death:
    at, log = time(ended, "finishedAt"), text(ended, "message").strip()
    words = f"; its last words: {_end_of(log)}" if log else ""
    if text(ended, "reason") == "OOMKilled":
        remedy = f"; raise {memory_field}" if memory_field else ""
        return Death("OOMKilled", f"{where} needed more memory than it may have{remedy}{words}", still, at)
    reason = text(ended, "reason")
    what = f"{where} ended with exit code {number(ended, 'exitCode')}"
    if source:
        what = f"{what}; correct spec.sources[{source}].generator, or the program"
    unknown = _GENERATOR_FAILED if source else ""
    return Death(unknown if reason in ("Error", "Completed") else reason, f"{what}{words}", still, at)


def _end_of(log: str) -> str:
    """The end of a log, from the start of a line where one fits."""
    if len(log) <= _LOG_TAIL:
        return log
    end = log[-_LOG_TAIL:]
    return f"… {end.partition(chr(10))[2] or end}"
