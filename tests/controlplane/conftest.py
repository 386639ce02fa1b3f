"""A real control plane (etcd, kube-apiserver, no nodes) with the CRDs, and a namespace for each test."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from charts.document import render
from tests.kube import ROOT, Kube, Refused, devcluster

KUBECONFIG_VARIABLE = "FOVEA_CONTROL_PLANE_KUBECONFIG"
"""Names the kubeconfig of a control plane that runs already; else the devcluster brings one up."""


NORTH_STAR = Path(__file__).parent / "north-star"


def good(kind: str) -> dict[str, Any]:
    """The north-star example of a kind (lower case), without its status."""
    manifest: dict[str, Any] = yaml.safe_load((NORTH_STAR / f"{kind}.yaml").read_text())
    manifest.pop("status")
    return manifest


@dataclass(frozen=True)
class ControlPlane(Kube):
    """A running API server, as kubectl and as Python clients see it."""

    api: client.ApiClient

    @property
    def objects(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.api)

    @property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    def install_crds(self, *files: Path) -> None:
        """Applies CustomResourceDefinitions and waits until they are served."""
        paths = [argument for path in files for argument in ("-f", str(path))]
        self.kubectl("apply", "--server-side", "--force-conflicts", *paths)
        wait = ("wait", "--for=condition=Established", "--timeout=60s", *paths)
        for _ in range(50):  # kubectl gives up at once on a CRD that has no conditions yet
            result = self.try_kubectl(*wait)
            if "accessor error" not in result.stderr:
                break
            time.sleep(0.2)
        if result.returncode != 0:
            raise Refused(result.stderr.strip())


def _kubeconfig() -> Path:
    if given := os.environ.get(KUBECONFIG_VARIABLE):
        return Path(given)
    devcluster("up", "--control-plane")
    return Path(devcluster("kubeconfig", "--control-plane"))


@pytest.fixture(scope="session")
def control_plane() -> ControlPlane:
    """The control plane with Fovea's CRDs established."""
    kubeconfig = _kubeconfig()
    plane = ControlPlane(kubeconfig, config.new_client_from_config(str(kubeconfig)))
    plane.install_crds(*sorted((ROOT / "crds").glob("*.fovea.dev.yaml")))
    return plane


@contextmanager
def _namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace, removed afterwards."""
    with _namespace(control_plane) as name:
        yield name


@pytest.fixture(scope="module")
def shared_namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace for the tests of a module that leave nothing in it."""
    with _namespace(control_plane) as name:
        yield name


@pytest.fixture
def operator_kubeconfig(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Path:
    """A kubeconfig with the rights that the chart gives to an operator of this namespace, and no others."""
    templates = ("serviceaccount", "rbac")
    only = [argument for name in templates for argument in ("--show-only", f"templates/{name}.yaml")]
    manifests = render("--namespace", namespace, "--set", f"operator.namespaces={{{namespace}}}", *only)
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifests)
    token = control_plane.kubectl("-n", namespace, "create", "token", "fovea", "--duration=2h").strip()
    content = yaml.safe_load(control_plane.kubeconfig.read_text())
    for entry in content["users"]:
        entry["user"] = {"token": token}
    file = tmp_path / "operator.kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return file
