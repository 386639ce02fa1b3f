"""Pods die in the middle of an epoch; the training goes on from its checkpoint and ends well.

Its latency is measured in a pod of its own, whose node has to be labelled first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import SYSTEM, Demo, short_job
from tests.kube import ROOT, documents

pytestmark = pytest.mark.timeout(2400)
NAME = "blood-cells-faults"
EPOCHS = 3
LABEL = "fovea.dev/measures-latency"
MAP50 = 0.05
"""What three epochs reach easily: that it has learnt at all."""


def manifest() -> dict[str, Any]:
    """Of whole images: an epoch has to take long, for what is known of a training is 10 s old at times."""
    job = short_job(EPOCHS, MAP50)
    job["metadata"]["name"] = NAME
    job["spec"]["input"]["size"] = {"width": 320, "height": 240}
    resources = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
    compute = job["spec"]["compute"]
    compute["head"]["resources"]["requests"]["cpu"] = "100m"  # KubeRay asks for 200m more for the third pod
    compute["resources"]["requests"]["cpu"] = "900m"
    job["spec"].setdefault("evaluation", {})["latency"] = {"resources": resources, "nodeSelector": {LABEL: "yes"}}
    job["spec"]["successCriteria"].append({"metric": "latency/p50Milliseconds", "max": 60_000})
    return job


@pytest.fixture
def node(demo: Demo) -> Iterator[str]:
    """The name of a node; what the test labels is taken away again."""
    name = demo.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    yield name
    demo.kubectl("label", "node", name, f"{LABEL}-")


def names(demo: Demo, namespace: str, selector: str) -> list[str]:
    """The pods there are."""
    return [pod["metadata"]["name"] for pod in demo.get(namespace, "pods", "-l", selector)["items"]]


def kill(demo: Demo, namespace: str, selector: str) -> str:
    """Takes a pod away at once, as a dying node does; gives its name."""
    (pod,) = [
        pod["metadata"]["name"]
        for pod in demo.get(namespace, "pods", "-l", selector)["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]
    demo.kubectl("-n", namespace, "delete", "pod", pod, "--grace-period=0", "--force")
    return str(pod)


def in_the_middle_of_an_epoch(demo: Demo, first: int) -> int:
    """Waits until the training is past a checkpoint and far from the next one; gives how many epochs are behind it,
    which are at least so many."""

    def in_the_middle() -> float | None:
        done = demo.epoch(NAME)
        return done if done >= first and 0.2 <= done % 1 <= 0.6 else None

    return int(demo.until(in_the_middle, 600))


def attempts(demo: Demo) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = demo.run(NAME)["status"].get("attempts", [])
    return found


def test_operator_worker_and_head_die_in_mid_epoch(demo: Demo, node: str) -> None:
    demo.apply(manifest(), namespace=demo.namespace)
    demo.until(lambda: demo.ready("trainingjob", NAME) == ("False", "Unschedulable"))
    demo.until(lambda: f"its nodeSelector is {LABEL}=yes" in demo.message("trainingjob", NAME))
    demo.kubectl("label", "node", node, f"{LABEL}=yes")
    first_saved = in_the_middle_of_an_epoch(demo, 1)
    run = demo.run(NAME)["metadata"]["name"]
    pods = f"fovea.dev/run={run},ray.io/node-type"

    operator = kill(demo, SYSTEM, "app.kubernetes.io/name=fovea")
    worker = kill(demo, demo.namespace, f"{pods}=worker,ray.io/group=worker")
    measures = kill(demo, demo.namespace, f"{pods}=worker,ray.io/group=latency")
    second_saved = in_the_middle_of_an_epoch(demo, first_saved + 1)
    assert [attempt["number"] for attempt in attempts(demo)] == [1], "Ray replaces a worker within the attempt"
    assert operator not in names(demo, SYSTEM, "app.kubernetes.io/name=fovea")
    assert not {worker, measures} & {*names(demo, demo.namespace, f"{pods}=worker")}

    kill(demo, demo.namespace, f"{pods}=head")
    demo.until(lambda: len(attempts(demo)) == 2, 400)

    job = demo.wait_ready("trainingjob", NAME, 900)
    first, second = attempts(demo)
    assert (first["outcome"], second["outcome"]) == ("Failed", "Succeeded")
    assert job["status"]["run"] == run
    result = job["status"]["result"]
    assert result["metrics"]["test/mAP50"] >= MAP50
    where = result["latencyMeasuredOn"]
    assert (where["node"], where["cpus"], where["device"]) == (node, 2, "CPU")
    assert "the latency of model.onnx was measured on 2 CPUs" in demo.log(run)
    went_on = [[first_saved], [second_saved]]
    assert demo.resumed(run) == went_on, "a new worker, then a new head: each from the last checkpoint"
    story = [reason for reason, _ in demo.events(NAME)]
    assert sorted(story) == sorted(
        ["RunCreated", "AttemptStarted", "AttemptFailed", "AttemptStarted", "AttemptSucceeded", "Succeeded"]
    )


def test_a_quota_refuses_in_its_own_words(demo: Demo) -> None:
    dataset, _ = copy.deepcopy(documents(ROOT / "examples" / "blood-cells.yaml"))
    dataset["metadata"]["name"] = name = "blood-cells-quota"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    demo.apply(quota, namespace=demo.namespace)
    demo.until(lambda: demo.get(demo.namespace, "resourcequota", "none").get("status", {}).get("hard"))
    try:
        demo.apply(dataset, namespace=demo.namespace)
        demo.until(lambda: "exceeded quota: none" in demo.message("dataset", name))
    finally:
        demo.kubectl("-n", demo.namespace, "delete", "resourcequota", "none")
    assert demo.wait_ready("dataset", name, 600)["status"]["images"] == 364
