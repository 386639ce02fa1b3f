"""Pods die in the middle of an epoch; the training goes on from its checkpoint and ends well."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.cluster.conftest import SYSTEM, Demo
from tests.kube import ROOT, documents

pytestmark = pytest.mark.timeout(1800)
NAME = "blood-cells-faults"
EPOCHS = 4


def manifest() -> dict[str, Any]:
    _, job = copy.deepcopy(documents(ROOT / "examples" / "blood-cells.yaml"))
    job["metadata"]["name"] = NAME
    job["spec"]["training"] |= {"epochs": EPOCHS, "schedule": {"name": "OneCycle", "warmupEpochs": 1}}
    job["spec"]["successCriteria"] = [{"metric": "test/mAP50", "min": 0.5}]
    return job


def kill(demo: Demo, namespace: str, selector: str) -> str:
    """Takes a pod away at once, as a dying node does; gives its name."""
    (pod,) = [
        it["metadata"]["name"]
        for it in demo.get(namespace, "pods", "-l", selector)["items"]
        if "deletionTimestamp" not in it["metadata"]
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
    in_the_middle_of(demo, 0)
    run = demo.run(NAME)["metadata"]["name"]
    pods = f"fovea.dev/run={run},ray.io/node-type"

    operator = kill(demo, SYSTEM, "app.kubernetes.io/name=fovea")
    in_the_middle_of(demo, 1)
    assert [it["number"] for it in attempts(demo)] == [1]
    replaced = demo.get(SYSTEM, "pods", "-l", "app.kubernetes.io/name=fovea")["items"]
    assert operator not in [it["metadata"]["name"] for it in replaced]

    kill(demo, demo.namespace, f"{pods}=worker")
    after_worker = demo.until(lambda: demo.get(demo.namespace, "pods", "-l", f"{pods}=worker")["items"], 120)
    assert after_worker
    in_the_middle_of(demo, 2)
    assert [it["number"] for it in attempts(demo)] == [1], "Ray replaces a worker within the attempt"

    reached = demo.epoch(NAME)
    kill(demo, demo.namespace, f"{pods}=head")
    demo.until(lambda: len(attempts(demo)) == 2, 180)
    seen = demo.until(lambda: (done := _epoch_of_attempt(demo, 2)) and done, 300)
    assert seen >= int(reached), f"attempt 2 was at epoch {seen} when first seen; the checkpoint held {int(reached)}"

    job = demo.wait_ready("trainingjob", NAME, 900)
    first, second = attempts(demo)
    assert (first["outcome"], second["outcome"]) == ("Failed", "Succeeded")
    assert job["status"]["run"] == run
    assert job["status"]["result"]["metrics"]["test/mAP50"] >= 0.5
    story = [reason for reason, _ in demo.events(NAME)]
    assert sorted(story) == sorted(
        ["RunCreated", "AttemptStarted", "AttemptFailed", "AttemptStarted", "AttemptSucceeded", "Succeeded"]
    )


def _epoch_of_attempt(demo: Demo, number: int) -> float:
    """The first progress that an attempt reports; 0 before that."""
    status = demo.run(NAME)["status"]
    pods = demo.get(demo.namespace, "pods", "-l", f"fovea.dev/run={demo.run(NAME)['metadata']['name']}")["items"]
    running = any(it["metadata"]["labels"].get("fovea.dev/attempt") == str(number) for it in pods)
    return float(status.get("progress", {}).get("epoch", 0)) if running else 0.0
