"""How attempts end: hangs, pods that the cluster takes away, memory, corrected specs, an operator that dies between."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fovea_api.common import RunPolicy
from fovea_api.run import Attempt, RunStatus
from fovea_operator.objects import JOB, RAY_JOB, Key
from fovea_operator.runs.lifecycle import Situation, Step, advance
from fovea_operator.settings import Settings
from fovea_operator.workloads.job import JobWorkload
from fovea_operator.workloads.pods import Disruption, disruption
from fovea_operator.workloads.rayjob import RayJobWorkload
from fovea_operator.workloads.workload import Child, ChildState, read_child

RUN = "r-0123456789"
START = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
SETTINGS = Settings()
RESULT = {"artifact": "s3://b/", "digest": f"sha256-{'b' * 64}"}
LOST = {"error": {"reason": "StoreUnavailable", "message": "no answer", "retryable": True}}
BAD = {"error": {"reason": "BadImage", "message": "a.jpg", "retryable": False}}


class World:
    """One run and its children; the clock is set by hand."""

    def __init__(self, pods: str = "one", **policy: Any) -> None:
        self.status = RunStatus()
        self.children: dict[int, Child] = {}
        self.pods = pods
        self.now = START
        self.policy = policy
        self.notes: list[str] = []

    def step(self, minutes: float = 0, record: bool = True) -> Step:
        """One reconcile after so many minutes. `record`: whether its status is written; else the operator dies."""
        self.now += timedelta(minutes=minutes)
        made = advance(
            Situation(
                run=RUN,
                status=self.status,
                children=tuple(self.children.values()),
                policy=RunPolicy.model_validate(self.policy),
                now=self.now,
                settings=SETTINGS,
                pods_digest=self.pods,
            )
        )
        for child in made.delete:
            del self.children[child.attempt]
        if made.start is not None:
            key = Key(RAY_JOB, "ns", f"{RUN}-{made.start}")
            child = Child(key, f"uid-{made.start}", RUN, self.now, ChildState.RUNNING, pods_digest=self.pods)
            self.children[made.start] = child
        if record:
            self.status = made.status.model_copy(update={"result": self.status.result})
            self.notes += [note.reason for note in made.notes]
        return made

    def child(self, number: int = 1, **changes: Any) -> None:
        self.children[number] = replace(self.children[number], **changes)

    def reports(self, result: dict[str, Any], attempt: int = 1) -> None:
        value = self.status.to_dict() | {"result": {"completedAt": self.now, "attempt": attempt, **result}}
        self.status = RunStatus.model_validate(value)

    def fails(self, reason: str, number: int = 1, message: str = "why") -> Step:
        """The attempt's child fails, and then is deleted."""
        self.child(number, state=ChildState.FAILED, reason=reason, message=message)
        self.step(1)
        self.step()
        return self.step(10)

    def attempts(self) -> list[tuple[int, str | None, str | None]]:
        return [(each.number, each.outcome and each.outcome.value, each.reason) for each in self.status.attempts]


def started(**more: Any) -> World:
    world = World(**more)
    world.step()
    return world


# --- A child that goes on after its result ---------------------------------------------------------------------------


@pytest.mark.parametrize(("result", "phase"), [(RESULT, "Succeeded"), (BAD, "Failed")])
def test_a_child_that_hangs_after_its_end_is_stopped_and_that_is_said(result: dict[str, Any], phase: str) -> None:
    world = started()
    world.reports(result)
    made = world.step()
    assert (made.status.phase, made.requeue_after) == (phase, SETTINGS.exit_grace_seconds)
    world.step(1)
    assert 1 in world.children, "it may end by itself"
    world.step(1.1)
    world.step()
    assert not world.children
    assert world.status.phase == phase
    assert world.notes.count("AttemptStopped") == 1
    (attempt,) = world.status.attempts
    assert "did not end" in (attempt.message or "")
    assert attempt.reason == ("DidNotExit" if phase == "Succeeded" else "BadImage")
    again = world.step(60)
    assert (again.status, again.notes) == (world.status.model_copy(update={"result": None}), ())


def test_a_child_that_ends_in_time_is_left_to_its_time_to_live() -> None:
    world = started()
    world.reports(RESULT)
    world.step()
    world.child(state=ChildState.SUCCEEDED)
    assert world.step(60).delete == ()
    assert world.status.attempts[0].message is None


def test_a_child_that_hangs_after_an_error_gives_way_to_the_next_attempt() -> None:
    world = started()
    world.reports(LOST)
    assert world.step().requeue_after == SETTINGS.exit_grace_seconds
    assert world.step(1).start is None
    world.step(1.1)
    assert world.attempts() == [(1, "Failed", "StoreUnavailable")]
    world.step()
    assert not world.children
    assert world.step(1).start == 2


def test_what_pods_reported_that_a_queue_took_away_does_not_stop_those_that_follow() -> None:
    world = started()
    world.now += timedelta(minutes=1)
    world.reports(LOST)
    world.step()
    world.child(state=ChildState.QUEUED)
    assert world.step(30).status.phase == "Queued"
    world.child(state=ChildState.RUNNING)
    world.step(30)
    assert world.step(30).status.phase == "Running"
    assert world.attempts() == [(1, None, None)]


# --- Pods that the cluster takes away --------------------------------------------------------------------------------

RAY_POD = {"ray.io/node-type": "worker"}


def pod(name: str, *states: dict[str, Any], taken: str = "", reason: str = "", message: str = "") -> dict[str, Any]:
    """A pod of a training whose containers ended so; `taken`: when the cluster took it away, as HH:MM."""
    at = f"2026-11-24T{taken}:00Z"
    condition = {"type": "DisruptionTarget", "status": "True", "message": "drained", "lastTransitionTime": at}
    containers = [{"name": "ray-worker", "state": {"terminated": state}} for state in states]
    status: dict[str, Any] = {"containerStatuses": containers, "reason": reason, "message": message}
    if taken:
        status["conditions"] = [condition]
    return {"metadata": {"name": name, "labels": RAY_POD}, "status": status}


def ended(at: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "finishedAt": f"2026-11-24T{at}:00Z"}


OOM = "OOMKilled"
NODE = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 4Ki. "
OVERUSE = f"{NODE}Container ray-worker was using 3Gi, request is 0, has larger consumption of memory. "
PODS: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    # the pods of an attempt that failed at 22:00, its outcome, and words of its message
    "a drain tore it along": (
        [pod("a", ended("21:59", 143), taken="21:59"), pod("b", ended("22:00"))],
        "Preempted",
        "a:",
    ),
    "one pod ran out of memory after another was drained": (
        [pod("a", ended("21:55", 143), taken="21:55"), pod("b", ended("22:00", 137, OOM))],
        "Failed",
        "pod b, container ray-worker needed more memory",
    ),
    "it failed hours after a drain that it had survived": (
        [pod("a", ended("20:10", 143), taken="20:10"), pod("b", ended("22:00", 3))],
        "Failed",
        "exit code 3",
    ),
    "it had failed before a pod was drained": (
        [pod("a", ended("21:58", 143), taken="21:58"), pod("b", ended("21:57", 3))],
        "Failed",
        "exit code 3",
    ),
    "a drained pod was killed for memory while it ended": (
        [pod("a", ended("21:59", 137, OOM), taken="21:58")],
        "Preempted",
        "a:",
    ),
    "the node evicted the pod that used more than it asked for": (
        [pod("a", taken="21:59", reason="Evicted", message=OVERUSE)],
        "Failed",
        "raise spec.compute.resources.requests.memory",
    ),
    "the node evicted a pod that kept to what it asked for": (
        [pod("a", taken="21:59", reason="Evicted", message=NODE)],
        "Preempted",
        "a:",
    ),
}


@pytest.mark.parametrize("name", PODS)
def test_what_ended_an_attempt_is_known_by_pod_and_time(name: str) -> None:
    pods, outcome, words = PODS[name]
    metadata = {"name": f"{RUN}-1", "namespace": "ns", "labels": {"fovea.dev/run": RUN}}
    status = {"jobDeploymentStatus": "Failed", "endTime": "2026-11-24T22:00:00Z"}
    child = read_child(RayJobWorkload(), {"metadata": metadata, "status": status}, (), pods)
    world = started()
    world.children[1] = replace(child, created=START)
    world.step(121)
    (attempt,) = world.status.attempts
    assert attempt.outcome is not None
    assert (attempt.outcome.value, words in (attempt.message or "")) == (outcome, True), attempt.message


def test_an_eviction_for_using_too_much_excuses_no_later_failure() -> None:
    assert disruption([pod("a", taken="21:59", reason="Evicted", message=OVERUSE)]) is None
    assert disruption([pod("a", taken="21:59", reason="Evicted", message=NODE)]) is not None


def test_when_a_job_ended_is_read_from_its_condition() -> None:
    condition = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-11-24T22:00:00Z"}
    value = {"metadata": {"name": f"{RUN}-1"}, "status": {"conditions": [condition]}}
    assert read_child(JobWorkload(), value).ended_at == datetime(2026, 11, 24, 22, tzinfo=UTC)
    assert JOB.name == "Job"


def taken_away(world: World, number: int, minutes: float) -> None:
    """The cluster takes the attempt's pods away after it has worked so long; then the pause passes."""
    at = world.now + timedelta(minutes=minutes)
    world.child(number, state=ChildState.FAILED, disruption=Disruption(at, "pod p: drained"))
    world.step(minutes)
    world.step()
    world.step(10)


def test_an_attempt_that_is_taken_away_again_and_again_before_a_checkpoint_ends_the_run() -> None:
    world = started(retries=0)
    for number in range(1, 11):
        assert world.status.phase != "Failed", number
        taken_away(world, number, 1)
    assert world.status.phase == "Failed"
    message = world.status.conditions[0].message
    assert "10 attempts in a row" in message
    assert "drained" in message
    world.pods = "elsewhere"
    world.step()
    assert world.step().start == 11


def test_preemptions_between_which_the_training_gets_on_have_no_limit() -> None:
    world = started(retries=0)
    for number in range(1, 25):
        taken_away(world, number, 6)
    assert world.status.phase != "Failed"


# --- Corrected specs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [ChildState.STARTING, ChildState.QUEUED])
def test_a_corrected_spec_frees_an_attempt_that_has_not_begun_and_uses_no_retry(state: ChildState) -> None:
    world = started(retries=0)
    world.child(state=state, reason="ErrImagePull")
    world.step(1)
    assert 1 in world.children
    world.pods = "corrected"
    world.step(1)
    assert world.attempts() == [(1, "Suspended", "SpecChanged")]
    world.step()
    assert not world.children
    assert world.step().start == 2
    world.child(2, state=ChildState.RUNNING)
    assert world.step(1).status.phase == "Running"


def test_a_spec_that_is_corrected_and_suspended_leaves_no_child() -> None:
    world = started()
    world.child(state=ChildState.STARTING)
    world.pods, world.policy["suspend"] = "corrected", True
    for _ in range(3):
        world.step()
    assert (world.children, world.status.phase) == ({}, "Suspended")


def test_a_changed_spec_leaves_an_attempt_alone_that_works() -> None:
    world = started()
    world.pods = "changed"
    assert world.step(1).delete == ()
    assert world.attempts() == [(1, None, None)]


def test_a_child_that_is_in_no_status_is_freed_too() -> None:
    world = World()
    world.step(record=False)
    world.child(state=ChildState.STARTING)
    world.pods = "corrected"
    world.step()
    assert world.attempts() == [(1, "Suspended", "SpecChanged")]


def test_more_memory_lets_a_run_go_on_that_had_too_little() -> None:
    world = started(retries=3)
    world.fails("OOMKilled", 1, "raise spec.compute.resources.limits.memory")
    assert world.attempts()[-1] == (2, None, None), "once more: it may have been an accident"
    world.fails("OOMKilled", 2, "raise spec.compute.resources.limits.memory")
    assert world.status.phase == "Failed"
    message = world.status.conditions[0].message
    assert "raise spec.compute.resources.limits.memory" in message
    assert "retries" not in message
    assert world.step(60).start is None
    world.pods = "more memory"
    world.step()
    assert world.step().start == 3
    world.fails("OOMKilled", 3)
    assert world.attempts()[-1] == (4, None, None), "what failed at the limit before counts no more"


def test_a_corrected_spec_waits_for_no_pause() -> None:
    world = started()
    world.child(state=ChildState.FAILED, reason="OOMKilled")
    world.step(1)
    world.step()
    assert world.step().start is None
    world.pods = "more memory"
    assert world.step().start == 2


def test_a_lack_of_memory_that_the_run_itself_reports_is_not_repeated_at_the_same_limit() -> None:
    world = started(retries=9)
    for number in (1, 2):
        lack = {"reason": "OutOfMemory", "message": "raise spec.compute.resources.limits.memory", "retryable": True}
        world.reports({"error": lack}, number)
        world.fails("AppFailed", number)
    assert world.attempts() == [(1, "Failed", "OutOfMemory"), (2, "Failed", "OutOfMemory")]
    assert world.status.phase == "Failed"
    assert "2 attempts ran out of memory at the same limit: raise" in world.status.conditions[0].message


@pytest.mark.parametrize(
    ("reported", "pods", "reason"),
    [
        ("WorkersLost", "OOMKilled", "OOMKilled"),
        ("LatencyNotMeasured", "OOMKilled", "OOMKilled"),
        ("WorkersLost", "AppFailed", "WorkersLost"),
        ("TrainingDiverged", "OOMKilled", "TrainingDiverged"),
    ],
)
def test_workers_are_lost_of_what_ended_their_pods(reported: str, pods: str, reason: str) -> None:
    world = started()
    world.reports({"error": {"reason": reported, "message": "three times in vain", "retryable": True}})
    world.child(state=ChildState.FAILED, reason=pods, message="raise the limit")
    world.step(1)
    assert world.attempts() == [(1, "Failed", reason)]
    assert world.status.attempts[0].message == ("raise the limit" if reason == "OOMKilled" else "three times in vain")


def test_retries_that_are_used_up_are_given_anew_to_changed_pods() -> None:
    world = started(retries=0)
    world.fails("AppFailed")
    assert world.status.phase == "Failed"
    world.pods = "changed"
    world.step()
    assert world.step().start == 2


def test_an_error_that_is_final_is_tried_once_more_with_changed_pods() -> None:
    world = started()
    world.reports(BAD)
    world.child(state=ChildState.FAILED)
    world.step()
    assert (world.step(60).start, world.status.phase) == (None, "Failed")
    world.pods = "changed"
    world.step()
    assert world.step().start == 2


def test_a_deadline_is_not_lifted_by_other_pods() -> None:
    world = started(activeDeadline="30m")
    world.step(31)
    world.children.clear()
    world.step()
    world.pods = "changed"
    assert (world.step().start, world.status.phase) == (None, "Failed")


# --- An operator that dies between -----------------------------------------------------------------------------------


def test_an_attempt_that_was_left_open_on_resume_is_closed_and_counted_once() -> None:
    world = started(activeDeadline="3h")
    world.policy["suspend"] = True
    world.step(60)
    world.step()
    assert not world.children
    world.policy["suspend"] = False
    world.step(60, record=False)  # attempt 2 has a child, and no status says so nor that attempt 1 has ended
    assert world.attempts() == [(1, None, "Suspended")]
    world.step(10)
    first, second = world.status.attempts
    assert (first.outcome and first.outcome.value, first.worked_seconds) == ("Suspended", 3600)
    assert isinstance(second, Attempt)
    assert (second.outcome, second.start_time) == (None, START + timedelta(hours=2))
    assert world.step(100).status.phase == "Running", "60 and 110 minutes, not 60 and 110 and 170"
    assert world.step(11).assessment.message == "spec.runPolicy.activeDeadline has passed"


def test_an_attempt_that_was_left_open_ended_when_the_next_one_began() -> None:
    world = started()
    world.children.clear()
    world.step(5, record=False)  # it is seen to have failed
    world.now += timedelta(minutes=5)
    world.children[2] = Child(Key(RAY_JOB, "ns", f"{RUN}-2"), "uid-2", RUN, world.now, ChildState.RUNNING)
    world.step(30)
    first, second = world.status.attempts
    assert (first.reason, first.end_time) == ("ChildVanished", START + timedelta(minutes=10))
    assert first.worked_seconds == 600
    assert second.outcome is None
