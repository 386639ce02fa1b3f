"""What the token of a run's pod may write: the chart's role and policy on a real API server."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import yaml

from charts.document import render
from tests.controlplane.conftest import ControlPlane
from tests.controlplane.test_operator import kuberay_crds

__all__ = ["kuberay_crds"]  # fixtures

RUN, OTHER = "r-0123456789", "r-9876543210"
POD = f"{RUN}-1-head-x2x4z"
ATTEMPT = {"number": 9, "child": f"{RUN}-9"}
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Mine",
    "message": "",
    "lastTransitionTime": "2026-11-24T20:00:00Z",
}
PROGRESS = {"progress": {"stage": "Training", "epoch": 1, "epochs": 8}}


@dataclass(frozen=True)
class Reporter:
    """Writes as a pod does: with a bearer token and nothing else."""

    plane: ControlPlane
    namespace: str
    token: str

    def apply(
        self,
        status: dict[str, Any],
        *,
        run: str = RUN,
        namespace: str = "",
        force: bool = False,
        manager: str = "fovea-run",
        path: str = "/status",
        metadata: dict[str, Any] | None = None,
        **more: Any,
    ) -> requests.Response:
        """Server-side apply to a Run's status, as the trainer sends it."""
        body = {
            "apiVersion": "fovea.dev/v1alpha1",
            "kind": "Run",
            "metadata": {"name": run, **(metadata or {})},
            **({"status": status} if status else {}),
            **more,
        }
        return self._patch(
            f"{namespace or self.namespace}/runs/{run}{path}",
            body,
            "application/apply-patch+yaml",
            {"fieldManager": manager, "force": str(force).lower()},
        )

    def merge(self, status: dict[str, Any]) -> requests.Response:
        """Merge patch, which needs no force to take a field over."""
        return self._patch(
            f"{self.namespace}/runs/{RUN}/status",
            {"status": status},
            "application/merge-patch+json",
            {"fieldManager": "fovea-run"},
        )

    def replace(self, what: str, values: dict[str, Any]) -> requests.Response:
        """JSON patch of a pod or RayCluster, as Ray's autoscaler sends it."""
        body = [{"op": "replace", "path": path, "value": value} for path, value in values.items()]
        group = "/api/v1" if what.startswith("pods/") else "/apis/ray.io/v1"
        return self._patch(f"{self.namespace}/{what}", body, "application/json-patch+json", {}, group)

    def _patch(
        self, path: str, body: Any, type: str, params: dict[str, str], group: str = "/apis/fovea.dev/v1alpha1"
    ) -> requests.Response:
        settings = self.plane.api.configuration
        return requests.patch(
            f"{settings.host}{group}/namespaces/{path}",
            data=json.dumps(body),
            params=params,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": type},
            verify=settings.ssl_ca_cert if settings.verify_ssl else False,
            timeout=30,
        )


def run_manifest(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "fovea.dev/v1alpha1",
        "kind": "Run",
        "metadata": {"name": name, "labels": {"fovea.dev/run": name}},
        "spec": {
            "type": "Training",
            "owner": {"kind": "TrainingJob", "name": "blood-cells"},
            "identity": "sha256-" + "0" * 64,
            "recipe": {},
            "store": "s3://fovea/tests",
            "image": "fovea/trainer:tests",
        },
    }


@pytest.fixture(scope="module")
def policy(control_plane: ControlPlane) -> None:
    """The chart's ClusterRole of runs and its policy."""
    manifests = [
        manifest
        for manifest in yaml.safe_load_all(render())
        if manifest and (manifest["kind"].startswith("Validating") or manifest["metadata"]["name"] == "fovea-run")
    ]
    assert {one["kind"] for one in manifests} == {
        "ClusterRole",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump_all(manifests))


@pytest.fixture
def tenant(control_plane: ControlPlane, policy: None, namespace: str) -> str:
    """A namespace with two Runs of the operator's making, the ServiceAccount of runs, and its binding."""
    prepare(control_plane, namespace)
    wait_for_policy(control_plane, namespace)
    return namespace


def prepare(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("-n", namespace, "create", "serviceaccount", "fovea-run")
    plane.kubectl(
        *("-n", namespace, "create", "rolebinding", "fovea-run", "--clusterrole=fovea-run"),
        f"--serviceaccount={namespace}:fovea-run",
    )
    plane.apply(run_manifest(RUN), run_manifest(OTHER), namespace=namespace)
    for run in (RUN, OTHER):
        status = {
            "apiVersion": "fovea.dev/v1alpha1",
            "kind": "Run",
            "metadata": {"name": run, "namespace": namespace},
        }
        status["status"] = {"phase": "Running"}
        plane.kubectl(
            *("apply", "--server-side", "--subresource=status", "--field-manager=fovea", "-f", "-"),
            input=yaml.safe_dump(status),
        )


def pod(plane: ControlPlane, namespace: str, name: str = POD, account: str = "fovea-run") -> Reporter:
    """A pod and the token that Kubernetes would mount in it."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": account,
            "containers": [{"name": "trainer", "image": "fovea/trainer:tests"}],
        },
    }
    plane.apply(manifest, namespace=namespace)
    token = plane.kubectl(
        *("-n", namespace, "create", "token", account),
        *("--bound-object-kind=Pod", f"--bound-object-name={name}"),
    )
    return Reporter(plane, namespace, token.strip())


def wait_for_policy(plane: ControlPlane, namespace: str) -> None:
    """The API server compiles a new policy within a second or so; until then it does not refuse."""
    probe = pod(plane, namespace, "policy-probe")
    deadline = time.monotonic() + 30
    while probe.apply(PROGRESS, run=OTHER).status_code != 403:
        assert time.monotonic() < deadline, "the policy never came into force"
        time.sleep(0.2)


def test_a_pod_reports_progress_and_result_of_its_run(control_plane: ControlPlane, tenant: str) -> None:
    reporter = pod(control_plane, tenant)
    first = reporter.apply(PROGRESS)
    assert first.status_code == 200, first.text
    both = reporter.apply({**PROGRESS, "result": {"completedAt": "2026-11-24T20:00:00Z"}}, force=True)
    assert both.status_code == 200, both.text
    assert both.json()["status"]["phase"] == "Running"
    assert both.json()["status"]["progress"]["epoch"] == 1
    assert reporter.apply({"progress": {**PROGRESS["progress"], "epoch": 2}}).status_code == 200


def refused(response: requests.Response, words: str) -> None:
    assert response.status_code == 403, response.text
    assert words in response.json()["message"]


def test_another_run_is_refused(control_plane: ControlPlane, tenant: str) -> None:
    refused(
        pod(control_plane, tenant).apply(PROGRESS, run=OTHER),
        f"pod {POD} does not belong to Run {OTHER}",
    )


def test_a_pod_with_a_similar_name_is_refused(control_plane: ControlPlane, tenant: str) -> None:
    refused(pod(control_plane, tenant, f"{RUN}0-1-head").apply(PROGRESS), "does not belong to Run")


@pytest.mark.parametrize("status", [{"phase": "Succeeded"}, {"attempts": [ATTEMPT]}, {"conditions": [READY]}])
def test_the_operators_fields_are_refused_even_with_force(
    control_plane: ControlPlane, tenant: str, status: dict[str, Any]
) -> None:
    reporter = pod(control_plane, tenant)
    refused(reporter.apply({**PROGRESS, **status}, force=True), "a run may")
    refused(reporter.merge(status), "a run may")


def test_sharing_a_field_of_the_operator_is_refused(control_plane: ControlPlane, tenant: str) -> None:
    """The same value changes nothing now, but would make the operator's next write a conflict."""
    refused(pod(control_plane, tenant).apply({"phase": "Running"}), "a run may own only")


def test_removing_a_field_of_the_operator_is_refused(control_plane: ControlPlane, tenant: str) -> None:
    reporter = pod(control_plane, tenant)
    refused(reporter.apply(PROGRESS, manager="fovea", force=True), "a run may")
    refused(reporter.merge({"phase": None}), "a run may change only")


def test_another_field_manager_is_refused(control_plane: ControlPlane, tenant: str) -> None:
    refused(pod(control_plane, tenant).apply(PROGRESS, manager="someone"), "as field manager fovea-run")


def test_spec_and_metadata_stay_as_they_are(control_plane: ControlPlane, tenant: str) -> None:
    reporter = pod(control_plane, tenant)
    before = control_plane.objects.get_namespaced_custom_object("fovea.dev", "v1alpha1", tenant, "runs", RUN)
    spec = {**before["spec"], "image": "evil:1"}
    assert reporter.apply({}, path="", spec=spec, force=True).status_code == 403
    reporter.apply(PROGRESS, spec=spec, metadata={"labels": {"fovea.dev/run": "mine"}}, force=True)
    after = control_plane.objects.get_namespaced_custom_object("fovea.dev", "v1alpha1", tenant, "runs", RUN)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]


def test_a_token_without_a_pod_is_refused(control_plane: ControlPlane, tenant: str) -> None:
    token = control_plane.kubectl("-n", tenant, "create", "token", "fovea-run").strip()
    refused(Reporter(control_plane, tenant, token).apply(PROGRESS), "this token belongs to no pod")


def test_another_namespace_is_refused(control_plane: ControlPlane, tenant: str, neighbour: str) -> None:
    """By RBAC, and by the policy even where somebody bound the role across namespaces."""
    prepare(control_plane, neighbour)
    reporter = pod(control_plane, tenant)
    assert reporter.apply(PROGRESS, namespace=neighbour).status_code == 403
    control_plane.kubectl(
        *("-n", neighbour, "create", "rolebinding", "mistake", "--clusterrole=fovea-run"),
        f"--serviceaccount={tenant}:fovea-run",
    )
    refused(reporter.apply(PROGRESS, namespace=neighbour), "only in its own namespace")


def test_wider_rights_by_mistake_still_write_nothing_else(control_plane: ControlPlane, tenant: str) -> None:
    control_plane.kubectl(
        "-n", tenant, "create", "role", "wide", "--verb=create,patch,delete", "--resource=runs.fovea.dev"
    )
    control_plane.kubectl(
        "-n", tenant, "create", "rolebinding", "wide", "--role=wide", f"--serviceaccount={tenant}:fovea-run"
    )
    relabel = pod(control_plane, tenant).apply({}, path="", metadata={"labels": {"mine": "true"}}, force=True)
    refused(relabel, "nothing but the status")


def ray_cluster(name: str, run: str = RUN) -> dict[str, Any]:
    """As KubeRay makes it of a sweep's RayJob."""
    template = {"spec": {"containers": [{"name": "ray", "image": "fovea/trainer:tests"}]}}
    group = {"groupName": "worker", "replicas": 1, "minReplicas": 1, "maxReplicas": 3, "rayStartParams": {}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "labels": {"fovea.dev/run": run}},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": template},
            "workerGroupSpecs": [{**group, "scaleStrategy": {}, "template": template}],
        },
    }


MINE, GROUP, ONLY_SIZE = "rayclusters/mine", "/spec/workerGroupSpecs/0", "only the number of its Ray workers"
WRITES: dict[str, tuple[str, dict[str, Any], str]] = {
    # the object, what is replaced in it, the words that refuse it
    "more workers": (MINE, {f"{GROUP}/replicas": 3}, ""),
    "no workers": (MINE, {f"{GROUP}/scaleStrategy": {"workersToDelete": ["w"]}, f"{GROUP}/replicas": 0}, ""),
    "more than it may have": (MINE, {f"{GROUP}/maxReplicas": 9}, ONLY_SIZE),
    "another image": (MINE, {f"{GROUP}/template/spec/containers/0/image": "evil:1"}, ONLY_SIZE),
    "another head": (MINE, {"/spec/headGroupSpec/template/spec/containers/0/image": "evil:1"}, ONLY_SIZE),
    "another run's label": (MINE, {"/metadata/labels": {}}, ONLY_SIZE),
    "another run's cluster": ("rayclusters/theirs", {f"{GROUP}/replicas": 3}, "not belong to RayCluster theirs"),
    "a pod": (f"pods/{POD}", {"/spec/containers/0/image": "evil:1"}, "may write no pod"),
}


@pytest.mark.usefixtures("kuberay_crds")
@pytest.mark.parametrize("name", WRITES)
def test_of_what_kuberay_lets_the_head_of_an_elastic_sweep_write_its_size_is_left(
    control_plane: ControlPlane, tenant: str, name: str
) -> None:
    """The role is that which KubeRay binds to the ServiceAccount of a head with an autoscaler."""
    resources = "--resource=pods,rayclusters.ray.io"
    control_plane.kubectl("-n", tenant, "create", "role", "ray", "--verb=get,list,watch,patch", resources)
    account = f"--serviceaccount={tenant}:fovea-run"
    control_plane.kubectl("-n", tenant, "create", "rolebinding", "ray", "--role=ray", account)
    control_plane.apply(ray_cluster("mine"), ray_cluster("theirs", OTHER), namespace=tenant)
    what, changes, words = WRITES[name]
    answer = pod(control_plane, tenant).replace(what, changes)
    if words:
        refused(answer, words)
    else:
        assert answer.status_code == 200, answer.text


@pytest.fixture
def neighbour(control_plane: ControlPlane) -> Iterator[str]:
    """Another tenant's namespace."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
