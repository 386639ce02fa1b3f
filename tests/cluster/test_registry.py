"""A bundle in a registry: a deployment serves it from there, and a pod has it as a volume. `make test-slow`."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fovea_store.registry import PLAIN_HTTP

from tests.cluster.conftest import FOVEA, Demo
from tests.cluster.test_serving import predict
from tests.kube import BINARIES, CACHE, ROOT, documents
from tests.registry import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NAME = "from-registry"
LOAD = "from fovea_serving.bundle import load_bundle; print(load_bundle('/image/models').digest)"


@pytest.fixture
def registry(demo: Demo, tmp_path: Path) -> Iterator[str]:
    """Address of a registry without TLS that pods and the node reach, as they do the devcluster's S3 store."""
    host = urlsplit(demo.environment["AWS_ENDPOINT_URL"]).hostname
    with running(BINARIES / "registry", str(host), tmp_path) as address:
        hosts = CACHE / "cluster/registries" / address
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'server = "http://{address}"\n')
        store_setting(demo, address)
        try:
            yield address
        finally:
            store_setting(demo, None)
            shutil.rmtree(hosts)


def store_setting(demo: Demo, registries: str | None) -> None:
    """Sets or removes what the store's Secret says of registries without TLS; pods read it when they start."""
    value = registries and base64.b64encode(registries.encode()).decode()
    patch = json.dumps({"data": {PLAIN_HTTP: value}})
    demo.kubectl("-n", demo.namespace, "patch", "secret", "fovea-store", "--type=merge", "--patch", patch)


def test_a_bundle_in_a_registry_is_served_and_mounted(demo: Demo, registry: str, tmp_path: Path) -> None:
    environment = {**demo.environment, PLAIN_HTTP: registry}

    def fovea(*words: str | Path) -> Any:
        command = [FOVEA, *words, "--output", "json"]
        return json.loads(
            subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        )

    stored = demo.object("modeldeployment", "blood-cells")["status"]["stable"]["bundle"]
    digest = fovea("pull", stored, "--to", tmp_path / "bundle")["digest"]
    image = fovea("push", tmp_path / "bundle", f"oci://{registry}/team/cells:v1")["image"]

    (deployment,) = documents(ROOT / "examples" / "blood-cells-serving.yaml")
    deployment["metadata"]["name"] = NAME
    deployment["spec"]["model"] = {"uri": image}
    demo.apply(deployment, namespace=demo.namespace)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "image", "image": {"reference": image.removeprefix("oci://")}}],
            "containers": [
                {
                    "name": "load",
                    "image": "fovea.local/serving:dev",
                    "command": ["python", "-c", LOAD],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "image", "mountPath": "/image"}],
                }
            ],
        },
    }
    demo.apply(pod, namespace=demo.namespace)
    demo.until(lambda: demo.object("pod", NAME)["status"]["phase"] == "Succeeded")
    assert demo.kubectl("-n", demo.namespace, "logs", NAME).split() == [digest]

    demo.wait_ready("modeldeployment", NAME, 400)
    assert demo.object("modeldeployment", NAME)["status"]["stable"]["bundle"] == image
    (status, answer), (_, expected) = predict(demo, NAME), predict(demo)
    assert (status, answer["predictions"]) == (200, expected["predictions"])
    for kind in ("modeldeployment", "pod"):
        demo.kubectl("-n", demo.namespace, "delete", kind, NAME, "--wait=false")
