"""What a ModelDeployment's status says, as gauges; how it serves, its gateways measure themselves."""

from __future__ import annotations

from fovea_operator.gauges import ObjectGauge, StatusNumbers, Values, number_of
from fovea_operator.objects import View, items, text


def _objectives(value: View) -> Values:
    for objective in items(value, "status", "objectives"):
        if (met := number_of(objective.get("met"))) is not None:
            yield (text(objective, "metric"),), met


GAUGES = (
    ObjectGauge("fovea_modeldeployment_replicas", "Ready replicas.", (), StatusNumbers(("replicas",))),
    ObjectGauge(
        "fovea_modeldeployment_objective_met",
        "Whether a promise is kept; absent while too little is measured.",
        ("metric",),
        _objectives,
    ),
)
