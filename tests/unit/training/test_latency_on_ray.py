"""A whole training on two of Ray's nodes, of which one is there for its latency alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from fovea_api.names import NODE_VARIABLE, RAY_LATENCY
from fovea_api.run import Progress, RunResult
from fovea_serving.bundle import load_bundle
from fovea_trainer import local
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.reporting import RunStatus
from synthetic import manifest

from tests.ray_cluster import connected

EDGE = "edge-1"


@pytest.fixture
def cluster() -> Iterator[None]:
    with connected(logs=True, num_cpus=1, include_dashboard=False) as made:
        made.add_node(num_cpus=0, resources={RAY_LATENCY: 1}, env_vars={NODE_VARIABLE: EDGE})
        yield


class Silent:
    """Reports nothing."""

    def report(self, progress: Progress) -> None: ...

    def finish(self, result: RunResult) -> None: ...


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("cluster")
def test_a_training_and_the_choice_before_it_measure_all_latencies_on_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As an operator's run does: its environment has a Run to report into, though nothing answers there."""
    path = manifest(
        tmp_path,
        {"train": 32, "validation": 16},
        model={
            "architecture": "Auto",
            "candidates": ["resnet18", "mobilenet-v3"],
            "pretrained": {"weights": "None"},
        },
        training={"epochs": 1, "batchSize": 8, "precision": "FP32"},
        evaluation={
            "splits": ["validation"],
            "latency": {"resources": {"requests": {"cpu": "3"}}, "nodeSelector": {"disk": "ssd"}},
        },
        export={"formats": ["ONNX", "OpenVINO", "ExportedProgram"]},
        compute={"resources": {"requests": {"cpu": "1"}}},
        successCriteria=[{"metric": "latency/p95Milliseconds", "max": 60_000}],
    )
    status = RunStatus("https://127.0.0.1:1", "ns", "r", credentials=tmp_path)
    monkeypatch.setattr(local, "RunEnvironment", partial(RunEnvironment, status=status))
    monkeypatch.setattr(local, "unmeasurable_here", lambda *given: ())
    result = local.train_manifest(path, str(tmp_path / "store"), ray=True, reporter=Silent())
    assert result.training is not None
    where = result.training.latency_measured_on
    assert where is not None
    assert (where.node, where.cpus, where.device) == (EDGE, 3, "CPU")
    assert all(each.metrics["latency/p95Milliseconds"] > 0 for each in result.training.candidates)
    bundle = load_bundle(str(result.artifact)).manifest
    assert bundle.metrics.latency_measured_on == where
    assert bundle.metrics.exported["latency/p95Milliseconds"] > 0
    for each in bundle.formats or ():
        assert each.metrics["latency/p95Milliseconds"] > 0, each.format
    told = [line for line in capfd.readouterr().out.splitlines() if "was measured on" in line]
    assert len(told) == 2 + 3, "two candidates, then three formats of what was chosen"
    assert all(f"of {EDGE}" in line for line in told)
