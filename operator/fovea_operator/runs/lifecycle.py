"""The state machine of a run: attempts that follow one another until a result, a final failure or a suspension.

All state is in the Run's status and in the children that exist, so it can be taken up again at any instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal

from fovea_api import names
from fovea_api.common import RunPolicy, format_duration, parse_duration
from fovea_api.run import MAX_ATTEMPTS, Attempt, AttemptOutcome, RetryRequest, RunError, RunStatus

from fovea_operator.conditions import Assessment, condition_of, conditions, progressing, ready, stalled, suspended
from fovea_operator.settings import Settings
from fovea_operator.workloads.workload import Child, ChildState

Phase = Literal["Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"]
_PHASES: dict[ChildState, Phase] = {
    ChildState.QUEUED: "Queued",
    ChildState.STARTING: "Pending",
    ChildState.RUNNING: "Running",
}
_PREEMPTED = "Preempted"
_SUSPENDED = "Suspended"
_DEADLINE = "DeadlineExceeded"
_MESSAGE_LIMIT = 8192
_UNSEEN_QUEUE = timedelta(minutes=1)
"""A child that started by so much later than its attempt waited in a queue meanwhile, though nobody saw it there."""
_SPEC_CHANGED = "SpecChanged"
_OUT_OF_MEMORY = ("OOMKilled", "Evicted", "OutOfMemory")
_CONSEQUENCES = ("WorkersLost", "LatencyNotMeasured")
"""Errors that a run reports when pods of it have died: a container that ran out of memory explains more."""
_FIRST_CHECKPOINT = 300
"""Seconds after which an attempt has saved a checkpoint at the latest."""
_HUNG = "it did not end after that and was stopped"
RAISE_RETRIES = "to go on from the last checkpoint raise spec.runPolicy.retries"


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth reporting once about an attempt."""

    type: Literal["Normal", "Warning"]
    reason: str
    text: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a run needs now, and what it has come to."""

    status: RunStatus
    """The operator's part: phase, conditions, attempts."""
    assessment: Assessment
    start: int | None = None
    """Number of the attempt whose child is to be created."""
    delete: tuple[Child, ...] = ()
    notes: tuple[Note, ...] = ()
    ended: tuple[Attempt, ...] = ()
    """Attempts whose end is new."""
    requeue_after: float | None = None


@dataclass(frozen=True, slots=True)
class _Next:
    """A step without its bookkeeping."""

    phase: Phase
    assessment: Assessment
    attempts: tuple[Attempt, ...]
    start: int | None = None
    delete: tuple[Child, ...] = ()
    requeue_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that decides on the next step of a run that is desired."""

    run: str
    """Name of the Run."""
    status: RunStatus
    children: tuple[Child, ...] = ()
    policy: RunPolicy
    blocker: Assessment | None = None
    """Why no attempt may start; None: one may."""
    now: datetime
    settings: Settings
    remedy: str = RAISE_RETRIES
    """What a person can do when all retries are used up."""
    pods_digest: str = ""
    """Digest of what the spec says of the pods now; empty: it cannot change."""
    retry: str = ""
    """Value of the owner's annotation fovea.dev/retry; empty: there is none."""
    owner: str = ""
    """The object to annotate, as kubectl expects it; empty: none can be annotated."""
    adopt: str = ""
    """Owner whose store the next attempt may take over; empty: none's."""

    @property
    def queued(self) -> bool:
        """Whether the open attempt waited in a queue when it was last seen."""
        return self.status.phase == "Queued"

    def is_forgiven(self, attempt: Attempt) -> bool:
        """Whether somebody has asked for another attempt since this one ended: it counts as a failure no more."""
        return self.status.retry is not None and attempt.number <= self.status.retry.attempt

    def has_changed(self, attempt: Attempt) -> bool:
        """Whether the spec says something else of the pods than when the attempt started."""
        return bool(self.pods_digest and attempt.pods_digest) and attempt.pods_digest != self.pods_digest


def advance(situation: Situation) -> Step:
    """The next step of a run that is desired."""
    attempts = _settled(situation, _adopt(situation.status, situation.children))
    followed = situation.status.model_copy(update={"retry": _followed(situation, attempts)})
    situation = replace(situation, status=followed)
    return _book(followed, _stop_hanging(situation, _next(situation, attempts)), situation.now)


def _followed(situation: Situation, attempts: tuple[Attempt, ...]) -> RetryRequest | None:
    """The request for another attempt that is followed now: a new value of the annotation is a new request."""
    known = situation.status.retry
    if not situation.retry or (known is not None and known.value == situation.retry):
        return known
    ended = max((attempt.number for attempt in attempts if attempt.outcome is not None), default=0)
    return RetryRequest(value=situation.retry, attempt=ended)


def supersede(status: RunStatus, children: Sequence[Child], by: str, now: datetime) -> Step:
    """The step of a run that is superseded: its children go, its attempts and its end stay on record."""
    queued, why = status.phase == "Queued", f"run {by} took its place"
    closed = tuple(
        attempt if attempt.outcome else _close(attempt, AttemptOutcome.SUSPENDED, "Superseded", why, now, queued)
        for attempt in _adopt(status, children)
    )
    delete = tuple(child for child in children if not child.deleting)
    if is_finished(status):
        own = status.model_copy(update={"progress": None, "result": None})
        return Step(own, suspended("Superseded", why), delete=delete)
    return _book(status, _Next("Suspended", suspended("Superseded", why), closed, delete=delete), now)


def is_finished(status: RunStatus) -> bool:
    """Whether the run needs nothing more unless it is desired again."""
    return status.phase in ("Succeeded", "Failed", "Suspended")


def _next(situation: Situation, attempts: tuple[Attempt, ...]) -> _Next:
    run, status, children = situation.run, situation.status, situation.children
    policy, now, settings = situation.policy, situation.now, situation.settings
    if status.result is not None and status.result.error is None:
        ended = status.result.completed_at
        closed = tuple(
            attempt
            if attempt.outcome
            else _close(attempt, AttemptOutcome.SUCCEEDED, None, None, ended, situation.queued)
            for attempt in attempts
        )
        return _Next("Succeeded", ready("RunSucceeded", f"run {run} succeeded"), closed)

    last = attempts[-1] if attempts else None
    error = _error_of(status, last)
    if last is not None and last.outcome is None:
        child = next((child for child in children if child.key.name == last.child), None)
        closed_last = _ended(situation, attempts, child, error)
        if closed_last is None:
            assert child is not None
            return _under_way(situation, attempts, child)
        last, attempts = closed_last, (*attempts[:-1], closed_last)

    if last is not None and (failure := _final_failure(situation, attempts, last, error)) is not None:
        return _Next("Failed", failure, attempts)

    if policy.suspend and all(child.state.ended for child in children):
        return _Next("Suspended", suspended("Suspended", "spec.runPolicy.suspend is true"), attempts)
    if children:
        # One whose end is not on record stays: its reason would be lost.
        on_record = {attempt.number for attempt in status.attempts if attempt.outcome is not None}
        leftover = tuple(child for child in children if not child.deleting and child.attempt in on_record)
        waits = progressing("Stopping", f"waiting for {children[0].key} to be deleted")
        return _Next("Pending", waits, attempts, delete=leftover, requeue_after=settings.deletion_poll_seconds)
    if situation.blocker is not None:
        look = settings.resync_seconds if situation.blocker.wakes else settings.reference_poll_seconds
        return _Next("Pending", situation.blocker, attempts, requeue_after=look)
    if last is not None and last.end_time is not None:
        at_once = situation.is_forgiven(last) or situation.has_changed(last) or _may_adopt(situation, last)
        pause = 0.0 if at_once else _pause(attempts, settings)
        until = last.end_time + timedelta(seconds=pause)
        if (left := (until - now).total_seconds()) > 0:
            return _Next("Pending", _waits(situation, last, until), attempts, requeue_after=left)
    number = last.number + 1 if last is not None else 1
    digest = situation.pods_digest or None
    adopt = situation.adopt or None
    started = Attempt(number=number, child=f"{run}-{number}", start_time=now, pods_digest=digest, adopt=adopt)
    assessment = progressing("Starting", f"attempt {number} of run {run} is starting")
    return _Next(
        "Pending", assessment, (*attempts, started), start=number, requeue_after=_until_deadline(attempts, policy, now)
    )


def _may_adopt(situation: Situation, last: Attempt) -> bool:
    """Whether the next attempt may take over a store that the last one might not: there is nothing left to wait for."""
    return last.outcome is AttemptOutcome.BLOCKED and situation.adopt not in ("", last.adopt)


def _waits(situation: Situation, last: Attempt, until: datetime) -> Assessment:
    """What a run waits for between two attempts."""
    if last.outcome is not AttemptOutcome.BLOCKED:
        message = f"attempt {last.number} ended ({last.reason}: {last.message}); the next follows"
        return progressing("Retrying", message)
    again = f"it goes on from the last checkpoint at {until:%H:%M:%S} UTC"
    if situation.owner:
        value = f"{names.ANNOTATION_RETRY}=now{f'-{last.number} --overwrite' if situation.retry else ''}"
        again = f"{again}; at once by kubectl annotate {situation.owner} {value}"
    return progressing(last.reason or "Blocked", f"{last.message}; {again}")


def _final_failure(
    situation: Situation, attempts: tuple[Attempt, ...], last: Attempt, error: RunError | None
) -> Assessment | None:
    """Why no further attempt is made; None: one is. What failed before the spec's pods were changed counts no more."""
    policy, settings = situation.policy, situation.settings
    reason, message = last.reason or "Failed", last.message or "no reason is known"
    if reason == _DEADLINE and last.outcome is AttemptOutcome.FAILED and _overdue(attempts, policy, situation.now):
        longer = "raise spec.runPolicy.activeDeadline to go on from the last checkpoint"
        return stalled(_DEADLINE, f"{message}; {longer}")
    if situation.has_changed(last) or situation.is_forgiven(last):
        return None
    since = [each for each in attempts if not situation.has_changed(each) and not situation.is_forgiven(each)]
    if last.outcome is AttemptOutcome.PREEMPTED and len(_in_vain(since)) >= settings.preemptions_in_vain:
        count = f"{settings.preemptions_in_vain} attempts in a row ended before their first checkpoint"
        elsewhere = (
            "to go on let them run elsewhere (spec.compute) or with a higher priority, or annotate fovea.dev/retry"
        )
        return stalled(reason, f"{count}: {message}; {elsewhere}")
    if last.outcome is not AttemptOutcome.FAILED:
        return None
    if error is not None and not error.retryable:
        return stalled(reason, message)
    failures = _failures(since)
    alike = [attempt for attempt in failures if attempt.reason in _OUT_OF_MEMORY]
    if reason in _OUT_OF_MEMORY and len(alike) >= settings.oom_attempts and len(failures) <= policy.retries:
        return stalled(reason, f"{len(alike)} attempts ran out of memory at the same limit: {message}")
    if len(failures) > policy.retries:
        tried = f"{len(failures)} attempts failed" if len(failures) > 1 else "the attempt failed"
        return stalled(reason, f"{tried}: {message}\n({situation.remedy})")
    return None


def _stop_hanging(situation: Situation, step: _Next) -> _Next:
    """Bounds how long children go on after their run has ended: a hang at the exit would keep its GPUs for ever.

    First that it is stopped is recorded, then it is deleted.
    """
    live = [child for child in situation.children if not child.state.ended]
    if step.phase not in ("Succeeded", "Failed") or not live:
        return step
    known = condition_of(situation.status, "Ready" if step.phase == "Succeeded" else "Stalled")
    since = known.last_transition_time if known is not None and known.status == "True" else situation.now
    left = situation.settings.exit_grace_seconds - (situation.now - since).total_seconds()
    if left > 0:
        return replace(step, requeue_after=min(left, step.requeue_after or left))
    numbers = {child.attempt for child in live}
    recorded = {each.number for each in situation.status.attempts if _HUNG in (each.message or "")}
    attempts = tuple(_as_hung(each) if each.number in numbers else each for each in step.attempts)
    delete = tuple(child for child in live if child.attempt in recorded and not child.deleting)
    return replace(step, attempts=attempts, delete=delete, requeue_after=situation.settings.deletion_poll_seconds)


def _as_hung(attempt: Attempt) -> Attempt:
    if _HUNG in (attempt.message or ""):
        return attempt
    message = f"{attempt.message or 'it reported its result'}; {_HUNG}"
    return attempt.model_copy(update={"reason": attempt.reason or "DidNotExit", "message": message[-_MESSAGE_LIMIT:]})


def _settled(situation: Situation, attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Closes earlier attempts that are open: an operator died between a later one's child and the status of both."""
    settled = list(attempts)
    for index, attempt in enumerate(attempts[:-1]):
        if attempt.outcome is None:
            child = next((child for child in situation.children if child.key.name == attempt.child), None)
            then = replace(situation, now=attempts[index + 1].start_time or situation.now)
            error = _error_of(situation.status, attempt)
            settled[index] = _ended(then, tuple(settled[: index + 1]), child, error) or attempt
    return tuple(settled)


def _under_way(situation: Situation, attempts: tuple[Attempt, ...], child: Child) -> _Next:
    """An attempt is open and its child has not ended."""
    policy, now, settings = situation.policy, situation.now, situation.settings
    last = attempts[-1]
    delete = () if child.deleting else (child,)
    phase, queued = _PHASES[child.state], child.state is ChildState.QUEUED
    last = _counted(last, child, situation.queued, now)
    if policy.suspend:
        recorded = last.reason == _SUSPENDED  # first why it is deleted, then its deletion
        last = last.model_copy(update={"reason": _SUSPENDED, "end_time": last.end_time or now})
        return _Next(
            phase,
            progressing("Suspending", f"stopping attempt {last.number}"),
            (*attempts[:-1], last),
            delete=delete if recorded else (),
            requeue_after=settings.deletion_poll_seconds,
        )
    recorded = last.reason == _DEADLINE  # first why it is deleted, then its deletion
    if last.reason in (_SUSPENDED, _DEADLINE) and not child.deleting:  # somebody may have thought better of it in time
        last = last.model_copy(update={"reason": None})
    if child.disruption is not None and child.disruption.at != last.disrupted_at:
        last = last.model_copy(update={"disrupted_at": child.disruption.at, "message": child.disruption.message})
    error = _error_of(situation.status, last) if _reported_since(situation.status, last, child) else None
    if error is None and last.reason is None and last.end_time is not None:  # a queue took it back and let it go on
        last = last.model_copy(update={"end_time": None})
    if error is not None:  # it may be tried again, and has to end first
        last = last.model_copy(update={"end_time": last.end_time or now})
        left = settings.exit_grace_seconds - (now - (last.end_time or now)).total_seconds()
        waits = progressing("Stopping", f"attempt {last.number} reported {error.reason} and has to end")
        return _Next(phase, waits, (*attempts[:-1], last), requeue_after=left)
    overdue = not queued and _overdue((*attempts[:-1], last), policy, now)
    if overdue or last.reason == _DEADLINE:
        at_work = child.message if child.state is ChildState.RUNNING else None
        last = last.model_copy(update={"reason": _DEADLINE, "message": at_work or last.message})
        return _Next(
            phase,
            progressing("Stopping", "spec.runPolicy.activeDeadline has passed"),
            (*attempts[:-1], last),
            delete=delete if recorded else (),
            requeue_after=settings.deletion_poll_seconds,
        )
    attempts = (*attempts[:-1], last)
    what = {
        ChildState.QUEUED: f"attempt {last.number} waits in its queue",
        ChildState.STARTING: f"attempt {last.number} of run {situation.run} is starting",
        ChildState.RUNNING: f"attempt {last.number} of run {situation.run} is running",
    }[child.state]
    assess = stalled if child.stalled else progressing
    assessment = assess(child.reason or child.state.value, child.message or what)
    until = _until_deadline(attempts, policy, now) if not queued else None
    return _Next(phase, assessment, attempts, requeue_after=until)


def _ended(
    situation: Situation, attempts: tuple[Attempt, ...], child: Child | None, error: RunError | None
) -> Attempt | None:
    """The open attempt with its outcome, or None when it goes on."""
    policy, now, queued, last = situation.policy, situation.now, situation.queued, attempts[-1]

    def closed(outcome: AttemptOutcome, reason: str, message: str) -> Attempt:
        return _close(last, outcome, reason, message, now, queued)

    final = error is not None and not error.retryable
    if child is not None and not child.state.ended and not final:
        if situation.has_changed(last) and child.state in (ChildState.QUEUED, ChildState.STARTING):
            what = "spec changed before its work began; another attempt takes its place"
            return closed(AttemptOutcome.SUSPENDED, _SPEC_CHANGED, what)
        hung = (now - (last.end_time or now)).total_seconds() >= situation.settings.exit_grace_seconds
        if error is not None and hung and _reported_since(situation.status, last, child):
            return closed(_outcome_of(error), error.reason, f"{error.message}; {_HUNG}")
        return None
    if error is not None and (final or child is not None):
        if child is not None and error.reason in _CONSEQUENCES and child.reason in _OUT_OF_MEMORY:
            return closed(AttemptOutcome.FAILED, child.reason, child.message)
        return closed(_outcome_of(error), error.reason, error.message)
    if child is None and (policy.suspend or last.reason == _SUSPENDED):
        return closed(AttemptOutcome.SUSPENDED, "Suspended", "spec.runPolicy.suspend is true")
    if child is None and (last.reason == _DEADLINE or _overdue(attempts, policy, now, queued)):
        why = "the run has taken longer than spec.runPolicy.activeDeadline allowed"
        why = f"{why}: {last.message}" if last.message else why
        return closed(AttemptOutcome.FAILED, _DEADLINE, why)
    if (how := _preemption(last, child, now, situation.settings)) is not None:
        return closed(AttemptOutcome.PREEMPTED, _PREEMPTED, f"the cluster took its pods away: {how}")
    if child is None:
        return closed(AttemptOutcome.FAILED, "ChildVanished", f"{last.child} was deleted, not by Fovea")
    if child.state is ChildState.SUCCEEDED:
        return closed(AttemptOutcome.FAILED, "ResultMissing", f"{last.child} ended without a result")
    return closed(AttemptOutcome.FAILED, child.reason or "Failed", child.message or f"{last.child} failed")


def _reported_since(status: RunStatus, last: Attempt, child: Child) -> bool:
    """Whether the pods that run now reported the result: a queue may have taken those before them away."""
    if child.state is not ChildState.RUNNING or status.result is None:
        return False
    return last.start_time is None or status.result.completed_at >= last.start_time


def _preemption(last: Attempt, child: Child | None, now: datetime, settings: Settings) -> str | None:
    """How the cluster ended the attempt, in words; None: it ended of itself, or too long after the loss of a pod."""
    if child is not None and child.own_failure:
        return None
    at, how = last.disrupted_at, last.message or "its pods were deleted"
    if child is not None and child.disruption is not None:
        at, how = child.disruption.at or now, child.disruption.message
    ended = child.ended_at if child is not None and child.ended_at is not None else now
    if at is None or (ended - at).total_seconds() > settings.disruption_window_seconds:
        return None
    return how


def _counted(attempt: Attempt, child: Child, was_queued: bool, now: datetime) -> Attempt:
    """The attempt with the time that it has worked: what it spent in a queue counts toward no deadline.

    When the child went into its queue and left it is taken from the child, for the operator may have been away.
    `was_queued`: it waited there when it was last seen.
    """
    if child.state is ChildState.QUEUED:
        if was_queued:
            return attempt
        since = child.queued_since or (now if child.started is not None else attempt.start_time)
        return attempt.model_copy(update={"worked_seconds": _seconds(attempt, since or now)})
    before, started = attempt.start_time or now, child.started
    if was_queued:
        return attempt.model_copy(update={"start_time": started if started and started > before else now})
    if started is not None and started - before > _UNSEEN_QUEUE:
        return attempt.model_copy(update={"start_time": started})
    return attempt


def _outcome_of(error: RunError) -> AttemptOutcome:
    return AttemptOutcome.BLOCKED if error.recoverable else AttemptOutcome.FAILED


def _close(
    attempt: Attempt, outcome: AttemptOutcome, reason: str | None, message: str | None, now: datetime, queued: bool
) -> Attempt:
    text = message[-_MESSAGE_LIMIT:] if message is not None else None
    end = attempt.end_time or now
    ended = {"outcome": outcome, "end_time": end, "worked_seconds": _seconds(attempt, end, queued)}
    return attempt.model_copy(update=ended | {"reason": reason, "message": text})


def _adopt(status: RunStatus, children: Sequence[Child]) -> tuple[Attempt, ...]:
    """The attempts on record and those whose child exists although no status has them."""
    known = {attempt.number for attempt in status.attempts}
    unrecorded = [
        Attempt(
            number=child.attempt,
            child=child.key.name,
            start_time=child.created,
            pods_digest=child.pods_digest or None,
        )
        for child in children
        if child.attempt not in known
    ]
    return tuple(sorted((*status.attempts, *unrecorded), key=lambda attempt: attempt.number))


def _failures(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that use up retries; one that the deadline ended does not."""
    return [attempt for attempt in attempts if attempt.outcome is AttemptOutcome.FAILED and attempt.reason != _DEADLINE]


def _pause(attempts: Sequence[Attempt], settings: Settings) -> float:
    """Seconds from the last attempt's end to the next attempt.

    They double with each failure, with each preemption in a row before a first checkpoint, and with each infrastructure
    fault in a row.
    """
    last, alike, most = attempts[-1], _failures(attempts), settings.retry_max_seconds
    if last.outcome is AttemptOutcome.PREEMPTED:
        alike = _in_vain(attempts) or [last]
    if last.outcome is AttemptOutcome.BLOCKED:
        alike = list(takewhile(lambda each: each.outcome is AttemptOutcome.BLOCKED, reversed(attempts)))
        most = settings.blocked_retry_max_seconds
    if last not in alike:
        return 0.0
    return min(settings.retry_first_seconds * 2.0 ** (len(alike) - 1), most)


def _in_vain(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The last attempts, as far as the cluster took each away before it can have saved a checkpoint."""

    def in_vain(attempt: Attempt) -> bool:
        return attempt.outcome is AttemptOutcome.PREEMPTED and (attempt.worked_seconds or 0) < _FIRST_CHECKPOINT

    return list(takewhile(in_vain, reversed(attempts)))


def _on_record(attempts: tuple[Attempt, ...], now: datetime) -> tuple[Attempt, ...]:
    """The attempts that a status has room for: the oldest that did not fail go, for failures are counted.

    The seconds that they worked pass to the next.
    """
    while len(attempts) > MAX_ATTEMPTS:
        failures = _failures(attempts)
        index = next(at for at, each in enumerate(attempts) if each.outcome is not None and each not in failures)
        oldest, heir = attempts[index : index + 2]
        seconds = _seconds(oldest, now) + (heir.worked_seconds or 0)
        heir = heir.model_copy(update={"worked_seconds": seconds})
        attempts = (*attempts[:index], heir, *attempts[index + 2 :])
    return attempts


def _error_of(status: RunStatus, last: Attempt | None) -> RunError | None:
    """The error that the last attempt reported; one of an earlier attempt counts no more."""
    if status.result is None or last is None:
        return None
    return status.result.error if status.result.is_of(last) else None


def _seconds(attempt: Attempt, now: datetime, queued: bool = False) -> int:
    """Seconds that an attempt has worked. `queued`: if it is open, it waits in a queue."""
    before, closed = attempt.worked_seconds or 0, attempt.outcome is not None
    if attempt.start_time is None or (attempt.worked_seconds is not None if closed else queued):
        return before
    return before + max(0, round(((attempt.end_time or now) - attempt.start_time).total_seconds()))


def _worked(attempts: Sequence[Attempt], now: datetime, queued: bool = False) -> timedelta:
    return timedelta(seconds=sum(_seconds(attempt, now, queued) for attempt in attempts))


def _overdue(attempts: Sequence[Attempt], policy: RunPolicy, now: datetime, queued: bool = False) -> bool:
    limit = policy.active_deadline
    return limit is not None and _worked(attempts, now, queued) >= parse_duration(limit)


def _until_deadline(attempts: Sequence[Attempt], policy: RunPolicy, now: datetime) -> float | None:
    if policy.active_deadline is None:
        return None
    return max(0.0, (parse_duration(policy.active_deadline) - _worked(attempts, now)).total_seconds()) + 1


def _book(old: RunStatus, step: _Next, now: datetime) -> Step:
    status = RunStatus(
        observed_generation=1,
        conditions=conditions(step.assessment, old.conditions, 1, now),
        phase=step.phase,
        attempts=_on_record(step.attempts, now),
        retry=old.retry,
        usage=old.usage,
    )
    before = {attempt.number: attempt for attempt in old.attempts}
    return Step(
        status,
        step.assessment,
        step.start,
        step.delete,
        notes=tuple(note for attempt in step.attempts for note in _notes(before.get(attempt.number), attempt)),
        ended=tuple(attempt for attempt in step.attempts if _is_new_end(before.get(attempt.number), attempt)),
        requeue_after=step.requeue_after,
    )


def _is_new_end(before: Attempt | None, attempt: Attempt) -> bool:
    return attempt.outcome is not None and (before is None or before.outcome is None)


def _notes(before: Attempt | None, attempt: Attempt) -> Iterator[Note]:
    number = attempt.number
    if _HUNG in (attempt.message or "") and (before is None or _HUNG not in (before.message or "")):
        yield Note("Warning", "AttemptStopped", f"attempt {number} reported its end; {_HUNG}", number)
    if before is None:
        yield Note("Normal", "AttemptStarted", f"attempt {number} started as {attempt.child}", number)
    if attempt.outcome is None or not _is_new_end(before, attempt):
        return
    after = ""
    if attempt.start_time is not None and attempt.end_time is not None:
        after = f" after {format_duration(attempt.end_time - attempt.start_time)}"
    why = f": {attempt.reason}: {attempt.message}" if attempt.message else ""
    type: Literal["Normal", "Warning"] = "Normal"
    if attempt.outcome in (AttemptOutcome.FAILED, AttemptOutcome.BLOCKED):
        type = "Warning"
    text = f"attempt {number} {attempt.outcome.value.lower()}{after}{why}"
    yield Note(type, f"Attempt{attempt.outcome.value}", text, number)
