"""What the run of a sweep has found: the part of the status that says it, and how the sweep stands by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from fovea_api.sweep import SweepSummary, Trial, TrialCounts
from fovea_api.tuningsweep import SweepObjective, TuningSweepSpec, TuningSweepStatus

from fovea_operator.conditions import Assessment, ready, stalled
from fovea_operator.objects import Key
from fovea_operator.runs.plan import RunWrites
from fovea_operator.runs.snapshot import RunView
from fovea_operator.writes import Emit, Write

_ENDS: Mapping[str, str] = {
    "AllTrials": "all trials have ended",
    "SpaceExhausted": "all combinations were tried",
    "BudgetSpent": "the budget is spent",
    "TooManyFailed": "too many trials have failed",
}


class Found(TypedDict, total=False):
    """The fields of a status that say what was found."""

    trials: TrialCounts
    best: Trial | None
    knee: Trial | None
    pareto: tuple[Trial, ...]
    front_size: int
    budget_percent: int | None
    headline: str | None
    ended_trials: str
    spent: str
    artifact: str | None
    digest: str | None
    report: str | None


def summary_of(view: RunView | None) -> SweepSummary | None:
    """What a run has come to, also one that failed."""
    result = view.status.result if view is not None else None
    return result.sweep if result is not None else None


def found_by(spec: TuningSweepSpec, old: TuningSweepStatus, view: RunView | None) -> Found:
    """What a run has found so far; empty before it has reported anything, or where fewer of its trials had ended at the
    time of the report (of an attempt before, say) than at one that is known, so that what was found before stays."""
    progress = view.status.progress.sweep if view is not None and view.status.progress is not None else None
    result, summary = view.status.result if view is not None else None, summary_of(view)
    reported = summary or progress
    if reported is None:
        return {}
    counts, usage = reported.trials, reported.usage
    known = old.trials.ended if view is not None and old.run == view.name and old.trials is not None else 0
    if summary is None and counts.ended < known:
        return {}
    found: Found = {"trials": counts, "best": reported.best, "front_size": reported.front_size}
    percent = progress.budget_percent if progress is not None else None
    hours = f"{usage.gpu_hours:.3g} GPU h" if usage.gpu_hours else f"{usage.cpu_hours:.3g} CPU h"
    found["budget_percent"] = percent
    found["spent"] = f"{percent} %" if percent is not None else hours
    found["headline"] = _headline(spec.objectives[0], reported.best)
    found["ended_trials"] = f"{counts.ended}/{counts.total}"
    if summary is not None and result is not None:
        found["knee"], found["pareto"] = summary.knee, summary.pareto
        if result.artifact is not None and result.digest is not None:
            found["artifact"], found["digest"] = result.artifact, result.digest
        if result.report is not None:
            found["report"] = result.report
    return found


def _headline(objective: SweepObjective, best: Trial | None) -> str | None:
    value = best.metrics.get(objective.metric) if best is not None else None
    return f"{objective.metric} {value:.4g}" if value is not None else None


def assess(spec: TuningSweepSpec, made: RunWrites, summary: SweepSummary | None) -> Assessment:
    """Where the sweep stands."""
    assessment, objectives = made.step.assessment, spec.objectives
    if assessment.stalled is not None and summary is not None and summary.best is not None:
        kept = f"{assessment.message}; found before that: {_words(objectives, summary.best)}"
        return stalled(assessment.reason, kept)
    if not assessment.ready:
        return assessment
    if summary is None or summary.best is None:
        return stalled(
            "ResultIncomplete", f"run {made.run} named no trial; the trainer image does not fit this operator"
        )
    counts, how = summary.trials, _ENDS[summary.ended]
    words = f"run {made.run}: {_words(objectives, summary.best)}; {how}: {counts.ended} of {counts.total} trials"
    return ready("BudgetSpent" if summary.ended == "BudgetSpent" else "Succeeded", words)


def _words(objectives: Sequence[SweepObjective], trial: Trial) -> str:
    """A trial with its values."""
    values = (f"{each.metric} {trial.metrics[each.metric]:.4g}" for each in objectives if each.metric in trial.metrics)
    return f"trial {trial.trial} with {', '.join(values)}"


def better_trial(
    key: Key, run: str, objectives: Sequence[SweepObjective], before: Trial | None, now: Trial | None
) -> tuple[Write, ...]:
    """The event that a better trial was found, once for each."""
    if now is None or (before is not None and (before.trial, before.metrics) == (now.trial, now.metrics)):
        return ()
    return (Emit(key, "Normal", "BetterTrial", f"run {run}: {_words(objectives, now)}", f"{run}/{now.trial}"),)
