"""Pods die in the middle of an epoch; the training goes on from its checkpoint and ends well."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.cluster.conftest import SYSTEM, Demo, short_job
from tests.kube import ROOT, documents

pytestmark = pytest.mark.timeout(2400)
NAME = "blood-cells-faults"
EPOCHS = 3
MAP50 = 0.05
"""What three epochs on small images reach easily: that it has learnt at all."""


def manifest() -> dict[str, Any]:
    job = short_job(EPOCHS, MAP50)
    job["metadata"]["name"] = NAME
    return job


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


def in_the_middle_of(demo: Demo, epoch: int) -> float:
    """Waits until the training is at least a quarter into an epoch (counted from 0), past the checkpoint before it."""
    return demo.until(lambda: (done := demo.epoch(NAME)) >= epoch + 0.25 and done, 600)  # type: ignore[no-any-return]


def attempts(demo: Demo) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = demo.run(NAME)["status"].get("attempts", [])
    return found


def test_operator_worker_and_head_die_in_mid_epoch(demo: Demo) -> None:
    demo.apply(manifest(), namespace=demo.namespace)
    in_the_middle_of(demo, 1)
    run = demo.run(NAME)["metadata"]["name"]
    pods = f"fovea.dev/run={run},ray.io/node-type"

    operator = kill(demo, SYSTEM, "app.kubernetes.io/name=fovea")
    worker = kill(demo, demo.namespace, f"{pods}=worker")
    in_the_middle_of(demo, 2)
    assert [attempt["number"] for attempt in attempts(demo)] == [1], "Ray replaces a worker within the attempt"
    assert operator not in names(demo, SYSTEM, "app.kubernetes.io/name=fovea")
    assert worker not in names(demo, demo.namespace, f"{pods}=worker")

    kill(demo, demo.namespace, f"{pods}=head")
    demo.until(lambda: len(attempts(demo)) == 2, 400)

    job = demo.wait_ready("trainingjob", NAME, 900)
    first, second = attempts(demo)
    assert (first["outcome"], second["outcome"]) == ("Failed", "Succeeded")
    assert job["status"]["run"] == run
    assert job["status"]["result"]["metrics"]["test/mAP50"] >= MAP50
    assert demo.resumed(run) == [[1], [2]], "a new worker, then a new head: each went on from the last checkpoint"
    story = [reason for reason, _ in demo.events(NAME)]
    assert sorted(story) == sorted(
        ["RunCreated", "AttemptStarted", "AttemptFailed", "AttemptStarted", "AttemptSucceeded", "Succeeded"]
    )


def test_a_quota_refuses_in_its_own_words(demo: Demo) -> None:
    dataset, _ = copy.deepcopy(documents(ROOT / "examples" / "blood-cells.yaml"))
    dataset["metadata"]["name"] = name = "blood-cells-quota"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    demo.apply(quota, namespace=demo.namespace)
    demo.until(lambda: demo.get(demo.namespace, "resourcequota", "none").get("status", {}).get("hard"), 30)
    try:
        demo.apply(dataset, namespace=demo.namespace)
        demo.until(lambda: "exceeded quota: none" in demo.message("dataset", name), 120)
    finally:
        demo.kubectl("-n", demo.namespace, "delete", "resourcequota", "none")
    assert demo.wait_ready("dataset", name, 600)["status"]["images"] == 364
