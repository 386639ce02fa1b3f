"""What the objects' statuses say, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

import pytest
from fovea_operator.gauges import MAX_CLASSES, MAX_VALUES, OTHER_CLASSES, ObjectGauges
from fovea_operator.kinds import builtin
from fovea_operator.objects import DATASET, MODEL_DEPLOYMENT, RUN, TRAINING_JOB, Kind
from prometheus_client import CollectorRegistry, generate_latest

METADATA = {"namespace": "ns", "name": "cells"}
OF_OBJECT = {"namespace": "ns", "name": "cells"}
TRAINING: dict[str, Any] = {"type": "Training", "owner": {"kind": "TrainingJob", "name": "cells"}}


def registry_of(kind: Kind, status: dict[str, Any], spec: dict[str, Any] | None = None) -> CollectorRegistry:
    value = {"metadata": METADATA, "spec": spec or {}, "status": status}
    registry = CollectorRegistry()
    registry.register(ObjectGauges(builtin(), lambda asked: [value] if asked == kind else []))
    return registry


@pytest.mark.parametrize(
    ("kind", "status", "name", "labels", "value"),
    [
        (DATASET, {"splits": {"train": 7, "test": 3}}, "fovea_dataset_images", {"split": "test"}, 3),
        (
            DATASET,
            {"findings": [{"kind": "MissingImage", "severity": "Serious", "count": 4}]},
            "fovea_dataset_findings",
            {"finding": "MissingImage", "severity": "Serious"},
            4,
        ),
        (DATASET, {"quality": {"nearDuplicates": 2}}, "fovea_dataset_quality", {"check": "nearDuplicates"}, 2),
        (TRAINING_JOB, {"result": {"eligible": False}}, "fovea_trainingjob_eligible", {}, 0),
        (
            TRAINING_JOB,
            {"result": {"successCriteria": [{"metric": "test/mAP", "min": 0.5, "measured": 0.6, "met": True}]}},
            "fovea_trainingjob_criterion_measured",
            {"metric": "test/mAP"},
            0.6,
        ),
        (MODEL_DEPLOYMENT, {"replicas": 2}, "fovea_modeldeployment_replicas", {}, 2),
        (
            MODEL_DEPLOYMENT,
            {"objectives": [{"metric": "errorRate", "target": 0.01, "met": True}]},
            "fovea_modeldeployment_objective_met",
            {"metric": "errorRate"},
            1,
        ),
        (MODEL_DEPLOYMENT, {"drift": {"state": "Detected"}}, "fovea_modeldeployment_drift_detected", {}, 1),
        (
            MODEL_DEPLOYMENT,
            {"drift": {"state": "None", "detectors": [{"name": "Embeddings", "score": 0.2, "drifted": False}]}},
            "fovea_modeldeployment_drift_effect",
            {"detector": "Embeddings"},
            0.2,
        ),
    ],
)
def test_a_status_as_gauges(
    kind: Kind, status: dict[str, Any], name: str, labels: dict[str, str], value: float
) -> None:
    assert registry_of(kind, status).get_sample_value(name, OF_OBJECT | labels) == value


def test_conditions_and_usage_of_every_kind() -> None:
    conditions = [
        {"type": "Ready", "status": "False", "reason": "InvalidOption"},
        {"type": "Stalled", "status": "True", "reason": "InvalidOption"},
    ]
    for kind in builtin().primary:
        found = registry_of(kind, {"conditions": conditions, "usage": {"cpuHours": 1.5}})
        labels = OF_OBJECT | {"kind": kind.name}
        assert found.get_sample_value("fovea_object_ready", labels) == 0
        assert found.get_sample_value("fovea_object_stalled", labels | {"reason": "InvalidOption"}) == 1
        assert found.get_sample_value("fovea_object_usage_hours", labels | {"resource": "cpu"}) == 1.5
    fine = [{"type": "Ready", "status": "True"}, {"type": "Stalled", "status": "False", "reason": "Fine"}]
    assert b"fovea_object_stalled{" not in generate_latest(registry_of(DATASET, {"conditions": fine}))


def test_of_a_run_that_has_ended_only_its_phase_is_known() -> None:
    progress = {"percent": 25, "epoch": 1.5, "imagesPerSecond": 10, "metrics": {"train/loss": 0.5}}
    running = registry_of(RUN, {"phase": "Running", "progress": progress}, TRAINING)
    assert running.get_sample_value("fovea_run_progress_ratio", OF_OBJECT) == 0.25
    assert running.get_sample_value("fovea_run_epoch", OF_OBJECT) == 1.5
    assert running.get_sample_value("fovea_run_metric", OF_OBJECT | {"metric": "train/loss"}) == 0.5
    ended = generate_latest(registry_of(RUN, {"phase": "Succeeded", "progress": progress}, TRAINING)).decode()
    series = [line for line in ended.splitlines() if not line.startswith("#")]
    assert len(series) == 1
    assert 'owner_name="cells"' in series[0]
    assert 'phase="Succeeded"' in series[0]


def test_what_could_grow_without_bound_is_cut() -> None:
    classes = [{"name": f"c{number}", "annotations": 2} for number in range(MAX_CLASSES + 5)]
    found = registry_of(DATASET, {"classes": classes})
    assert found.get_sample_value("fovea_dataset_annotations", OF_OBJECT | {"class": OTHER_CLASSES}) == 10
    many = {f"metric{number}": 1 for number in range(MAX_VALUES + 5)}
    text = generate_latest(registry_of(RUN, {"phase": "Running", "progress": {"metrics": many}}, TRAINING)).decode()
    assert text.count("fovea_run_metric{") == MAX_VALUES


def test_an_object_without_a_status_says_nothing() -> None:
    for kind in (*builtin().primary, RUN):
        text = generate_latest(registry_of(kind, {})).decode()
        assert all(line.startswith("#") for line in text.splitlines())
