"""Endings that take a real kubelet and scheduler: a hang at exit, a container out of memory, a missing node.

What works in the pods is a program of a few lines under the trainer's name: it ends as the test needs it, and reports
to the API server as a run does. All that the operator goes by is the cluster's own.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.cluster.conftest import Demo, short_job

pytestmark = pytest.mark.timeout(1200)
PROGRAM = r"""#!/usr/bin/env python3
import json, os, ssl, time, urllib.request

memory = b"x" * (int(os.environ["NEEDS_MIB"]) << 20)
env, account = os.environ, "/var/run/secrets/kubernetes.io/serviceaccount"
version = "sha256-" + "1" * 64
dataset = {"version": version, "images": 1, "annotations": 0, "splits": {"train": 1}, "classes": []}
result = {"completedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "artifact": "s3://endings/" + version,
          "digest": version, "dataset": dataset, "attempt": int(env["FOVEA_ATTEMPT"])}
body = {"apiVersion": "fovea.dev/v1alpha1", "kind": "Run", "metadata": {"name": env["FOVEA_RUN_NAME"]},
        "status": {"result": result}}
url = (f"https://{env['KUBERNETES_SERVICE_HOST']}:{env['KUBERNETES_SERVICE_PORT']}/apis/fovea.dev/v1alpha1/namespaces/"
       f"{env['FOVEA_NAMESPACE']}/runs/{env['FOVEA_RUN_NAME']}/status?fieldManager=fovea-run")
request = urllib.request.Request(url, json.dumps(body).encode(), method="PATCH")
request.add_header("Authorization", "Bearer " + open(account + "/token").read())
request.add_header("Content-Type", "application/apply-patch+yaml")
urllib.request.urlopen(request, context=ssl.create_default_context(cafile=account + "/ca.crt"), timeout=30).read()
time.sleep(int(env["HANGS_SECONDS"]))
"""
NEEDS_MIB = 256


def dataset(name: str, memory: str = "512Mi", hangs: int = 0, **compute: Any) -> dict[str, Any]:
    """A Dataset whose build needs so much memory and is to have `memory`."""
    variables = {"PATH": "/endings:/opt/fovea/bin:/usr/local/bin:/usr/bin:/bin"}
    variables |= {"NEEDS_MIB": str(NEEDS_MIB), "HANGS_SECONDS": str(hangs)}
    template = {
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "volumes": [{"name": "endings", "configMap": {"name": "endings", "defaultMode": 0o555}}],
        "volumeMounts": [{"name": "endings", "mountPath": "/endings"}],
        **compute,
    }
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": memory}}
    spec = {
        "task": "Classification",
        "sources": [{"name": "nothing", "uri": "s3://endings/x", "format": "ImageFolder"}],
        "compute": {"resources": resources, "podTemplate": template, "image": os.environ.get("ENDINGS_IMAGE", "")},
    }
    return {"apiVersion": "fovea.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": name}, "spec": spec}


def attempts(demo: Demo, name: str) -> list[tuple[str | None, str | None]]:
    """Outcome and reason of the attempts of the Dataset's run."""
    run = demo.object("run", demo.object("dataset", name)["status"]["run"])
    return [(each.get("outcome"), each.get("reason")) for each in run["status"]["attempts"]]


@pytest.fixture(scope="module", autouse=True)
def hanging(demo: Demo) -> str:
    """Name of a Dataset whose build goes on after its result. It takes two minutes to be ended, so it begins first."""
    program = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "endings"}, "data": {"fovea": PROGRAM}}
    demo.apply(program, dataset("hangs", hangs=3600), namespace=demo.namespace)
    return "hangs"


def test_a_corrected_node_selector_starts_the_build_and_uses_no_retry(demo: Demo) -> None:
    name = "nowhere"
    manifest = dataset(name, nodeSelector={"fovea.dev/nowhere": "yes"})
    manifest["spec"]["runPolicy"] = {"retries": 0}
    demo.apply(manifest, namespace=demo.namespace)
    demo.until(lambda: demo.ready("dataset", name) == ("False", "Unschedulable"))
    assert "didn't match Pod's node affinity/selector" in demo.message("dataset", name)
    corrected = dataset(name)
    corrected["spec"]["runPolicy"] = {"retries": 0}
    demo.apply(corrected, namespace=demo.namespace)
    demo.wait_ready("dataset", name)
    assert attempts(demo, name) == [("Suspended", "SpecChanged"), ("Succeeded", None)]


def test_a_build_that_ran_out_of_memory_goes_on_when_the_limit_is_raised(demo: Demo) -> None:
    name = "small"
    demo.apply(dataset(name, memory="96Mi"), namespace=demo.namespace)
    demo.until(lambda: demo.condition("dataset", name, "Stalled").get("status") == "True")
    assert demo.ready("dataset", name) == ("False", "OOMKilled")
    message = demo.message("dataset", name)
    assert "2 attempts ran out of memory at the same limit" in message
    assert "raise spec.compute.resources.limits.memory" in message
    demo.apply(dataset(name, memory="512Mi"), namespace=demo.namespace)
    demo.wait_ready("dataset", name)
    assert attempts(demo, name) == [("Failed", "OOMKilled"), ("Failed", "OOMKilled"), ("Succeeded", None)]


def test_a_build_that_hangs_after_its_result_is_ended_and_that_is_said(demo: Demo, hanging: str) -> None:
    demo.wait_ready("dataset", hanging)
    run = demo.object("dataset", hanging)["status"]["run"]
    demo.until(lambda: "AttemptStopped" in [reason for reason, _ in demo.events(hanging)])
    demo.until(lambda: not demo.get(demo.namespace, "pods", "-l", f"fovea.dev/run={run}")["items"])
    (attempt,) = demo.object("run", run)["status"]["attempts"]
    assert attempt["outcome"] == "Succeeded"
    assert "did not end" in attempt["message"]
    assert demo.ready("dataset", hanging)[0] == "True"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_on_ray_that_ran_out_of_memory_goes_on_when_the_limit_is_raised(demo: Demo) -> None:
    name = "memory"
    job = short_job(1, 0.0)
    job["metadata"]["name"] = name
    job["spec"]["compute"]["resources"] = {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "768Mi"}}
    demo.apply(job, namespace=demo.namespace)
    demo.until(lambda: demo.condition("trainingjob", name, "Stalled").get("status") == "True", 1200)
    assert demo.ready("trainingjob", name)[1] in ("OOMKilled", "OutOfMemory"), demo.message("trainingjob", name)
    message = demo.message("trainingjob", name)
    assert "2 attempts ran out of memory at the same limit" in message
    assert "raise spec.compute.resources.limits.memory" in message
    job["spec"]["compute"]["resources"]["limits"] = {"memory": "3Gi"}
    demo.apply(job, namespace=demo.namespace)
    demo.wait_ready("trainingjob", name, 900)
    outcomes = [attempt["outcome"] for attempt in demo.run(name)["status"]["attempts"]]
    assert outcomes == ["Failed", "Failed", "Succeeded"], "not four times at one limit"
