"""What a Run's status says, as gauges: of one that is at work how far it is and what it measures."""

from __future__ import annotations

from collections.abc import Callable

from fovea_operator.gauges import ObjectGauge, StatusNumbers, Values
from fovea_operator.objects import View, text


def _phase(value: View) -> Values:
    owner = (text(value, "spec", "owner", "kind"), text(value, "spec", "owner", "name"))
    if phase := text(value, "status", "phase"):
        yield (text(value, "spec", "type"), *owner, phase), 1.0


def _at_work(read: Callable[[View], Values]) -> Callable[[View], Values]:
    def read_of_running(value: View) -> Values:
        if text(value, "status", "phase") == "Running":
            yield from read(value)

    return read_of_running


GAUGES = (
    ObjectGauge(
        "fovea_run_phase", "1 for the phase that a Run is in.", ("type", "owner_kind", "owner_name", "phase"), _phase
    ),
    ObjectGauge(
        "fovea_run_progress_ratio",
        "Share of a Run's work that is done.",
        (),
        _at_work(StatusNumbers(("progress", "percent"), 0.01)),
    ),
    ObjectGauge("fovea_run_epoch", "Epochs done.", (), _at_work(StatusNumbers(("progress", "epoch")))),
    ObjectGauge(
        "fovea_run_images_per_second",
        "Images worked on per second.",
        (),
        _at_work(StatusNumbers(("progress", "imagesPerSecond"))),
    ),
    ObjectGauge(
        "fovea_run_metric", "Latest value of a metric.", ("metric",), _at_work(StatusNumbers(("progress", "metrics")))
    ),
)
