"""The state machine of a run, as a table of situations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fovea_api.common import RunPolicy
from fovea_api.run import MAX_ATTEMPTS, AttemptOutcome, RetryRequest, RunResult, RunStatus
from fovea_operator.conditions import Assessment, progressing
from fovea_operator.objects import RAY_JOB, Key
from fovea_operator.runs.lifecycle import Situation, Step, advance, supersede
from fovea_operator.settings import Settings
from fovea_operator.workloads.pods import Disruption
from fovea_operator.workloads.workload import Child, ChildState

RUN = "r-0123456789"
START = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
NOW = START + timedelta(hours=1)
SETTINGS = Settings(retry_first_seconds=10, retry_max_seconds=60)


def child(number: int = 1, state: ChildState = ChildState.RUNNING, **more: Any) -> Child:
    return Child(Key(RAY_JOB, "ns", f"{RUN}-{number}"), f"uid-{number}", RUN, START, state, **more)


def taken(message: str = "pod p: node drained", seconds: float = 60) -> Disruption:
    """A pod that the cluster took away so many seconds ago."""
    return Disruption(NOW - timedelta(seconds=seconds), message)


def attempt(number: int = 1, outcome: str | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    ended = {"outcome": outcome, "endTime": NOW - timedelta(seconds=60), "reason": reason, "message": "why"}
    started = {"number": number, "child": f"{RUN}-{number}", "startTime": START}
    return started | (ended if outcome else {"reason": reason}) | more


def status(*attempts: dict[str, Any], phase: str | None = None, **result: Any) -> RunStatus:
    made = {"completedAt": NOW} | result if result else None
    return RunStatus.model_validate({"attempts": attempts, "phase": phase, "result": made})


def error(reason: str, retryable: bool = False, at: datetime = NOW) -> dict[str, Any]:
    return {"error": {"reason": reason, "message": "what was wrong", "retryable": retryable}, "completedAt": at}


def given(
    old: RunStatus,
    *children: Child,
    blocker: Assessment | None = None,
    now: datetime = NOW,
    retry: str = "",
    adopt: str = "",
    **policy: Any,
) -> Situation:
    return Situation(
        run=RUN,
        status=old,
        children=children,
        policy=RunPolicy.model_validate(policy),
        blocker=blocker,
        now=now,
        settings=SETTINGS,
        retry=retry,
        adopt=adopt,
        owner="trainingjob cells",
    )


def step(old: RunStatus, *children: Child, **more: Any) -> Step:
    return advance(given(old, *children, **more))


def outside(at: datetime = NOW) -> dict[str, Any]:
    """The result of an attempt that could not open its store."""
    wrong = {"reason": "AccessDenied", "message": "check the keys", "retryable": True, "recoverable": True}
    return {"error": wrong, "completedAt": at}


def blocked(count: int, seconds: float = 4, **more: Any) -> RunStatus:
    """So many attempts that an infrastructure fault has ended, the last one so many seconds ago."""
    ended = NOW - timedelta(seconds=seconds)
    more |= {"outcome": "Blocked", "reason": "AccessDenied", "endTime": ended}
    return status(*(attempt(at + 1, **more) for at in range(count)))


FAILED = child(state=ChildState.FAILED, reason="AppFailed", message="head died")
OPEN = status(attempt(), phase="Running")

SITUATIONS: dict[str, tuple[Situation, dict[str, Any]]] = {
    "a new run starts its first attempt": (
        given(status()),
        {"phase": "Pending", "start": 1, "outcomes": [None]},
    ),
    "what is missing holds it": (
        given(status(), blocker=progressing("SecretNotFound", "…")),
        {"phase": "Pending", "start": None, "reason": "SecretNotFound", "outcomes": []},
    ),
    "a child that is in no status is taken over": (
        given(status(), child()),
        {"phase": "Running", "start": None, "outcomes": [None]},
    ),
    "it runs": (given(OPEN, child()), {"phase": "Running", "start": None, "reason": "Running"}),
    "it waits in a queue, whose words may change": (
        given(OPEN, child(state=ChildState.QUEUED)),
        {"phase": "Queued", "requeue": None},
    ),
    "it gets no pods; why is to be found out": (
        given(OPEN, child(state=ChildState.STARTING)),
        {"phase": "Pending", "requeue": None},
    ),
    "its deadline comes before the next look": (
        given(OPEN, child(state=ChildState.STARTING), activeDeadline="3605s"),
        {"phase": "Pending", "requeue": 6.0},
    ),
    "a quota's words are reported": (
        given(OPEN, child(state=ChildState.STARTING, reason="FailedCreate", message="exceeded quota: team")),
        {"phase": "Pending", "reason": "FailedCreate", "message": "exceeded quota: team"},
    ),
    "a result ends it, whatever the child says": (
        given(status(attempt(), artifact="s3://b/"), child()),
        {"phase": "Succeeded", "outcomes": ["Succeeded"], "deleted": 0, "conditions": (True, False, False)},
    ),
    "a failed attempt is recorded first": (
        given(OPEN, FAILED),
        {"phase": "Pending", "start": None, "outcomes": ["Failed"], "deleted": 0},
    ),
    "then its child goes, before the next starts": (
        given(status(attempt(outcome="Failed", reason="AppFailed")), FAILED),
        {"phase": "Pending", "start": None, "reason": "Stopping", "deleted": 1},
    ),
    "the next attempt waits for its pause": (
        given(status(attempt(outcome="Failed", reason="AppFailed", endTime=NOW - timedelta(seconds=4)))),
        {"start": None, "reason": "Retrying", "requeue": 6.0},
    ),
    "then it starts": (
        given(status(attempt(outcome="Failed", reason="AppFailed"))),
        {"start": 2, "outcomes": ["Failed", None]},
    ),
    "retries are used up": (
        given(status(attempt(outcome="Failed", reason="AppFailed")), retries=0),
        {"phase": "Failed", "start": None, "reason": "AppFailed", "conditions": (False, False, True)},
    ),
    "preemption uses none up": (
        given(status(attempt(outcome="Preempted", reason="Preempted")), retries=0),
        {"start": 2},
    ),
    "a fault of the infrastructure is recorded": (
        given(status(attempt(), phase="Running", **outside()), FAILED, retries=0),
        {"phase": "Pending", "start": None, "outcomes": ["Blocked"]},
    ),
    "it waits until it is deleted": (
        given(blocked(1), retries=0),
        {"phase": "Pending", "reason": "AccessDenied", "requeue": 6.0, "conditions": (False, True, False)},
    ),
    "also where no status says what it was": (
        given(status(attempt(outcome="Blocked", endTime=NOW))),
        {"start": None, "reason": "Blocked"},
    ),
    "and goes on": (given(blocked(1, seconds=10), retries=0), {"start": 2, "outcomes": ["Blocked", None]}),
    "each look doubles the pause": (given(blocked(4), retries=0), {"start": None, "requeue": 76.0}),
    "to a quarter of an hour at most": (given(blocked(30), retries=0), {"start": None, "requeue": 896.0}),
    "many of them are no failure": (given(blocked(30, seconds=900), retries=0), {"start": 31}),
    "asked for, it looks at once": (given(blocked(9), retry="now"), {"start": 10}),
    "a store that may be taken over now is taken over at once": (
        given(blocked(9), adopt="c/n"),
        {"start": 10, "adopt": "c/n"},
    ),
    "one that could be taken over before is not looked for more often": (
        given(blocked(9, adopt="c/n"), adopt="c/n"),
        {"start": None, "phase": "Pending"},
    ),
    "another word is another chance": (given(blocked(9, adopt="c/n"), adopt="c/m"), {"start": 10}),
    "a withdrawn word is none": (given(blocked(9, adopt="c/n")), {"start": None}),
    "a failure waits for its pause, whatever may be adopted": (
        given(status(attempt(outcome="Failed", endTime=NOW)), adopt="c/n"),
        {"start": None},
    ),
    "asked for, a failure for good is tried again": (
        given(status(attempt(outcome="Failed", reason="X"), phase="Failed", **error("X")), retries=0, retry="now"),
        {"phase": "Pending", "start": 2},
    ),
    "asked for once, it is tried once": (
        given(
            status(attempt(1, outcome="Failed"), attempt(2, outcome="Failed", reason="X"), phase="Failed").model_copy(
                update={"retry": RetryRequest(value="now", attempt=1)}
            ),
            retries=0,
            retry="now",
        ),
        {"phase": "Failed", "start": None, "reason": "X"},
    ),
    "asked for again, it is tried again": (
        given(
            status(attempt(1, outcome="Failed"), attempt(2, outcome="Failed", reason="X"), phase="Failed").model_copy(
                update={"retry": RetryRequest(value="now", attempt=1)}
            ),
            retries=0,
            retry="again",
        ),
        {"phase": "Pending", "start": 3},
    ),
    "retries count anew from then on": (
        given(
            status(*(attempt(number, outcome="Failed", reason="X") for number in (1, 2, 3, 4, 5))).model_copy(
                update={"retry": RetryRequest(value="now", attempt=3)}
            ),
            retries=2,
            retry="now",
        ),
        {"phase": "Pending", "start": 6},
    ),
    "a request from before the run means nothing to it": (
        given(
            status(attempt(1, outcome="Failed", reason="X")).model_copy(
                update={"retry": RetryRequest(value="now", attempt=0)}
            ),
            retries=0,
            retry="now",
        ),
        {"phase": "Failed", "start": None},
    ),
    "preempted again and again, the pause grows": (
        given(
            status(
                attempt(1, outcome="Failed", reason="X"),
                *(
                    attempt(each, outcome="Preempted", endTime=NOW - timedelta(seconds=4), workedSeconds=9)
                    for each in (2, 3, 4)
                ),
            )
        ),
        {"start": None, "reason": "Retrying", "requeue": 36.0},
    ),
    "a lost node is preemption": (
        given(OPEN, replace(FAILED, disruption=taken("pod p: node drained")), retries=0),
        {"outcomes": ["Preempted"], "messages": ["the cluster took its pods away: pod p: node drained"]},
    ),
    "the loss of a pod is recorded while the others run": (
        given(OPEN, child(disruption=taken("pod p: node drained", seconds=30))),
        {"phase": "Running", "messages": ["pod p: node drained"], "disrupted": [NOW - timedelta(seconds=30)]},
    ),
    "preemption is remembered after the pods were deleted": (
        given(
            status(attempt(message="pod p: node drained", disruptedAt=NOW - timedelta(seconds=60))), FAILED, retries=0
        ),
        {"outcomes": ["Preempted"], "messages": ["the cluster took its pods away: pod p: node drained"]},
    ),
    "a child that somebody deleted counts as a failure": (
        given(OPEN, retries=0),
        {"phase": "Failed", "reason": "ChildVanished", "outcomes": ["Failed"]},
    ),
    "bad input fails at once, though the child still runs": (
        given(status(attempt(), **error("InvalidInput")), child()),
        {"phase": "Failed", "reason": "InvalidInput", "message": "what was wrong", "outcomes": ["Failed"]},
    ),
    "an error that may pass is tried again": (
        given(status(attempt(), **error("StoreUnreachable", retryable=True)), FAILED),
        {"phase": "Pending", "outcomes": ["Failed"]},
    ),
    "an error of an earlier attempt counts no more": (
        given(
            status(
                attempt(1, outcome="Failed", reason="X"),
                attempt(2, startTime=NOW - timedelta(seconds=5)),
                **error("InvalidInput", at=NOW - timedelta(seconds=60)),
            ),
            child(2),
        ),
        {"phase": "Running", "outcomes": ["Failed", None]},
    ),
    "nor does it where the clock of its node was ahead": (
        given(
            status(attempt(1, outcome="Failed", reason="X"), attempt(2), **error("InvalidInput"), **{"attempt": 1}),
            child(2),
        ),
        {"phase": "Running", "outcomes": ["Failed", None]},
    ),
    "its own error counts where the clock of its node was behind": (
        given(status(attempt(), **error("InvalidInput", at=START - timedelta(hours=2)), **{"attempt": 1}), child()),
        {"phase": "Failed", "reason": "InvalidInput"},
    ),
    "its child has to end first, for so long as it may take to end": (
        given(status(attempt(), **error("StoreUnreachable", retryable=True)), child()),
        {"phase": "Running", "reason": "Stopping", "outcomes": [None], "deleted": 0, "requeue": 120.0},
    ),
    "an end without a result is a failure": (
        given(OPEN, child(state=ChildState.SUCCEEDED)),
        {"outcomes": ["Failed"]},
    ),
    "suspending is recorded first": (
        given(OPEN, child(), suspend=True),
        {"phase": "Running", "reason": "Suspending", "deleted": 0, "outcomes": [None], "requeue": 3.0},
    ),
    "then the child is stopped": (
        given(status(attempt(reason="Suspended")), child(), suspend=True),
        {"phase": "Running", "reason": "Suspending", "deleted": 1, "outcomes": [None]},
    ),
    "it is asked only once": (
        given(status(attempt(reason="Suspended")), child(deleting=True), suspend=True),
        {"deleted": 0},
    ),
    "resumed while it was stopping: no retry is used up": (
        given(status(attempt(reason="Suspended")), retries=0),
        {"outcomes": ["Suspended", None], "start": 2},
    ),
    "suspended": (
        given(OPEN, suspend=True),
        {"phase": "Suspended", "reason": "Suspended", "outcomes": ["Suspended"], "conditions": (False, False, False)},
    ),
    "resumed": (
        given(status(attempt(outcome="Suspended", reason="Suspended"), phase="Suspended")),
        {"start": 2, "phase": "Pending"},
    ),
    "the deadline stops the child": (
        given(status(attempt(reason="DeadlineExceeded"), phase="Running"), child(), activeDeadline="30m"),
        {"deleted": 1, "reason": "Stopping", "outcomes": [None]},
    ),
    "past the deadline": (
        given(OPEN, activeDeadline="30m"),
        {"phase": "Failed", "reason": "DeadlineExceeded", "outcomes": ["Failed"]},
    ),
    "a higher deadline lets it go on": (
        given(status(attempt(outcome="Failed", reason="DeadlineExceeded")), activeDeadline="3h"),
        {"start": 2},
    ),
    "a higher deadline lets it go on without retries too": (
        given(status(attempt(outcome="Failed", reason="DeadlineExceeded")), activeDeadline="3h", retries=0),
        {"start": 2},
    ),
    "time in a queue counts toward no deadline": (
        given(status(attempt(), phase="Queued"), child(), activeDeadline="30m"),
        {"phase": "Running", "deleted": 0, "requeue": 1801.0},
    ),
    "nor does that of an attempt that ended in its queue": (
        given(status(attempt(), phase="Queued"), activeDeadline="30m"),
        {"phase": "Pending", "outcomes": ["Failed"], "worked": [0]},
    ),
    "what it worked before a queue took its place back counts": (
        given(OPEN, child(state=ChildState.QUEUED, started=START), activeDeadline="30m"),
        {"phase": "Queued", "worked": [3600], "deleted": 0},
    ),
    "up to when the queue took it, where that is known": (
        given(OPEN, child(state=ChildState.QUEUED, queued_since=START + timedelta(minutes=10)), activeDeadline="30m"),
        {"phase": "Queued", "worked": [600], "deleted": 0},
    ),
    "what never left its queue has not worked": (
        given(OPEN, child(state=ChildState.QUEUED), activeDeadline="30m"),
        {"phase": "Queued", "worked": [0]},
    ),
    "from when the queue let it go, where that is known": (
        given(
            status(attempt(workedSeconds=1200), phase="Queued"),
            child(started=NOW - timedelta(minutes=5)),
            activeDeadline="30m",
        ),
        {"phase": "Running", "worked": [1200], "requeue": 301.0},
    ),
    "not from when it started before the queue took it": (
        given(status(attempt(workedSeconds=1200), phase="Queued"), child(started=START), activeDeadline="30m"),
        {"phase": "Running", "worked": [1200], "requeue": 601.0},
    ),
    "time in a queue that nobody saw does not count": (
        given(OPEN, child(started=NOW - timedelta(minutes=5)), activeDeadline="30m"),
        {"phase": "Running", "deleted": 0, "requeue": 1501.0},
    ),
    "a start that is a little late is none": (
        given(OPEN, child(started=START + timedelta(seconds=60)), activeDeadline="61m"),
        {"phase": "Running", "requeue": 61.0},
    ),
    "and goes on to count when it is admitted again": (
        given(status(attempt(workedSeconds=1200), phase="Queued"), child(), activeDeadline="30m"),
        {"phase": "Running", "worked": [1200], "requeue": 601.0},
    ),
    "until it is too much; first why it is deleted": (
        given(status(attempt(workedSeconds=1), phase="Running"), child(), activeDeadline="3601s"),
        {"reason": "Stopping", "deleted": 0, "reasons": ["DeadlineExceeded"]},
    ),
    "a deadline raised before that lets it run": (
        given(status(attempt(reason="DeadlineExceeded"), phase="Running"), child(), activeDeadline="2h"),
        {"reason": "Running", "deleted": 0, "reasons": [None]},
    ),
    "a deadline raised while it stops is waited for": (
        given(status(attempt(reason="DeadlineExceeded"), phase="Running"), child(deleting=True), activeDeadline="2h"),
        {"reason": "Stopping", "deleted": 0, "outcomes": [None]},
    ),
    "and the next attempt goes on without a retry": (
        given(status(attempt(reason="DeadlineExceeded"), phase="Running"), activeDeadline="2h", retries=0),
        {"start": 2, "outcomes": ["Failed", None], "reasons": ["DeadlineExceeded", None]},
    ),
    "also where it was taken away": (
        given(status(attempt(reason="DeadlineExceeded"), phase="Running"), retries=0),
        {"start": 2, "outcomes": ["Failed", None]},
    ),
    "what waits for somebody is stalled": (
        given(OPEN, child(state=ChildState.QUEUED, stalled=True, reason="WorkloadDeactivated", message="by hand")),
        {"phase": "Queued", "reason": "WorkloadDeactivated", "conditions": (False, False, True)},
    ),
    "a deadline ends nothing that waits in a queue, and needs no look": (
        given(
            status(attempt(workedSeconds=3600), phase="Queued"), child(state=ChildState.QUEUED), activeDeadline="30m"
        ),
        {"phase": "Queued", "deleted": 0, "requeue": None},
    ),
    "an end adds up what it worked": (
        given(status(attempt(workedSeconds=1200), phase="Running"), FAILED),
        {"outcomes": ["Failed"], "worked": [4800]},
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name: str) -> None:
    situation, expected = SITUATIONS[name]
    made = advance(situation)
    found = {
        "phase": made.status.phase,
        "start": made.start,
        "reason": made.assessment.reason,
        "message": made.assessment.message,
        "conditions": tuple(condition.status == "True" for condition in made.status.conditions),
        "outcomes": [each.outcome and each.outcome.value for each in made.status.attempts],
        "messages": [each.message for each in made.status.attempts],
        "worked": [each.worked_seconds for each in made.status.attempts],
        "reasons": [each.reason for each in made.status.attempts],
        "disrupted": [each.disrupted_at for each in made.status.attempts],
        "adopt": made.status.attempts[-1].adopt if made.status.attempts else None,
        "deleted": len(made.delete),
        "requeue": made.requeue_after,
    }
    assert {key: found[key] for key in expected} == expected


def test_a_step_repeated_changes_nothing() -> None:
    first = step(OPEN, child())
    later = NOW + timedelta(minutes=5)
    assert step(first.status, child(), now=later).status == first.status
    assert step(first.status, child(), now=later).notes == ()


def test_a_run_that_is_preempted_without_end_stays_on_record_and_keeps_its_failures() -> None:
    failures = [attempt(each, outcome="Failed", reason="AppFailed") for each in (1, 3)]
    preempted = [
        attempt(each, outcome="Preempted", reason="Preempted", workedSeconds=1000)
        for each in (2, *range(4, MAX_ATTEMPTS + 1))
    ]
    old = status(*sorted(failures + preempted, key=lambda each: each["number"]))
    made = step(old)
    assert made.start == MAX_ATTEMPTS + 1
    assert [each.number for each in made.status.attempts] == [1, *range(3, MAX_ATTEMPTS + 2)]
    assert sum(each.worked_seconds or 0 for each in made.status.attempts) == 1000 * len(preempted)
    ended = RunStatus(attempts=(*made.status.attempts[:-1], old.attempts[0].model_copy(update={"number": made.start})))
    assert step(ended, retries=3).start == MAX_ATTEMPTS + 2
    assert step(ended, retries=2).status.phase == "Failed"
    assert len(step(old, child(MAX_ATTEMPTS + 1)).status.attempts) == MAX_ATTEMPTS, "nobody wrote that it started"


def test_a_superseded_run_stops_and_a_finished_one_stays_as_it_ended() -> None:
    stopped = supersede(OPEN, [child()], "r-new", NOW)
    assert (stopped.status.phase, len(stopped.delete)) == ("Suspended", 1)
    ended = RunStatus.model_validate({"phase": "Succeeded", "result": RunResult(completed_at=NOW).to_dict()})
    assert supersede(ended, [child()], "r-new", NOW).status.phase == "Succeeded"


def test_what_was_at_work_at_the_deadline_is_named() -> None:
    words = "the program of source 'simulated' is running"
    stopping = step(OPEN, child(reason="Generating", message=words), activeDeadline="30m")
    assert stopping.assessment.reason == "Stopping"
    made = step(stopping.status, activeDeadline="30m")
    assert (made.status.phase, made.assessment.reason) == ("Failed", "DeadlineExceeded")
    assert f"longer than spec.runPolicy.activeDeadline allowed: {words}; raise" in made.assessment.message


def test_failure_message_names_the_remedy() -> None:
    made = step(status(attempt(outcome="Failed", reason="AppFailed")), retries=0)
    assert "raise spec.runPolicy.retries" in made.assessment.message


def test_what_is_waited_for_says_how_to_go_on_at_once() -> None:
    waits = step(blocked(1)).assessment.message
    assert "why; it goes on from the last checkpoint at 21:00:06 UTC" in waits
    assert waits.endswith("at once by kubectl annotate trainingjob cells fovea.dev/retry=now")
    assert (
        "fovea.dev/retry=now-1 --overwrite"
        in step(
            blocked(1).model_copy(update={"retry": RetryRequest(value="now", attempt=0)}), retry="now"
        ).assessment.message
    )


def test_a_request_is_followed_once_and_stays_on_record() -> None:
    first = step(blocked(2), retry="now")
    assert first.status.retry == RetryRequest(value="now", attempt=2)
    again = step(first.status, child(3), retry="now")
    assert again.status.retry == first.status.retry
    withdrawn = step(first.status, child(3))
    assert withdrawn.status.retry == first.status.retry
    assert step(status(), retry="now").status.retry == RetryRequest(value="now", attempt=0)


def test_a_superseded_run_says_so_in_its_attempt_and_its_conditions() -> None:
    made = supersede(OPEN, (child(),), "r-new", NOW)
    (ended,) = made.status.attempts
    assert (ended.outcome, ended.reason, ended.message) == (
        AttemptOutcome.SUSPENDED,
        "Superseded",
        "run r-new took its place",
    )
    assert [each.key.name for each in made.delete] == [f"{RUN}-1"]
    assert {each.reason for each in made.status.conditions if each.type == "Ready"} == {"Superseded"}
    assert supersede(OPEN, (child(deleting=True),), "r-new", NOW).delete == ()


def test_a_runs_conditions_are_about_its_one_generation() -> None:
    made = step(status())
    assert {made.status.observed_generation, *(each.observed_generation for each in made.status.conditions)} == {1}
