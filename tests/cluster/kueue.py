"""Objects of a real Kueue, and what it reports about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tests.cluster.conftest import Demo

VERSION = "kueue.x-k8s.io/v1beta2"


def cluster_queue(name: str, cpu: int | str, stop_policy: str = "None", check: str = "") -> dict[str, Any]:
    """A ClusterQueue of so many cores. `check`: the AdmissionCheck that a workload has to pass; empty: none."""
    quotas = [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": "64Gi"}]
    group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": "nodes", "resources": quotas}]}
    spec: dict[str, Any] = {"namespaceSelector": {}, "resourceGroups": [group], "stopPolicy": stop_policy}
    if check:
        spec["admissionChecksStrategy"] = {"admissionChecks": [{"name": check}]}
    return {"kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}


def local_queue(name: str, namespace: str) -> dict[str, Any]:
    """The LocalQueue of a namespace for the ClusterQueue of the same name."""
    return {
        "kind": "LocalQueue",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterQueue": name},
    }


def apply(demo: Demo, *manifests: dict[str, Any]) -> None:
    """Applies objects of Kueue."""
    text = "\n---\n".join(json.dumps({"apiVersion": VERSION, **manifest}) for manifest in manifests)
    demo.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)


def admission_check(demo: Demo, name: str) -> None:
    """An AdmissionCheck whose controller is the test."""
    apply(demo, {"kind": "AdmissionCheck", "metadata": {"name": name}, "spec": {"controllerName": "fovea.dev/test"}})
    active = {"type": "Active", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": _now()}
    patch = json.dumps({"status": {"conditions": [active]}})
    demo.kubectl("patch", "admissioncheck", name, "--subresource=status", "--type=merge", "--patch", patch)


def set_check(demo: Demo, child: str, check: str, state: str, message: str) -> None:
    """Answers an AdmissionCheck of a child's Workload, as its controller does."""
    answer = {"name": check, "state": state, "message": message, "lastTransitionTime": _now()}
    patch = json.dumps({"status": {"admissionChecks": [answer]}})
    name = workload(demo, child)["metadata"]["name"]
    arguments = ("patch", "workload", name, "--subresource=status", "--type=merge", "--patch", patch)
    demo.kubectl("-n", demo.namespace, *arguments)


def workloads(demo: Demo, child: str) -> list[Any]:
    """The Workloads of a child that are not finished, the oldest first: of one that waits to grow there are two."""
    found = demo.get(demo.namespace, "workloads.kueue.x-k8s.io")["items"]
    own = [each for each in found if each["metadata"]["ownerReferences"][0]["name"] == child]
    open = [each for each in own if not _is(each, "Finished")]
    return sorted(open, key=lambda each: str(each["metadata"]["creationTimestamp"]))


def workload(demo: Demo, child: str) -> Any:
    """The Workload that Kueue has made of a child; fails where there is none."""
    (own,) = workloads(demo, child)
    return own


def _is(workload: Any, type: str) -> bool:
    conditions = workload.get("status", {}).get("conditions", ())
    return any(each["type"] == type and each["status"] == "True" for each in conditions)


def counts(workload: Any) -> Mapping[str, int]:
    """How many pods of each sort a Workload is for."""
    return {each["name"]: each["count"] for each in workload["spec"]["podSets"]}


def pods_of(demo: Demo, child: str) -> Mapping[str, int]:
    """How many pods of each sort Kueue counts."""
    return counts(workload(demo, child))


def reserved(demo: Demo, queue: str) -> float:
    """Cores of a ClusterQueue's quota that are reserved."""
    status = json.loads(demo.kubectl("get", "clusterqueue", queue, "-o", "json"))["status"]
    totals = [
        each["total"]
        for flavor in status.get("flavorsReservation", ())
        for each in flavor["resources"]
        if each["name"] == "cpu"
    ]
    return sum(float(total[:-1]) / 1000 if total.endswith("m") else float(total) for total in totals)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
