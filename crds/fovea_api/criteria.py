"""Success criteria and how they are checked: the one pure function that trainer and operator share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from fovea_api.common import Bool, Model, Number, Rule

MetricName = Annotated[str, Field(min_length=1, max_length=192, pattern="^[a-z]+/[^ /][^/]*(/[^/]+)?$")]
"""`<split>/<metric>`, such as test/mAP50, latency/p95Milliseconds, size/megabytes, test/AP/<class>."""


class Criterion(Model):
    """Bound on a metric of the exported model."""

    metric: MetricName
    """Name of the metric: test/mAP50, latency/p95Milliseconds, size/megabytes, test/AP/<class>, …"""
    min: Number | None = None
    """Minimum, in the unit of the metric."""
    max: Number | None = None
    """Maximum, in the unit of the metric."""

    rules: ClassVar = (
        Rule(
            "has(self.min) || has(self.max)",
            "a criterion needs min, max or both",
            lambda obj: obj.min is not None or obj.max is not None,
        ),
        Rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "min must not exceed max",
            lambda obj: obj.min is None or obj.max is None or obj.min <= obj.max,
            ".min",
        ),
    )


class CriterionResult(Model):
    """Result of a criterion."""

    metric: MetricName
    """Name of the metric."""
    min: Number | None = None
    """Minimum, in the unit of the metric."""
    max: Number | None = None
    """Maximum, in the unit of the metric."""
    measured: Number | None = None
    """Value of the exported model. Absent: not measured, so the criterion is not met."""
    met: Bool
    """Whether the criterion is met."""

    def __str__(self) -> str:
        bounds = [
            f"≥ {self.min:g}" if self.min is not None else "",
            f"≤ {self.max:g}" if self.max is not None else "",
        ]
        measured = "not measured" if self.measured is None else f"{self.measured:.4g}"
        return f"{self.metric} {measured} (required {' and '.join(filter(None, bounds))})"


HELD_OUT = ("validation", "test")
"""Splits on which a metric says how good a model is on images that it was not trained on."""


def measures_quality(metrics: Mapping[str, float]) -> bool:
    """Whether some metric says how good the model is, and not only how fast or large."""
    return any(name.partition("/")[0] in HELD_OUT for name in metrics)


def eligible(results: Sequence[CriterionResult], metrics: Mapping[str, float]) -> bool:
    """Whether a model may be served: its quality was measured, and all criteria are met."""
    return measures_quality(metrics) and all(result.met for result in results)


def missing_splits(splits: Sequence[str], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """What it means that splits which were to be evaluated have no metrics, in sentences."""
    return tuple(
        words
        for split, words in MISSING.items()
        if split in splits and not any(name.startswith(f"{split}/") for name in metrics)
    )


MISSING = {
    "validation": "there is no validation split, so the weights of the last epoch were kept",
    "test": "there is no test split, so the metrics are of images that had a say in the training",
}


def evaluate_criteria(criteria: Sequence[Criterion], metrics: Mapping[str, float]) -> tuple[CriterionResult, ...]:
    """Evaluates each criterion on the metrics. What was not measured is not met."""
    return tuple(_evaluate(criterion, metrics.get(criterion.metric)) for criterion in criteria)


def _evaluate(criterion: Criterion, measured: float | None) -> CriterionResult:
    low, high = criterion.min, criterion.max
    met = measured is not None and (low is None or measured >= low) and (high is None or measured <= high)
    return CriterionResult(metric=criterion.metric, min=low, max=high, measured=measured, met=met)
