"""What pods report: what keeps one from running, how one was taken away, what ended its containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fovea_operator.objects import View, items, mapping, number, text

_LOG_TAIL = 1000
"""Characters at the end of a dead container's log that are reported."""


def waits_for(pod: View) -> tuple[str, str] | None:
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


def disruption(pod: View) -> str:
    """How the cluster took a pod away; empty: it did not."""
    for condition in items(pod, "status", "conditions"):
        if text(condition, "type") == "DisruptionTarget" and text(condition, "status") == "True":
            return f"pod {text(pod, 'metadata', 'name')}: {text(condition, 'message') or text(condition, 'reason')}"
    return ""


@dataclass(frozen=True, slots=True)
class Death:
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


def deaths(pods: Sequence[View], memory_fields: Mapping[str, str]) -> list[Death]:
    """All deaths of pods and containers, what explains most first.

    `memory_fields`: where the memory limit of a container is set, by its name.
    """
    return sorted((death for pod in pods for death in _deaths(pod, memory_fields)), key=lambda death: death.weight)


def _deaths(pod: View, memory_fields: Mapping[str, str]) -> Iterator[Death]:
    name = text(pod, "metadata", "name")
    if reason := text(pod, "status", "reason"):  # the pod as a whole: evicted, or its node was shut down
        yield Death(reason, f"pod {name}: {text(pod, 'status', 'message') or reason}", True, "")
    deleted = text(pod, "metadata", "deletionTimestamp")
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in items(pod, "status", field):
            for state in ("state", "lastState"):
                ended = mapping(container, state, "terminated")
                if ended and number(ended, "exitCode"):
                    where = f"pod {name}, container {text(container, 'name')}"
                    if deleted and text(ended, "reason") != "OOMKilled":
                        where = f"pod {name} was deleted; container {text(container, 'name')}"
                    yield _death(where, memory_fields.get(text(container, "name")), ended, state == "state")
                    break


def _death(where: str, memory_field: str | None, ended: View, still: bool) -> Death:
    at, log = text(ended, "finishedAt"), text(ended, "message").strip()
    words = f"; its last words: {_end_of(log)}" if log else ""
    if text(ended, "reason") == "OOMKilled":
        remedy = f"; raise {memory_field}" if memory_field else ""
        return Death("OOMKilled", f"{where} needed more memory than it may have{remedy}{words}", still, at)
    reason = text(ended, "reason")
    what = f"{where} ended with exit code {number(ended, 'exitCode')}"
    return Death("" if reason in ("Error", "Completed") else reason, f"{what}{words}", still, at)


def _end_of(log: str) -> str:
    """The end of a log, from the start of a line where one fits."""
    if len(log) <= _LOG_TAIL:
        return log
    end = log[-_LOG_TAIL:]
    return f"… {end.partition(chr(10))[2] or end}"
