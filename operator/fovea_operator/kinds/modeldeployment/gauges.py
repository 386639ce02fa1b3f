"""What a ModelDeployment's status says, as gauges; how it serves, its gateways measure themselves."""

from __future__ import annotations

from fovea_operator.gauges import ObjectGauge, StatusNumbers, Values, number_of
from fovea_operator.objects import View, items, mapping, text


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


def _rollout(value: View) -> Values:
    """Where a candidate is, or that the version which the spec asks for was rolled back."""
    candidate = mapping(value, "status", "candidate")
    phase = text(candidate, "phase")
    if phase:
        yield (f"Paused{text(candidate, 'pause')}" if phase == "Paused" else phase,), 1
        return
    stalled = (each for each in items(value, "status", "conditions") if text(each, "type") == "Stalled")
    failed = any(text(each, "status") == "True" and text(each, "reason") == "RolledBack" for each in stalled)
    if mapping(value, "status"):
        yield ("RolledBack" if failed else "None",), 1


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
    ObjectGauge(
        "fovea_modeldeployment_rollout",
        "1 for the state of the newest version's rollout: its phase, Paused with the cause, RolledBack, or None.",
        ("state",),
        _rollout,
    ),
    ObjectGauge(
        "fovea_modeldeployment_candidate_weight",
        "The candidate's share of the requests, in per cent.",
        (),
        StatusNumbers(("candidate", "weight")),
    ),
)
