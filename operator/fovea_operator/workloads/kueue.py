"""What Kueue's Workload reports about the job that it stands for."""

from __future__ import annotations

from datetime import datetime

from fovea_operator.objects import View, flag, items, mapping, text, time
from fovea_operator.workloads.workload import ChildState, State

DEACTIVATED = "WorkloadDeactivated"
_REMEDY = "to queue it again set spec.runPolicy.suspend to true, and then to false"
"""Kueue 0.17 takes no notice of `spec.active` of a Workload that it has deactivated itself, as for a rejected check."""


def admission(workload: View) -> State:
    """What a job waits for before Kueue lets it start, in Kueue's words; without words where it has said nothing."""
    name = text(workload, "metadata", "name")
    evicted, reserved = _condition(workload, "Evicted"), _condition(workload, "QuotaReserved")
    if "active" in mapping(workload, "spec") and not flag(workload, "spec", "active"):
        why = text(evicted, "message") or "somebody set its spec.active to false"
        return State(ChildState.QUEUED, DEACTIVATED, f"Workload {name} is deactivated: {why}; {_REMEDY}")
    if text(reserved, "status") != "True":
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
    return time(evicted, "lastTransitionTime") if text(evicted, "status") == "True" else None


def _condition(workload: View, type: str) -> View:
    return next((each for each in items(workload, "status", "conditions") if text(each, "type") == type), {})
