"""When the served model is trained again, and what becomes of the new one: the state machine of retrainings.

It is a function of what status records, the spec and what is observed. A due trigger becomes an entry of the history
and a request for a run (`fovea_operator.runs.requests`), both in one status: the entry's cause is the request's, so
each cause leads to one run, wherever the operator dies. The run's model is judged against the served one, the
champion, on the same test images; one that is not better stays where it is, and nobody serves it.

    requested -> Refused | Failed | NotEligible | NotCompared | NotBetter
              -> (AwaitingApproval) -> RollingOut -> Promoted | RolledBack, and Superseded by a later version
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any, Literal

from fovea_api.common import parse_duration
from fovea_api.criteria import Criterion, eligible, evaluate_criteria
from fovea_api.metrics import CHAMPION, COMPARED, DIFFERENCE, DIFFERENCE_ERROR
from fovea_api.modeldeployment import (
    Comparison,
    ModelDeploymentStatus,
    Retraining,
    RetrainingEvent,
    RetrainingStatus,
)
from fovea_api.modeldeployment import RetrainingOutcome as Outcome
from fovea_api.run import BundleInput, RequestedRun, Run, RunOwner, RunRequest
from pydantic import JsonValue

from fovea_operator.evidence.betting import Share
from fovea_operator.objects import MODEL_DEPLOYMENT
from fovea_operator.schedule import Place, next_time

HISTORY = 50
"""Retrainings on record."""
MIN_IMAGES = 30
"""Test images below which the error of a difference is not known well enough to judge by."""
LATE = timedelta(minutes=5)
"""After this a scheduled time counts as missed."""
MONTH = timedelta(days=30)
ACCURACY_ERROR = 0.05
"""Probability that live accuracy is ever found to be below a bound that it keeps."""

MOST_ATTEMPTS = 3
"""Retrainings on one dataset version that fail before it counts as used up."""

_FRUITLESS = (Outcome.REFUSED, Outcome.FAILED)
"""Outcomes without a model: nothing was learned of the version."""
_RELEASED = (Outcome.ROLLING_OUT, Outcome.PROMOTED, Outcome.ROLLED_BACK, Outcome.SUPERSEDED)
"""Outcomes of models that might be serving."""
_OPEN = (None, Outcome.AWAITING_APPROVAL, Outcome.ROLLING_OUT)
_MESSAGE, _TOKEN = 1024, 256
_PLACE = Place("spec.retraining.triggers.schedule.cron", "spec.retraining.triggers.schedule.timeZone")
_WARM_START: Mapping[str, JsonValue] = {"pretrained": {"from": "Current"}}


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that is served."""

    run: str
    bundle: BundleInput
    version: str | None
    """Dataset version that it was trained on; None: not known."""


@dataclass(frozen=True, slots=True)
class Data:
    """The newest dataset version."""

    version: str
    images: int
    sizes: Mapping[str, int]
    """Images of each version that is known."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is observed at one time."""

    now: datetime
    job: str
    """Name of the TrainingJob."""
    champion: Champion | None = None
    """None: no model of the job is served, or nothing is known of it."""
    stable: str | None = None
    """Run of the version that serves."""
    rolled_back: str | None = None
    """Run of the version whose rollout failed last."""
    offered: str | None = None
    """Run of the version that the deployment is to serve now; None: not known."""
    rolling_out: str = ""
    """Name of the version whose rollout is under way; empty: none is."""
    criteria: tuple[Criterion, ...] = ()
    """The job's success criteria."""
    trains_new_versions: bool = False
    """Whether the job trains on each new dataset version by itself."""
    data: Data | None = None
    """None: there is no version."""
    drift_since: datetime | None = None
    """Time since when there is drift; None: there is none, or nothing is known."""
    labelled: Share | None = None
    """Right answers of the version that serves among those whose label is known; None: nothing is known."""
    runs: Mapping[str, Run] = field(default_factory=dict)
    """The Runs that answer requests, by cause."""
    answers: Mapping[str, RequestedRun] = field(default_factory=dict)
    """What the job says of requests, by cause."""
    retrain: str = ""
    """Value of the annotation `fovea.dev/retrain`."""
    approve: str = ""
    """Value of the annotation `fovea.dev/approve`."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What is reported about a retraining."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    once: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """The next state."""

    status: RetrainingStatus
    requests: tuple[RunRequest, ...]
    """What the job is asked for."""
    transitions: tuple[Transition, ...]
    look_after: timedelta | None
    """When the clock alone may change something; None: it does not."""


@dataclass(frozen=True, slots=True)
class Due:
    """A trigger that is due."""

    trigger: str
    cause: str
    why: str
    """In words."""
    waits: bool = True
    """Whether the cooldown holds it back."""


# --- The state machine -----------------------------------------------------------------------------------------------


def advance(old: RetrainingStatus, requests: Sequence[RunRequest], spec: Retraining, observed: Observed) -> Advanced:
    """The next state, the requests for runs, and what is to be reported.

    Args:
        old: What status records.
        requests: Requests that status records.
        spec: `spec.retraining`.
        observed: What is observed.

    Raises:
        InvalidSchedule: the cron expression or the time zone means nothing.
    """
    asked = {request.cause for request in requests if request.target.name == observed.job}
    history = tuple(_followed(event, spec, observed, event.cause in asked) for event in old.history)
    history = tuple(_superseded(history))
    transitions = [
        transition
        for before, after in zip(old.history, history, strict=True)
        if (transition := _transition(before, after)) is not None
    ]
    open_causes = {event.cause for event in history if event.outcome is None}
    kept = tuple(request for request in requests if request.cause in open_causes)
    scheduled = _scheduled(old.next_scheduled, spec, observed.now)
    status = old.model_copy(update={"history": history, "next_scheduled": scheduled})

    due = list(_due(status, spec, observed))
    waiting = next(_held_back(status, spec, observed, due), "")
    if due and not waiting and observed.champion is not None:
        event, request = _requested(due[0], spec, observed, observed.champion)
        status = _begun(status, event, spec, observed)
        kept = (*kept, request)
        transitions.append(Transition("Normal", "RetrainingRequested", event.message, event.cause))
    elif not due:
        waiting = next(_awaited(status, spec, observed), "")
    words = next(_under_way(status.history), waiting)
    status = status.model_copy(update={"message": words[:_MESSAGE], **_last(status.history)})
    return Advanced(status, kept, tuple(transitions), _look_after(status, spec, observed, bool(due)))


def withdrawn(old: RetrainingStatus) -> RetrainingStatus:
    """The state once `spec.retraining` is removed: what was under way is no longer waited for."""
    history = tuple(
        event.model_copy(update={"outcome": Outcome.SUPERSEDED, "message": "spec.retraining was removed"})
        if event.outcome in (None, Outcome.AWAITING_APPROVAL)
        else event
        for event in old.history
    )
    return old.model_copy(update={"history": history, "next_scheduled": None, "message": ""})


def may_serve(run: Run, name: str, status: ModelDeploymentStatus, comparison: Comparison | None, manual: bool) -> bool:
    """Whether a deployment may serve the model of a run, as far as retrainings are concerned.

    One that a deployment has asked for is for that deployment alone, once it was found to be better. What a status
    has lost, or never had, follows from the run's result.

    Args:
        run: A run of the job.
        name: Name of the deployment.
        status: Its status.
        comparison: `spec.retraining.comparison`; None: it has no retrainings.
        manual: Whether somebody must approve.
    """
    origin = run.spec.request
    if origin is None or origin.kind != MODEL_DEPLOYMENT.name:
        return True
    if origin.name != name:
        return False
    history = status.retraining.history if status.retraining is not None else ()
    event = next((event for event in history if event.cause == origin.cause), None)
    if event is None:
        metrics = run.status.result.metrics if run.status is not None and run.status.result is not None else {}
        return not manual and judge(metrics, comparison or Comparison()).better
    return _is_released(event, status)


def may_serve_result(run: str, status: ModelDeploymentStatus) -> bool:
    """The same of a run whose Run was deleted with the history, as far as status records it."""
    history = status.retraining.history if status.retraining is not None else ()
    event = next((event for event in history if event.run == run), None)
    return event is None or _is_released(event, status)


def _is_released(event: RetrainingEvent, status: ModelDeploymentStatus) -> bool:
    """A version that was rolled back last is known as that by the rollout, which may try it again on request. One that
    was superseded may never have been found to be better."""
    failed = status.rolled_back is not None and status.rolled_back.run == event.run
    return event.outcome in (Outcome.ROLLING_OUT, Outcome.PROMOTED) or (failed and event.outcome == Outcome.ROLLED_BACK)


# --- Champion and challenger -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judgement:
    """A retrained model against the served one."""

    compared: bool
    better: bool
    message: str
    improvement: float | None = None
    above: float | None = None
    """What the improvement exceeds with the confidence that was asked for."""


def judge(metrics: Mapping[str, float], comparison: Comparison) -> Judgement:
    """What a run's metrics say of its model and the served one.

    The improvement divided by its standard error (paired bootstrap over the images) is taken as normal.
    """
    name = next((name for name in COMPARED.values() if f"{CHAMPION}/{name}" in metrics), None)
    difference, error = metrics.get(DIFFERENCE), metrics.get(DIFFERENCE_ERROR)
    if name is None or difference is None or error is None:
        return Judgement(False, False, "the run has not compared its model with the served one; its log says why")
    served, images = metrics[f"{CHAMPION}/{name}"], metrics.get(f"{CHAMPION}/images", 0.0)
    if images < MIN_IMAGES:
        words = f"the test split has {images:g} images; {MIN_IMAGES} are needed to compare two models"
        return Judgement(False, False, words)
    above = difference - NormalDist().inv_cdf(comparison.confidence) * error
    better = above > comparison.min_improvement
    percent = f"{100 * comparison.confidence:g} %"
    words = (
        f"test/{name} is {served + difference:.4f}, and {served:.4f} with the served model on the same {images:g} "
        f"images: {'better' if better else 'not shown to be better'} by more than {comparison.min_improvement:g} "
        f"(by more than {above:.4f} with a confidence of {percent})"
    )
    return Judgement(True, better, words, difference, above)


def _followed(event: RetrainingEvent, spec: Retraining, observed: Observed, asked: bool) -> RetrainingEvent:
    """What has become of a retraining since. `asked`: whether the TrainingJob is still asked for its run."""
    if event.outcome is None:
        if not asked and event.cause not in observed.runs:
            return _with(event, Outcome.SUPERSEDED, "its run is asked of a TrainingJob whose models are not served now")
        return _ended(event, spec, observed)
    if event.run is not None and event.run == observed.stable and event.outcome in _RELEASED:
        return event.model_copy(update={"outcome": Outcome.PROMOTED})
    if event.outcome is Outcome.AWAITING_APPROVAL and event.run == observed.approve:
        return event.model_copy(update={"outcome": Outcome.ROLLING_OUT})
    if event.outcome is Outcome.ROLLING_OUT and event.run == observed.rolled_back:
        return event.model_copy(update={"outcome": Outcome.ROLLED_BACK})
    if event.outcome is Outcome.ROLLING_OUT and observed.offered not in (None, event.run):
        return event.model_copy(update={"outcome": Outcome.SUPERSEDED})
    return event


def _ended(event: RetrainingEvent, spec: Retraining, observed: Observed) -> RetrainingEvent:
    """A retraining in progress, with its run and its outcome as far as they are known."""
    run, answer = observed.runs.get(event.cause), observed.answers.get(event.cause)
    if run is None:
        if answer is not None and answer.phase == "Refused":
            return _with(event, Outcome.REFUSED, answer.message or "")
        if answer is not None and answer.run is not None and answer.phase in ("Succeeded", "Failed"):
            return _with(event, Outcome.FAILED, f"run {answer.run} was deleted before its result was read")
        return event
    status = run.status
    hours = status.usage.gpu_hours if status is not None and status.usage is not None else 0.0
    event = event.model_copy(update={"run": run.metadata.name, "gpu_hours": hours})
    if status is None or status.phase not in ("Succeeded", "Failed"):
        return event
    result = status.result
    if status.phase == "Failed" or result is None or result.error is not None:
        words = result.error.message if result is not None and result.error is not None else "see its conditions"
        return _with(event, Outcome.FAILED, f"run {event.run} failed: {words}")
    missed = [str(each) for each in evaluate_criteria(observed.criteria, result.metrics) if not each.met]
    if not eligible(evaluate_criteria(observed.criteria, result.metrics), result.metrics):
        return _with(event, Outcome.NOT_ELIGIBLE, "; ".join(missed) or "its quality was not measured")
    judgement = judge(result.metrics, spec.comparison)
    event = event.model_copy(update={"improvement": judgement.improvement, "improvement_above": judgement.above})
    if not judgement.better:
        return _with(event, Outcome.NOT_BETTER if judgement.compared else Outcome.NOT_COMPARED, judgement.message)
    if observed.stable not in (None, event.served):
        words = f"it was compared with the model of run {event.served}, and that of run {observed.stable} serves now"
        return _with(event, Outcome.NOT_COMPARED, words)
    manual = spec.promotion == "Manual" and event.run != observed.approve
    return _with(event, Outcome.AWAITING_APPROVAL if manual else Outcome.ROLLING_OUT, judgement.message)


def _with(event: RetrainingEvent, outcome: Outcome, message: str) -> RetrainingEvent:
    return event.model_copy(update={"outcome": outcome, "message": message[:_MESSAGE]})


def _superseded(history: Iterable[RetrainingEvent]) -> Iterator[RetrainingEvent]:
    """Newest first: what is older than a model that was promoted is not rolled out any more."""
    later = False
    for event in history:
        if later and event.outcome in (Outcome.AWAITING_APPROVAL, Outcome.ROLLING_OUT):
            event = event.model_copy(update={"outcome": Outcome.SUPERSEDED})
        yield event
        later = later or event.outcome is Outcome.PROMOTED


def _transition(before: RetrainingEvent, after: RetrainingEvent) -> Transition | None:
    """What is reported when a retraining gets on."""
    if before.outcome == after.outcome or after.outcome is None:
        return None
    kind: Literal["Normal", "Warning"] = "Normal"
    if after.outcome in (Outcome.REFUSED, Outcome.FAILED, Outcome.NOT_COMPARED, Outcome.ROLLED_BACK):
        kind = "Warning"
    model = f"the model of run {after.run}" if after.run is not None else "the run"
    words = {
        Outcome.REFUSED: f"TrainingJob refuses the run: {after.message}",
        Outcome.FAILED: after.message,
        Outcome.NOT_ELIGIBLE: f"{model} is kept and not rolled out: {after.message}",
        Outcome.NOT_COMPARED: f"{model} is kept and not rolled out: {after.message}",
        Outcome.NOT_BETTER: f"{model} is kept and not rolled out: {after.message}",
        Outcome.AWAITING_APPROVAL: f"{model} waits for the annotation fovea.dev/approve={after.run}: {after.message}",
        Outcome.ROLLING_OUT: f"{model} is rolled out: {after.message}",
        Outcome.PROMOTED: f"{model} serves",
        Outcome.ROLLED_BACK: f"{model} was rolled back",
        Outcome.SUPERSEDED: f"{model} is not rolled out: another version is",
    }[after.outcome]
    return Transition(kind, f"Retraining{after.outcome}", words, f"{after.cause}/{after.outcome}")


# --- Triggers --------------------------------------------------------------------------------------------------------


def _due(status: RetrainingStatus, spec: Retraining, observed: Observed) -> Iterator[Due]:
    """The triggers that are due, the most urgent first."""
    triggers = (_asked(status, observed), _accuracy(status, spec, observed), _drift(status, spec, observed),
                _version(status, spec, observed), _schedule(status, spec, observed))  # fmt: skip
    yield from filter(None, triggers)


def _asked(status: RetrainingStatus, observed: Observed) -> Due | None:
    asked = observed.retrain[:_TOKEN]
    if asked in ("", status.annotation):
        return None
    last = _stamp(status.history[0].time) if status.history else ""  # a value that was used before asks again
    digest = hashlib.sha256(f"{asked}@{last}".encode()).hexdigest()[:12]
    return Due("Annotation", f"annotation-{digest}", f"the annotation asks for it with {asked!r}", waits=False)


def _accuracy(status: RetrainingStatus, spec: Retraining, observed: Observed) -> Due | None:
    bound, labelled, champion, data = spec.triggers.accuracy_below, observed.labelled, observed.champion, observed.data
    if bound is None or labelled is None or champion is None or data is None or _tried(status, champion, data):
        return None
    if labelled.below(bound) < -math.log(ACCURACY_ERROR):
        return None
    words = f"{labelled.events:g} of {labelled.total:g} labelled answers are right, which is below {bound:g}"
    return Due("Accuracy", f"accuracy-{champion.run}-{_short(data)}{_again(status, data)}", words)


def _drift(status: RetrainingStatus, spec: Retraining, observed: Observed) -> Due | None:
    trigger, since, data = spec.triggers.drift, observed.drift_since, observed.data
    labels = new_labels(status, observed)
    if trigger is None or since is None or data is None or labels is None or labels < trigger.min_new_labels:
        return None
    cause = f"drift-{_stamp(since)}-{_short(data)}{_again(status, data)}"
    return Due("Drift", cause, f"drift since {_stamp(since)}, {labels} new labels")


def _version(status: RetrainingStatus, spec: Retraining, observed: Observed) -> Due | None:
    champion, data = observed.champion, observed.data
    if not spec.triggers.new_dataset_version or observed.trains_new_versions or champion is None or data is None:
        return None
    learned = {champion.version, None if _may_be_tried_again(status, data.version) else status.dataset_version} - {None}
    if data.version in learned or not (champion.version or status.dataset_version):
        return None
    cause = f"version-{_short(data)}{_again(status, data)}"
    return Due("DatasetVersion", cause, f"dataset version {data.version} is new")


def _schedule(status: RetrainingStatus, spec: Retraining, observed: Observed) -> Due | None:
    when = status.next_scheduled
    if spec.triggers.schedule is None or when is None or when > observed.now:
        return None
    return Due("Schedule", f"schedule-{_stamp(when)}", f"it was scheduled for {_stamp(when)}")


def _stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _short(data: Data) -> str:
    return data.version.removeprefix("sha256-")[:12]


def _held_back(status: RetrainingStatus, spec: Retraining, observed: Observed, due: Sequence[Due]) -> Iterator[str]:
    """Why what is due does not start, the first reason first."""
    if not due:
        return
    first = due[0]
    words = f"{first.trigger} is due ({first.why})"
    if observed.champion is None:
        yield f"{words}; waits for a served model of TrainingJob {observed.job!r}"
    if any(event.outcome is None for event in status.history):
        yield f"{words}; waits until the retraining that is under way has ended"
    rolling = next((event.run for event in status.history if event.outcome is Outcome.ROLLING_OUT), None)
    if rolling is not None or observed.rolling_out:
        yield f"{words}; waits for the end of the rollout of {observed.rolling_out or rolling}"
    until = _cooled_down(status, spec)
    if first.waits and until is not None and observed.now < until:
        yield f"{words}; waits for the end of the cooldown at {_stamp(until)}"
    used = sum(event.gpu_hours for event in status.history if observed.now - event.time < MONTH)
    if spec.gpu_hours_per_month is not None and used >= spec.gpu_hours_per_month:
        yield f"{words}; {used:.1f} of {spec.gpu_hours_per_month:g} GPU hours of the last 30 days are used"


def _awaited(status: RetrainingStatus, spec: Retraining, observed: Observed) -> Iterator[str]:
    """What a trigger still lacks that has half come true."""
    trigger = spec.triggers.drift
    if trigger is not None and observed.drift_since is not None:
        labels = new_labels(status, observed)
        known = "an unknown number" if labels is None else str(labels)
        yield f"drift was detected; {known} of {trigger.min_new_labels} new labelled images are in the newest version"


def new_labels(status: RetrainingStatus, observed: Observed) -> int | None:
    """Images of the newest dataset version beyond those of the one that was trained on last. None: not known."""
    data, champion = observed.data, observed.champion
    if data is None or champion is None:
        return None
    learned = champion.version
    if _may_be_tried_again(status, status.dataset_version):  # what failed has learned nothing of its version
        fruitful = (event for event in status.history if event.outcome not in _FRUITLESS)
        before_it = (event.dataset_version for event in fruitful if champion.run in (event.served, event.run))
        learned = next(before_it, learned)
    elif status.dataset_version is not None and status.images is not None and _retrained(status, champion):
        return max(data.images - status.images, 0)
    before = data.sizes.get(learned or "")
    return max(data.images - before, 0) if before is not None else None


def _retrained(status: RetrainingStatus, champion: Champion) -> bool:
    """Whether the last retraining was of this champion, or has made it."""
    return bool(status.history) and champion.run in (status.history[0].served, status.history[0].run)


def _tried(status: RetrainingStatus, champion: Champion, data: Data) -> bool:
    """Whether this champion was trained again on the newest version already: once more would teach nothing."""
    pairs = ((event.served, event.dataset_version) for event in status.history)
    return (champion.run, data.version) in pairs and not _may_be_tried_again(status, data.version)


def _may_be_tried_again(status: RetrainingStatus, version: str | None) -> bool:
    """Whether all retrainings on a dataset version failed, and they were few."""
    outcomes = [event.outcome for event in status.history if event.dataset_version == version]
    return 0 < len(outcomes) < MOST_ATTEMPTS and all(outcome in _FRUITLESS for outcome in outcomes)


def _again(status: RetrainingStatus, data: Data) -> str:
    """The end of a cause that tells attempts on one version apart; empty for the first."""
    before = sum(event.dataset_version == data.version and event.outcome in _FRUITLESS for event in status.history)
    return f"-{before + 1}" if before else ""


def _scheduled(known: datetime | None, spec: Retraining, now: datetime) -> datetime | None:
    """The time that is due or next. One that was missed and is not made up for, or of another schedule, is dropped."""
    trigger = spec.triggers.schedule
    if trigger is None:
        return None
    following = next_time(trigger.cron, trigger.time_zone, now, _PLACE)
    if known is None or known > now:
        return following
    if next_time(trigger.cron, trigger.time_zone, known - timedelta(seconds=1), _PLACE) != known:
        return following
    missed = now - known > LATE
    return following if missed and trigger.missed == "Skip" else known


def _requested(
    due: Due, spec: Retraining, observed: Observed, champion: Champion
) -> tuple[RetrainingEvent, RunRequest]:
    """The entry of the history, and the request that goes with it."""
    event = RetrainingEvent(
        cause=due.cause,
        trigger=due.trigger,
        time=observed.now,
        dataset_version=observed.data.version if observed.data is not None else None,
        served=champion.run,
        message=f"a retraining is asked for: {due.why}"[:_MESSAGE],
    )
    request = RunRequest(
        cause=due.cause,
        target=RunOwner(kind="TrainingJob", name=observed.job),
        recipe=recipe_patch(spec),
        champion=champion.bundle,
        requested_at=observed.now,
    )
    return event, request


def recipe_patch(spec: Retraining) -> dict[str, JsonValue]:
    """The deployment's part of the recipe; it starts from the served model unless it says otherwise."""
    given = dict(spec.recipe or {})
    model = given.get("model")
    model = dict(model) if isinstance(model, Mapping) else {}
    return given if {"architecture", "pretrained"} & model.keys() else {**given, "model": {**model, **_WARM_START}}


def _begun(status: RetrainingStatus, event: RetrainingEvent, spec: Retraining, observed: Observed) -> RetrainingStatus:
    """A retraining serves all that is due when it begins: the annotation, the version and the scheduled time."""
    changes: dict[str, Any] = {"history": (event, *status.history)[:HISTORY], "annotation": observed.retrain[:_TOKEN]}
    if observed.data is not None:
        changes |= {"dataset_version": observed.data.version, "images": observed.data.images}
    if (trigger := spec.triggers.schedule) is not None:
        changes["next_scheduled"] = next_time(trigger.cron, trigger.time_zone, observed.now, _PLACE)
    return status.model_copy(update=changes)


# --- What is said of it ----------------------------------------------------------------------------------------------


def _under_way(history: Sequence[RetrainingEvent]) -> Iterator[str]:
    for event in history:
        if event.outcome is None:
            where = f"run {event.run} is under way" if event.run is not None else "waits for its run"
            yield f"{event.trigger}: {event.message}; {where}"
        elif event.outcome is Outcome.AWAITING_APPROVAL:
            yield f"run {event.run} waits for the annotation fovea.dev/approve={event.run}: {event.message}"


def _last(history: Sequence[RetrainingEvent]) -> dict[str, Any]:
    newest = history[0] if history else None
    run = next((event.run for event in history if event.run is not None), None)
    return {"last_trigger": newest.trigger if newest is not None else None, "last_run": run}


def _cooled_down(status: RetrainingStatus, spec: Retraining) -> datetime | None:
    return status.history[0].time + parse_duration(spec.cooldown) if status.history else None


def _look_after(status: RetrainingStatus, spec: Retraining, observed: Observed, due: bool) -> timedelta | None:
    times = [status.next_scheduled, _cooled_down(status, spec) if due else None]
    waits = [when - observed.now for when in times if when is not None and when > observed.now]
    return min(waits, default=None)
