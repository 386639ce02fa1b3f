"""What Kueue's Workloads report about the job that they stand for.

An elastic job has one more for each time that it grew: that one replaces the last, which is then finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from fovea_api import names

from fovea_operator.objects import View, flag, items, mapping, text, time
from fovea_operator.workloads.workload import ChildState, State

DEACTIVATED = "WorkloadDeactivated"
_REMEDY = "to queue it again set spec.runPolicy.suspend to true, and then to false"
"""Kueue 0.17 takes no notice of `spec.active` of a Workload that it has deactivated itself, as for a rejected check."""


def is_elastic_in_queue(job: View) -> bool:
    """Whether a job is an elastic one to Kueue: it grows and shrinks without being suspended."""
    queued = text(mapping(job, "metadata", "labels"), names.LABEL_QUEUE)
    return bool(queued) and flag(job, "spec", "rayClusterSpec", "enableInTreeAutoscaling")


def current(workloads: Sequence[View]) -> View:
    """Of a job's Workloads, the oldest first, the one that says what it waits for; empty: there is none."""
    return next((each for each in reversed(workloads) if not _is(each, "Finished")), {})


def dropped(workloads: Sequence[View], queued: bool) -> str:
    """Why Kueue does no more for a job that it has admitted; empty: it does. `queued`: its pods are gone.

    Kueue (0.17) does not suspend an elastic job whose quota it takes while the job waits to grow, and may not be able
    to start one again that had grown.
    """
    ended = [each for each in workloads if _is(each, "Finished")]
    waiting = [each for each in workloads if each not in ended]
    if not ended or bool(waiting) is queued or any(_is(each, "QuotaReserved") for each in waiting):
        return ""
    if queued:
        return text(_condition(ended[-1], "Finished"), "message")
    return text(_condition(ended[-1], "Evicted"), "message") if _is(ended[-1], "Evicted") else ""


def admission(workload: View) -> State:
    """What a job waits for before Kueue lets it start, in Kueue's words; without words where it has said nothing."""
    name = text(workload, "metadata", "name")
    evicted, reserved = _condition(workload, "Evicted"), _condition(workload, "QuotaReserved")
    if "active" in mapping(workload, "spec") and not flag(workload, "spec", "active"):
        why = text(evicted, "message") or "somebody set its spec.active to false"
        return State(ChildState.QUEUED, DEACTIVATED, f"Workload {name} is deactivated: {why}; {_REMEDY}")
    if not _is(workload, "QuotaReserved"):
        return State(ChildState.QUEUED, "WaitingForQuota", text(reserved, "message"))
    for check in items(workload, "status", "admissionChecks"):
        if (state := text(check, "state")) != "Ready":
            words = f": {text(check, 'message')}" if text(check, "message") else ""
            what = f"Kueue's admission check {text(check, 'name')} is {state}{words}"
            return State(ChildState.QUEUED, "WaitingForAdmissionCheck", what)
    return State(ChildState.QUEUED, "WaitingForQuota", "")


def queued_since(workload: View) -> datetime | None:
    """When Kueue last took a job's quota away; None where it never did."""
    evicted = _condition(workload, "Evicted")
    return time(evicted, "lastTransitionTime") if _is(workload, "Evicted") else None


def _is(workload: View, type: str) -> bool:
    return text(_condition(workload, type), "status") == "True"


def _condition(workload: View, type: str) -> View:
    return next((each for each in items(workload, "status", "conditions") if text(each, "type") == type), {})
