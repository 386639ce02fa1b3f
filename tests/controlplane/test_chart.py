"""Install, upgrade and uninstall of the chart by the real helm on a real API server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from charts.document import CHART, helm, render
from tests.controlplane.conftest import ControlPlane
from tests.kube import ROOT
from tests.prometheus import keda_example

CRD = "datasets.fovea.dev"
DATASET = {
    "apiVersion": "fovea.dev/v1alpha1",
    "kind": "Dataset",
    "metadata": {"name": "kept"},
    "spec": {
        "task": "Detection",
        "sources": [{"name": "lab", "uri": "pvc://datasets/lab", "format": "COCO"}],
    },
}


class Release:
    """One release of the chart in a namespace of its own."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace

    def helm(self, *arguments: str) -> str:
        """Runs helm on the release's namespace; raises with helm's own words."""
        command = [
            helm(),
            *arguments,
            "--namespace",
            self.namespace,
            "--kubeconfig",
            str(self.plane.kubeconfig),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def upgrade(self, chart: Path, *arguments: str) -> str:
        """Installs or upgrades. The CRDs are there already, hence --take-ownership."""
        return self.helm(
            "upgrade", "--install", "fovea", str(chart), "--take-ownership", "--force-conflicts", *arguments
        )


@pytest.fixture
def release(control_plane: ControlPlane, namespace: str) -> Iterator[Release]:
    one = Release(control_plane, namespace)
    yield one
    one.helm("uninstall", "fovea", "--ignore-not-found")


def description(plane: ControlPlane) -> str:
    return plane.kubectl("get", "crd", CRD, "-o", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.description}")


def test_install_upgrade_uninstall(
    control_plane: ControlPlane, release: Release, namespace: str, tmp_path: Path
) -> None:
    older = tmp_path / "fovea"
    shutil.copytree(CHART, older)
    (source,) = older.glob(f"files/crds/{CRD}.yaml")
    crd = yaml.safe_load(source.read_text())
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "An older Dataset."
    source.write_text(yaml.safe_dump(crd))

    notes = release.upgrade(older)
    assert "No store is set" in notes
    assert description(control_plane) == "An older Dataset."
    control_plane.apply(DATASET, namespace=namespace)

    notes = release.upgrade(CHART, "--set", "defaults.store.uri=s3://fovea/models", "--set", "replicas=2")
    assert "s3://fovea/models" in notes
    assert description(control_plane) != "An older Dataset."
    assert control_plane.kubectl("-n", namespace, "get", "pdb", "fovea", "-o", "name").strip()

    release.helm("uninstall", "fovea")
    assert "kept" in control_plane.kubectl("-n", namespace, "get", "datasets.fovea.dev", "-o", "name")
    assert not control_plane.kubectl("-n", namespace, "get", "deployment,role,service", "-o", "name").strip()
    removed = control_plane.try_kubectl("get", "clusterrole", "fovea-operator")
    assert "NotFound" in removed.stderr


def source_of(module: str, package: str) -> Path:
    """The source of a Go module that devcluster/modules pins, for the CRDs in it."""
    command = ["go", "mod", "download", "-json", package]
    folder = ROOT / "devcluster" / "modules" / module
    return Path(
        json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)["Dir"]
    )


def test_prometheus_operator_takes_what_watches_fovea(control_plane: ControlPlane, namespace: str) -> None:
    """By its own CRDs, strictly: an unknown field is an error."""
    source = source_of("prometheus-operator", "github.com/prometheus-operator/prometheus-operator")
    folder = source / "example" / "prometheus-operator-crd"
    kinds = ("podmonitors", "prometheusrules", "servicemonitors")
    control_plane.install_crds(*(folder / f"monitoring.coreos.com_{kind}.yaml" for kind in kinds))
    enabled = ",".join(f"metrics.{name}.enabled=true" for name in ("podMonitor", "prometheusRule", "serviceMonitor"))
    manifests = render("--namespace", namespace, "--set", enabled, "--show-only", "templates/monitoring.yaml")
    control_plane.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", input=manifests)
    made = control_plane.kubectl("-n", namespace, "get", ",".join(kinds), "-o", "name").split()
    assert len(made) == len(kinds)


def test_keda_takes_the_documented_autoscaler_of_a_deployment(control_plane: ControlPlane, namespace: str) -> None:
    """By KEDA's own CRD, strictly; what it scales has the scale subresource that KEDA writes."""
    bases = source_of("keda", "github.com/kedacore/keda/v2") / "config" / "crd" / "bases"
    control_plane.install_crds(bases / "keda.sh_scaledobjects.yaml")
    scaled = keda_example()
    manifest = yaml.safe_dump(scaled)
    control_plane.kubectl("-n", namespace, "apply", "--server-side", "--validate=strict", "-f", "-", input=manifest)
    target = scaled["spec"]["scaleTargetRef"]
    spec = {"model": {"uri": "s3://models/cells/"}, "runtime": "Triton"}
    found = {name: target[name] for name in ("apiVersion", "kind")}
    control_plane.apply({**found, "metadata": {"name": target["name"]}, "spec": spec}, namespace=namespace)
    control_plane.kubectl("-n", namespace, "scale", f"modeldeployment/{target['name']}", "--replicas=3")
    asked = ("get", "modeldeployment", target["name"], "-o", "jsonpath={.spec.scaling.replicas}")
    assert control_plane.kubectl("-n", namespace, *asked) == "3"


RUN = {
    "apiVersion": "fovea.dev/v1alpha1",
    "kind": "Run",
    "metadata": {"name": "r-0123456789"},
    "spec": {
        "type": "Cleanup",
        "owner": {"kind": "Dataset", "name": "cells"},
        "identity": f"sha256-{'0' * 64}",
        "recipe": {},
        "store": "s3://fovea/ns",
    },
}


def test_what_the_operator_may_do(control_plane: ControlPlane, release: Release, namespace: str) -> None:
    """Asked of the API server's own authorizer; the grants by name work for server-side apply."""
    release.upgrade(CHART)
    user = f"--as=system:serviceaccount:{namespace}:fovea"

    def can(*question: str) -> bool:
        return control_plane.try_kubectl("auth", "can-i", *question, user).stdout.strip() == "yes"

    assert can("patch", "trainingjobs.fovea.dev", "--subresource=status", "-n", "default")
    assert can("create", "jobs.batch", "-n", "default")
    assert not can("get", "secrets", "-n", "default")
    for verb, what in (("bind", "clusterroles"), ("escalate", "roles"), ("escalate", "clusterroles")):
        assert not can(verb, f"{what}.rbac.authorization.k8s.io", "-n", "default"), "it grants no more than it has"
    assert not can("create", "clusterrolebindings.rbac.authorization.k8s.io")
    assert can("update", "leases.coordination.k8s.io/fovea-operator", "-n", namespace)
    assert not can("update", "leases.coordination.k8s.io/other", "-n", namespace)

    run = control_plane.objects.create_namespaced_custom_object("fovea.dev", "v1alpha1", namespace, "runs", RUN)
    owner = {"apiVersion": "fovea.dev/v1alpha1", "kind": "Run", "name": "r-0123456789", "uid": run["metadata"]["uid"]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "r-0123456789-1",
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "fovea", "image": "fovea"}]}}},
    }
    create = ("create", "-n", namespace, "-f", "-")
    editor = ("--as=somebody", "--as-group=system:authenticated")
    control_plane.kubectl("create", "rolebinding", "somebody", "--clusterrole=edit", "--user=somebody", "-n", namespace)
    refused = control_plane.try_kubectl(*create, *editor, input=yaml.safe_dump(job)).stderr
    assert "cannot set blockOwnerDeletion" in refused, "the API server enforces who may block a deletion"
    control_plane.kubectl(*create, user, input=yaml.safe_dump(job))

    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "fovea-run"}}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "fovea-run"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "fovea-run"},
        "subjects": [{"kind": "ServiceAccount", "name": "fovea-run", "namespace": namespace}],
    }
    apply = ("apply", "--server-side", "--field-manager=fovea", "-n", namespace, "-f", "-", user)
    control_plane.kubectl(*apply, input=yaml.safe_dump_all([account, binding]))
    binding["roleRef"] = {**binding["roleRef"], "name": "cluster-admin"}
    binding["metadata"] = {"name": "other"}
    assert "forbidden" in control_plane.try_kubectl(*apply, input=yaml.safe_dump(binding)).stderr
