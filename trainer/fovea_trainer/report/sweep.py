"""The report of a sweep: what was found, what mattered, what was stopped and why, and what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from fovea_api.common import format_duration
from fovea_api.sweep import SweepManifest, TrialRecord, TrialState
from fovea_api.tuningsweep import Parameter, SweepObjective, SweepRecipe
from markupsafe import Markup
from pydantic import JsonValue

from fovea_trainer.report import base
from fovea_trainer.report.base import Fact, Section
from fovea_trainer.tuning.importance import importances
from fovea_trainer.tuning.patch import recipe_patch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDED = {
    "AllTrials": "All trials were made.",
    "BudgetSpent": "The budget was spent.",
    "SpaceExhausted": "Every combination was tried.",
    "TooManyFailed": "Too many trials failed.",
}
TONES: dict[TrialState, base.Tone] = {
    TrialState.SUCCEEDED: "good",
    TrialState.STOPPED_EARLY: "neutral",
    TrialState.FAILED: "bad",
}
CURVES, LINES = 60, 200
"""Trials whose curves and lines are drawn at most: of more, the last ones are left out."""


def write_report(path: Path, manifest: SweepManifest, recipe: SweepRecipe) -> Path:
    """Writes the report as one self-contained HTML file."""
    path.write_text(report(manifest, recipe), encoding="utf-8")
    return path


def report(manifest: SweepManifest, recipe: SweepRecipe) -> str:
    """The report as HTML."""
    summary, trials = manifest.summary, manifest.trials
    counts, best = summary.trials, summary.best
    first = recipe.objectives[0].metric
    facts = [
        Fact(f"{len(trials)}", "trials"),
        Fact(f"{counts.stopped_early}", "stopped early"),
        Fact(f"{counts.failed}", "failed", "bad" if counts.failed else "neutral"),
        Fact(f"{summary.epochs:,}", "epochs"),
        Fact(format_duration(timedelta(seconds=summary.seconds)), "of work"),
    ]
    if best is not None:
        facts.insert(0, Fact(f"{best.metrics.get(first, math.nan):.4g}", f"{first} of {best.trial}", "good"))
    sections = [
        _result(manifest, recipe),
        *_front(manifest, recipe),
        *_parallel(trials, recipe),
        *_importances(trials, recipe),
        *_curves(trials, recipe),
        _trials(trials, recipe),
        _cost(manifest),
    ]
    subtitle = f"{ENDED[summary.ended]} Dataset {manifest.dataset}, version {manifest.dataset_version[:19]}."
    return base.render(manifest.name, sections, kind="Tuning report", subtitle=subtitle, facts=facts)


def _result(manifest: SweepManifest, recipe: SweepRecipe) -> Section:
    summary = manifest.summary
    by_name = {trial.trial: trial for trial in manifest.trials}
    chosen = [("Best by the first objective", summary.best)] + (
        [("Knee of the front", summary.knee)] if summary.knee else []
    )
    rows: list[Sequence[object]] = []
    parts: list[Markup] = []
    for words, trial in chosen:
        if trial is not None:
            rows.append((words, trial.trial, *(base.rounded(trial.metrics.get(o.metric)) for o in recipe.objectives)))
    if rows:
        parts.append(base.table(["", "Trial", *(o.metric for o in recipe.objectives)], rows))
    else:
        parts.append(base.paragraph("No trial was trained to its end and keeps all limits."))
    if summary.best is not None:
        patch = yaml.safe_dump(recipe_patch(by_name[summary.best.trial]), sort_keys=False)
        parts.append(base.paragraph("The recipe of the best trial, to be merged into a TrainingJob:"))
        parts.append(Markup("<pre><code>{}</code></pre>").format(patch))
    sought = [(o.metric, "more" if o.goal == "Maximize" else "less", o.limit) for o in recipe.objectives]
    parts.append(base.table(["Objective", "Better is", "Limit"], sought))
    return Section("Result", base.join(*parts), "Measured on the exported model, on the validation split alone.")


def _front(manifest: SweepManifest, recipe: SweepRecipe) -> list[Section]:
    if len(recipe.objectives) < 2:
        return []
    first, second, *_ = recipe.objectives
    measured = [trial for trial in manifest.trials if trial.state is TrialState.SUCCEEDED]
    if not measured:
        return []
    front = {trial.trial for trial in manifest.summary.pareto}
    figure, axes = base.new_figure(6.5, 3.6)
    for trial in measured:
        on = trial.trial in front
        kept = trial.within_limits
        place = trial.metrics[second.metric], trial.metrics[first.metric]
        color = base.color(0) if on else base.MUTED
        axes.plot(*place, "o" if kept else "x", color=color, markersize=6 if on else 4)
        if on:
            axes.annotate(trial.trial, place, (4, 4), textcoords="offset points", fontsize=7, color=base.INK)
    line = sorted((t.metrics[second.metric], t.metrics[first.metric]) for t in measured if t.trial in front)
    axes.plot([x for x, _ in line], [y for _, y in line], "-", color=base.color(0), linewidth=1, alpha=0.6)
    if second.limit is not None:
        axes.axvline(second.limit, color=base.color(1), linestyle="--", linewidth=1)
    if first.limit is not None:
        axes.axhline(first.limit, color=base.color(1), linestyle="--", linewidth=1)
    axes.set_xlabel(second.metric)
    axes.set_ylabel(first.metric)
    rows = [(trial.trial, *(base.rounded(trial.metrics.get(o.metric)) for o in recipe.objectives),
             "yes" if trial.trial == (manifest.summary.knee.trial if manifest.summary.knee else "") else "")
            for trial in manifest.summary.pareto]  # fmt: skip
    table = base.table(["Trial", *(o.metric for o in recipe.objectives), "Knee"], rows) if rows else Markup("")
    lead = "Blue: trials that no other beats in all objectives. Crosses miss a limit; dashed lines are the limits."
    return [Section("Pareto front", base.join(base.embed_figure(figure), table), lead)]


def _parallel(trials: Sequence[TrialRecord], recipe: SweepRecipe) -> list[Section]:
    """A line a trial over all parameters, coloured by the first objective."""
    import matplotlib

    objective = recipe.objectives[0]
    known = [(trial, value) for trial in trials[:LINES] if (value := _value(trial, objective)) is not None]
    paths = list(dict.fromkeys(parameter.path for parameter in recipe.parameters))
    if len(known) < 2 or not paths:
        return []
    low, high = min(value for _, value in known), max(value for _, value in known)
    figure, axes = base.new_figure(7.5, 3.4)
    shades = matplotlib.colormaps["viridis"]
    axis_of = {path: next(p for p in recipe.parameters if p.path == path) for path in paths}
    for trial, value in sorted(known, key=lambda pair: objective.loss(pair[1]), reverse=True):
        heights = [
            _height(axis_of[path], trial.parameters[path]) if path in trial.parameters else None for path in paths
        ]
        heights.append((value - low) / (high - low) if high > low else 0.5)
        points = [(index, height) for index, height in enumerate(heights) if height is not None]
        share = (value - low) / (high - low) if high > low else 0.5
        axes.plot([x for x, _ in points], [y for _, y in points], color=shades(share), linewidth=1.2, alpha=0.75)
    names = [path.rpartition(".")[2] for path in paths] + [objective.metric]
    axes.set_xticks(range(len(names)), names, rotation=12, ha="right")
    axes.set_yticks([])
    _ends(axes, [axis_of[path] for path in paths], (low, high))
    lead = f"A line a trial; the lighter, the higher its {objective.metric}, also of trials that were stopped."
    return [Section("Parameters", base.embed_figure(figure), lead)]


def _height(parameter: Parameter, value: JsonValue) -> float | None:
    """Where a value stands on its parameter's axis, 0 to 1."""
    if parameter.choice is not None:
        if value not in parameter.choice:
            return None
        return list(parameter.choice).index(value) / max(1, len(parameter.choice) - 1)
    bounds = parameter.uniform or parameter.log_uniform or parameter.int_uniform
    if bounds is None or not isinstance(value, int | float):
        return None
    if parameter.log_uniform is not None:
        return float(math.log(value / bounds.min) / math.log(bounds.max / bounds.min))
    return float((value - bounds.min) / (bounds.max - bounds.min))


def _ends(axes: Axes, parameters: Sequence[Parameter], objective: tuple[float, float]) -> None:
    """Writes the ends of each axis."""
    style: dict[str, Any] = {"fontsize": 7, "color": base.MUTED, "ha": "center"}
    for index, parameter in enumerate(parameters):
        axes.axvline(index, color="#c5ccd3", linewidth=0.7)
        if parameter.choice is not None:
            most = max(1, len(parameter.choice) - 1)
            marks = [(place / most, _short(value)) for place, value in enumerate(parameter.choice)]
        else:
            bounds = parameter.uniform or parameter.log_uniform or parameter.int_uniform
            assert bounds is not None
            marks = [(0.0, f"{bounds.min:g}"), (1.0, f"{bounds.max:g}")]
        for height, text in marks:
            axes.annotate(text, (index, height), (0, 3), textcoords="offset points", **style)
    for height, value in zip((0.0, 1.0), objective, strict=True):
        axes.annotate(f"{value:.4g}", (len(parameters), height), (0, 3), textcoords="offset points", **style)


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 18 else f"{text[:17]}…"


def _value(trial: TrialRecord, objective: SweepObjective) -> float | None:
    """A trial's value of an objective: measured, or the best so far where it was stopped."""
    if trial.state is TrialState.FAILED:
        return None
    if objective.metric in trial.metrics:
        return trial.metrics[objective.metric]
    values = [metrics[objective.metric] for metrics in trial.curve if objective.metric in metrics]
    return min(values, key=objective.loss) if values else None


def _importances(trials: Sequence[TrialRecord], recipe: SweepRecipe) -> list[Section]:
    sections: list[Section] = []
    for objective in recipe.objectives:
        shares = importances(trials, recipe, objective)
        if shares:
            rows = [(path, round(share, 3)) for path, share in shares.items()]
            sections.append(Section(f"Importance for {objective.metric}", base.table(["Parameter", "Share"], rows),
                "PED-ANOVA (Watanabe et al., 2023): what decides whether a trial is among the best. It says little of "
                "few trials."))  # fmt: skip
    return sections


def _curves(trials: Sequence[TrialRecord], recipe: SweepRecipe) -> list[Section]:
    objective = next(o for o in recipe.objectives if o.metric.startswith("validation/"))
    figure, axes = base.new_figure(6.5, 3.2)
    drawn = 0
    for trial in trials[:CURVES]:
        points = [(epoch, metrics[objective.metric]) for epoch, metrics in enumerate(trial.curve, 1)
                  if objective.metric in metrics]  # fmt: skip
        if points:
            drawn += 1
            color, alpha = (base.color(0), 0.9) if trial.state is TrialState.SUCCEEDED else (base.MUTED, 0.5)
            form = "-" if len(points) > 1 else "o"
            epochs, heights = zip(*points, strict=True)
            axes.plot(epochs, heights, form, markersize=3, color=color, alpha=alpha, linewidth=1.1)
    if not drawn:
        return []
    axes.set_xlabel("epoch")
    axes.set_ylabel(objective.metric)
    return [Section("Learning curves", base.embed_figure(figure), "Blue: trained to the end. Grey: stopped early.")]


def _trials(trials: Sequence[TrialRecord], recipe: SweepRecipe) -> Section:
    rows = [
        (
            trial.trial,
            base.badge(trial.state, TONES[trial.state]),
            trial.epochs,
            *(base.rounded(_value(trial, objective)) for objective in recipe.objectives),
            ", ".join(f"{path.rpartition('.')[2]} {_number(value)}" for path, value in trial.parameters.items()),
            trial.reason,
            round(trial.seconds),
        )
        for trial in trials
    ]
    head = ["Trial", "State", "Epochs", *(o.metric for o in recipe.objectives), "Values", "Why it ended", "Seconds"]
    return Section("Trials", base.table(head, rows) if rows else base.paragraph("None was made."))


def _number(value: JsonValue) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _short(value)


def _cost(manifest: SweepManifest) -> Section:
    summary = manifest.summary
    stopped = [trial for trial in manifest.trials if trial.state is TrialState.STOPPED_EARLY]
    longest = max((trial.epochs for trial in manifest.trials), default=0)
    rows = [
        ("Time of work", format_duration(timedelta(seconds=summary.seconds))),
        ("CPU core hours reserved", base.rounded(summary.usage.cpu_hours)),
        ("GPU hours reserved", base.rounded(summary.usage.gpu_hours)),
        ("Epochs trained", summary.epochs),
        ("Epochs that early stopping has spared", sum(longest - trial.epochs for trial in stopped)),
    ]
    return Section("Cost", base.table(["", ""], rows))
