"""What a Dataset's status says, as gauges."""

from __future__ import annotations

from fovea_operator.gauges import MAX_CLASSES, OTHER_CLASSES, ObjectGauge, StatusNumbers, Values
from fovea_operator.objects import View, items, number, text


def _annotations(value: View) -> Values:
    classes = list(items(value, "status", "classes"))
    for each in classes[:MAX_CLASSES]:
        yield (text(each, "name"),), float(number(each, "annotations"))
    if rest := classes[MAX_CLASSES:]:
        yield (OTHER_CLASSES,), float(sum(number(each, "annotations") for each in rest))


def _findings(value: View) -> Values:
    for finding in items(value, "status", "findings"):
        yield (text(finding, "kind"), text(finding, "severity")), float(number(finding, "count"))


GAUGES = (
    ObjectGauge("fovea_dataset_images", "Images of the newest version.", ("split",), StatusNumbers(("splits",))),
    ObjectGauge("fovea_dataset_annotations", "Annotations of the newest version.", ("class",), _annotations),
    ObjectGauge(
        "fovea_dataset_quality",
        "What checks of the newest version counted.",
        ("check",),
        StatusNumbers(("quality",)),
    ),
    ObjectGauge(
        "fovea_dataset_findings", "What is not right in the newest version.", ("finding", "severity"), _findings
    ),
)
