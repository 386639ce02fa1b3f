"""What a ModelDeployment's status says, as gauges; how it serves, its gateways measure themselves."""

from __future__ import annotations

from fovea_operator.gauges import ObjectGauge, StatusNumbers, Values, number_of
from fovea_operator.objects import View, items, text


def _objectives(value: View) -> Values:
    for objective in items(value, "status", "objectives"):
        if (met := number_of(objective.get("met"))) is not None:
            yield (text(objective, "metric"),), met


def _drift(value: View) -> Values:
    """Absent while it is unknown."""
    if (state := text(value, "status", "drift", "state")) in ("None", "Suspected", "Detected"):
        yield (), float(state == "Detected")


def _effects(value: View) -> Values:
    for result in items(value, "status", "drift", "detectors"):
        if (score := number_of(result.get("score"))) is not None:
            yield (text(result, "name"),), score


GAUGES = (
    ObjectGauge("fovea_modeldeployment_replicas", "Ready replicas.", (), StatusNumbers(("replicas",))),
    ObjectGauge(
        "fovea_modeldeployment_objective_met",
        "Whether a promise is kept; absent while too little is measured.",
        ("metric",),
        _objectives,
    ),
    ObjectGauge(
        "fovea_modeldeployment_drift_detected",
        "Whether drift was detected; absent while that is unknown.",
        (),
        _drift,
    ),
    ObjectGauge(
        "fovea_modeldeployment_drift_effect",
        "Largest effect size in the last window: Cliff's delta, or Cohen's h of classes.",
        ("detector",),
        _effects,
    ),
)
