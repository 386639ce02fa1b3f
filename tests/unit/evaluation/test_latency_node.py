"""Latency on a node of its own: two of Ray's nodes, started as KubeRay starts the pods of a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import onnx
import pytest
import ray
from fovea_api.common import Task
from fovea_api.errors import Recoverable, Retryable
from fovea_api.names import NODE_VARIABLE
from fovea_api.run import Execution
from fovea_api.trainingjob import Latency as Wanted
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import InvalidModel
from fovea_trainer.evaluation import latency_node
from fovea_trainer.evaluation.latency import Artefact
from fovea_trainer.evaluation.latency_node import LatencyNodeMissing, LatencyNotMeasured, OnItsNode
from fovea_trainer.training.run import worker_resources
from onnx import TensorProto, helper
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tests.ray_cluster import connected

WANTED = Wanted.model_validate({"resources": {"requests": {"cpu": "2"}}, "nodeSelector": {"disk": "ssd"}})
START = {"num-cpus": "0", "num-gpus": "0", "resources": json.dumps(json.dumps({"latency": 1}))}
"""The group's rayStartParams, as tests/unit/operator/test_build.py has them."""
EDGE = "edge-1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connected(num_cpus=2, include_dashboard=False) as made:
        yield made


@pytest.fixture(scope="module")
def edge(cluster: Cluster) -> None:
    """The node that latency is measured on."""
    started = {"num_cpus": int(START["num-cpus"]), "resources": json.loads(json.loads(START["resources"]))}
    cluster.add_node(**started, env_vars={NODE_VARIABLE: EDGE})


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    """A network that says how red, green and blue an image is."""
    model = tmp_path / "model.onnx"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 24, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], np.array([2, 3]))
    mean = helper.make_node("ReduceMean", ["image", "axes"], ["logits"], keepdims=0)
    graph = helper.make_graph([mean], "colour", [image], [logits], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(model))
    return Artefact(model, (model,), Preprocess(32, 24), Postprocess(Task.CLASSIFICATION))


def png() -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1])


class Sent(PosixPath):
    """A file of a model; the process that it is sent to evaluates an expression."""

    expression = ""

    def __reduce__(self) -> Any:
        return eval, (self.expression,)


DIE = "__import__('os')._exit(1)"


def sent(artefact: Artefact, expression: str) -> Artefact:
    """The artefact, whose way to the node has this effect there."""
    file = Sent(artefact.model)
    file.expression = expression
    return replace(artefact, files=(file,))


@pytest.mark.usefixtures("cluster")
def test_a_node_that_does_not_come_is_a_fault_of_the_cluster(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_node, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(latency_node, "NODE_SECONDS", 1.0)
    with pytest.raises(LatencyNodeMissing, match=r"it needs 2 cpu on a node with disk=ssd") as caught:
        OnItsNode(WANTED)(artefact, [png()])
    assert isinstance(caught.value, Recoverable), "no retry is used up"


@pytest.mark.usefixtures("cluster")
def test_a_node_that_comes_late_is_waited_for(artefact: Artefact, request: pytest.FixtureRequest) -> None:
    with ThreadPoolExecutor(1) as pool:
        measuring = pool.submit(OnItsNode(WANTED), artefact, [png()])
        time.sleep(1)
        assert not measuring.done()
        request.getfixturevalue("edge")
        timed = measuring.result()
    assert (timed.on.node, timed.on.cpus, timed.on.device) == (EDGE, 2, "CPU")
    assert 0 < timed.latency.p50 <= timed.latency.p95
    assert timed.latency.predictions == 100


@pytest.mark.usefixtures("edge")
def test_nothing_is_trained_on_the_node() -> None:
    @ray.remote
    def where() -> str:
        time.sleep(0.3)
        return os.environ.get(NODE_VARIABLE, "elsewhere")

    resources = worker_resources(Execution())
    workers = [where.options(num_cpus=resources["CPU"]).remote() for _ in range(4)]  # more than there are CPUs
    assert set(ray.get(workers)) == {"elsewhere"}
    assert ray.cluster_resources()["CPU"] == 2, "no trial begins because of it"


@pytest.mark.usefixtures("edge")
def test_one_measurement_at_a_time_also_of_a_trial_in_its_placement_group(artefact: Artefact, tmp_path: Path) -> None:
    """As Ray Tune has its trials: what they start is taken into their group, which has not the node's resource."""
    asked, released, began, holds = (tmp_path / name for name in ("asked", "released", "began", "holds"))
    until_released = f"iter(lambda: __import__('os').path.exists({str(released)!r}), True)"
    held = f"(open({str(holds)!r}, 'w').close(), [__import__('time').sleep(0.1) for _ in {until_released}])"

    @ray.remote(num_cpus=0)
    def other_measurement() -> None:
        OnItsNode(WANTED)(sent(artefact, held), [png()])

    @ray.remote(num_cpus=1)
    def trial() -> float:
        asked.touch()
        return OnItsNode(WANTED)(sent(artefact, f"open({str(began)!r}, 'w').close()"), [png()]).latency.p50

    other = other_measurement.remote()
    while not holds.exists():
        time.sleep(0.1)
    group = placement_group([{"CPU": 1}])
    captured = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    measuring = trial.options(scheduling_strategy=captured).remote()
    while not asked.exists():
        time.sleep(0.1)
    time.sleep(2)  # it would begin meanwhile
    released.touch()
    ray.get(other)
    assert ray.get(measuring) > 0
    assert began.stat().st_mtime_ns >= released.stat().st_mtime_ns
    ray.util.remove_placement_group(group)


@pytest.mark.usefixtures("edge")
def test_a_measurement_whose_process_dies_is_made_again(artefact: Artefact, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    once = f"__import__('os').path.exists({str(marker)!r}) or (open({str(marker)!r}, 'w').close(), {DIE})"
    assert OnItsNode(WANTED)(sent(artefact, once), [png()]).on.node == EDGE
    assert marker.exists()


@pytest.mark.usefixtures("edge")
def test_one_that_dies_each_time_is_an_error_that_says_what_was_wanted(artefact: Artefact) -> None:
    with pytest.raises(LatencyNotMeasured, match=r"2 cpu on a node with disk=ssd, died 3 times") as caught:
        OnItsNode(WANTED)(sent(artefact, DIE), [png()])
    assert isinstance(caught.value, Retryable), "the next attempt goes on from the last checkpoint"
    assert caught.value.location == "spec.evaluation.latency.resources"


@pytest.mark.usefixtures("edge")
def test_what_cannot_be_opened_there_is_said_as_it_is(artefact: Artefact) -> None:
    artefact.model.write_bytes(b"no model")
    with pytest.raises(InvalidModel, match="cannot load the model"):
        OnItsNode(WANTED)(artefact, [png()])
