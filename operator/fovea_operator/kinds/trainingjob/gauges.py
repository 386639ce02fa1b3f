"""What a TrainingJob's status says, as gauges."""

from __future__ import annotations

from collections.abc import Callable

from fovea_operator.gauges import ObjectGauge, StatusNumbers, Values, number_of
from fovea_operator.objects import View, items, text


def _criterion(field: str) -> Callable[[View], Values]:
    def read(value: View) -> Values:
        for criterion in items(value, "status", "result", "successCriteria"):
            if (found := number_of(criterion.get(field))) is not None:
                yield (text(criterion, "metric"),), found

    return read


GAUGES = (
    ObjectGauge(
        "fovea_trainingjob_eligible",
        "Whether the newest model meets all criteria.",
        (),
        StatusNumbers(("result", "eligible")),
    ),
    ObjectGauge(
        "fovea_trainingjob_criterion_measured",
        "Value of a criterion's metric, measured on the exported model.",
        ("metric",),
        _criterion("measured"),
    ),
    ObjectGauge("fovea_trainingjob_criterion_min", "Smallest acceptable value.", ("metric",), _criterion("min")),
    ObjectGauge("fovea_trainingjob_criterion_max", "Largest acceptable value.", ("metric",), _criterion("max")),
)
