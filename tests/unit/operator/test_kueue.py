"""What Kueue's Workload reports. The objects have the shape of kueue.x-k8s.io/v1beta2."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from fovea_operator.objects import JsonObject
from fovea_operator.workloads.kueue import admission, current, dropped, queued_since

AT = "2026-11-24T20:00:00Z"


def workload(
    conditions: dict[str, tuple[str, str]], active: bool | None = True, **checks: tuple[str, str]
) -> JsonObject:
    status: Any = {
        "conditions": [
            {"type": type, "status": status, "message": message, "lastTransitionTime": AT}
            for type, (status, message) in conditions.items()
        ],
        "admissionChecks": [
            {"name": name, "state": state, "message": message} for name, (state, message) in checks.items()
        ],
    }
    spec: Any = {} if active is None else {"active": active}
    return {"metadata": {"name": "rayjob-r-1"}, "spec": spec, "status": status}


REMEDY = "to queue it again set spec.runPolicy.suspend to true, and then to false"
RESERVED = {"QuotaReserved": ("True", "quota reserved")}


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (workload({}), "WaitingForQuota", ""),
        (workload({"QuotaReserved": ("False", "2 cpu short")}, active=None), "WaitingForQuota", "2 cpu short"),
        (workload(RESERVED), "WaitingForQuota", ""),
        (
            workload(RESERVED, first=("Ready", "fine"), second=("Pending", "no node yet")),
            "WaitingForAdmissionCheck",
            "Kueue's admission check second is Pending: no node yet",
        ),
        (
            workload(RESERVED, only=("Retry", "")),
            "WaitingForAdmissionCheck",
            "Kueue's admission check only is Retry",
        ),
        (
            workload({"QuotaReserved": ("False", "2 cpu short")}, only=("Pending", "")),
            "WaitingForQuota",
            "2 cpu short",
        ),
        (
            workload({"Evicted": ("True", "rejected by check budget"), **RESERVED}, active=False),
            "WorkloadDeactivated",
            f"Workload rayjob-r-1 is deactivated: rejected by check budget; {REMEDY}",
        ),
        (
            workload({}, active=False),
            "WorkloadDeactivated",
            f"Workload rayjob-r-1 is deactivated: somebody set its spec.active to false; {REMEDY}",
        ),
    ],
)
def test_what_a_job_waits_for(value: JsonObject, reason: str, message: str) -> None:
    found = admission(value)
    assert (found.reason, found.message) == (reason, message)


HELD = RESERVED
REPLACED = RESERVED | {"Finished": ("True", "replaced by a larger slice")}
TAKEN = {"Evicted": ("True", "preempted by team b"), "Finished": ("True", "out of sync")}
WAITS = {"QuotaReserved": ("False", "1 cpu short")}
NOT_STARTED = {"Finished": ("True", "conflict with the node selector")}


@pytest.mark.parametrize(
    ("slices", "queued", "why"),
    [
        ([], True, ""),
        ([HELD], False, ""),
        ([HELD, WAITS], False, ""),
        ([REPLACED, HELD], False, ""),
        ([REPLACED, WAITS], False, ""),  # between two requests of Kueue's
        ([TAKEN, WAITS], False, "preempted by team b"),
        ([REPLACED, TAKEN, WAITS], False, "preempted by team b"),
        ([TAKEN, HELD], False, ""),
        ([TAKEN], False, ""),  # the job has ended, and is seen to be at work yet
        ([REPLACED, RESERVED | {"Evicted": ("True", "preempted")}], False, ""),
        ([REPLACED, WAITS], True, ""),
        ([REPLACED, NOT_STARTED], True, "conflict with the node selector"),
    ],
)
def test_for_which_jobs_kueue_does_no_more(slices: list[dict[str, tuple[str, str]]], queued: bool, why: str) -> None:
    assert dropped([workload(each) for each in slices], queued) == why


def test_of_the_slices_of_an_elastic_job_the_newest_that_is_not_finished_speaks() -> None:
    assert current([]) == {}
    assert current([workload(REPLACED)]) == {}
    assert current([workload(REPLACED), workload(WAITS)]) == workload(WAITS)
    assert current([workload(HELD), workload(WAITS)]) == workload(WAITS)


def test_when_its_quota_was_taken_away() -> None:
    assert queued_since(workload({})) is None
    assert queued_since(workload({"Evicted": ("False", "")})) is None
    assert queued_since(workload({"Evicted": ("True", "preempted")})) == datetime(2026, 11, 24, 20, tzinfo=UTC)
