"""The first section of the training report, where there is reason for it: what makes the model useless, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from fovea_api.version import DatasetVersion, Severity
from markupsafe import Markup
from pydantic import JsonValue

from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.report import base
from fovea_trainer.report.base import Section
from fovea_trainer.tasks import definition

FEW_STEPS = 500
"""Optimizer steps below which a metric of zero says little but that the training was too short."""
FLAT = 0.9
"""The last epoch's loss relative to the first one's from which on it counts as not having fallen."""


def problem_sections(
    version: DatasetVersion,
    headline: EvaluationResult | None,
    recipe: Mapping[str, JsonValue],
    history: Sequence[Mapping[str, float]],
    notes: Sequence[str],
) -> list[Section]:
    """A metric of zero with its likely causes, and the serious findings of the dataset version; none without either."""
    rows = [
        (f"{headline.split} {metric} is 0", _list(_causes(version, recipe, history, notes)))
        for metric in (definition(headline.task).headline_metrics if headline else ())
        if headline and headline.metric(metric) == 0
    ]
    rows += [
        (f"{finding.kind}, {base.count(finding.count, 'time', 'times')}", _list([finding.message]))
        for finding in version.findings
        if finding.severity is Severity.SERIOUS
    ]
    if not rows:
        return []
    table = base.table(["Problem", "Likely cause"], rows)
    return [Section("Problems", table, "What keeps the model from being of use, before anything else is read.")]


def _causes(
    version: DatasetVersion,
    recipe: Mapping[str, JsonValue],
    history: Sequence[Mapping[str, float]],
    notes: Sequence[str],
) -> Iterator[str]:
    yield from (note for note in notes if "vanish" in note or "is left in the network's input" in note)
    training = recipe.get("training")
    batch = training.get("batchSize") if isinstance(training, Mapping) else None
    if isinstance(batch, int | float) and batch > 0:
        steps = len(history) * math.ceil(version.splits.get("train", 0) / batch)
        if steps < FEW_STEPS:
            yield f"The training was {base.count(steps, 'step', 'steps')} long: raise training.epochs."
    losses = [epoch["train/loss"] for epoch in history if "train/loss" in epoch]
    if len(losses) > 1 and losses[-1] > FLAT * losses[0]:
        yield f"The loss did not fall ({losses[0]:.3g} to {losses[-1]:.3g}): change training.optimizer.learningRate."
    yield "If neither helps, the labels may not fit the images: look at the sample images of the Dataset's report."


def _list(texts: Iterator[str] | Sequence[str]) -> Markup:
    return base.bullets(list(texts))
