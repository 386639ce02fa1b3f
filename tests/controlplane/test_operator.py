"""The operator against a real API server. No node runs: KubeRay's and the trainer's sides are played by patches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fovea_api import names
from fovea_operator.cache import Cache
from fovea_operator.client import Api, Refused, Unreachable, connect, load_configuration
from fovea_operator.kinds import builtin
from fovea_operator.kinds.dataset.observe import observe_dataset
from fovea_operator.main import Operator
from fovea_operator.metrics import Metrics
from fovea_operator.objects import (
    DATASET,
    LEASE,
    NAMESPACE,
    RAY_JOB,
    RUN,
    TRAINING_JOB,
    Key,
    Kind,
)
from fovea_operator.observe import Observer
from fovea_operator.polling import Poller
from fovea_operator.registry import Registry, Rights
from fovea_operator.rights import operator_rights
from fovea_operator.settings import Settings
from fovea_operator.writes import Plan
from fovea_store import StoreOwner
from fovea_trainer.environment import read_environment
from kubernetes import client

from tests.controlplane.conftest import ROOT, ControlPlane

VERSION = f"sha256-{'5' * 64}"
BUNDLE = f"sha256-{'b' * 64}"
STORY = ("RunCreated", "AttemptStarted", "AttemptFailed")
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@pytest.fixture(scope="session")
def kuberay_crds(control_plane: ControlPlane) -> None:
    """KubeRay's own CRDs, from its Go module."""
    module = ROOT / "devcluster" / "modules" / "kuberay"
    command = ["go", "mod", "download", "-json", "github.com/ray-project/kuberay/ray-operator"]
    found = json.loads(subprocess.run(command, cwd=module, capture_output=True, text=True, check=True).stdout)
    folder = Path(found["Dir"]) / "config" / "crd" / "bases"
    control_plane.install_crds(*sorted(folder.glob("ray.io_*.yaml")))


@dataclass
class World:
    """One namespace, an operator to start and stop, and the parts that others play."""

    plane: ControlPlane
    namespace: str
    monkeypatch: pytest.MonkeyPatch
    writes: list[tuple[str, str]] = field(default_factory=list)
    """Verb and kind of every write that the operator sent."""
    fail_after: int | None = None
    """Writes that go through before the operator is cut off from the API server."""
    refused: str = ""
    """A kind whose writes the API server refuses: a policy or a quota, played by the test."""

    def settings(self, **changed: Any) -> Settings:
        return Settings(
            **{
                "namespaces": self.namespace,
                "store": "s3://fovea",
                "lease_namespace": self.namespace,
                "port": 0,
                "retry_first_seconds": 0.2,
                "backoff_first_seconds": 0.1,
                "reference_poll_seconds": 0.3,
                "deletion_poll_seconds": 0.2,
                "cleanup_delay_seconds": 1,
                "lease_seconds": 120,  # nobody starts an operator anew that a busy machine has cost its Lease
                "lease_renew_deadline_seconds": 60,
                "lease_retry_seconds": 1,
            }
            | changed
        )

    def __post_init__(self) -> None:
        original = Api._request
        world = self

        async def counted(self: Api, verb: str, kind: Kind | None, path: str, *args: Any, **more: Any) -> Any:
            if verb in WRITES and kind is not None and kind.name != "Lease":
                if world.fail_after is not None and len(world.writes) >= world.fail_after:
                    raise Unreachable("cut off by the test")
                if kind.name == world.refused:
                    raise Refused("refused by the test", "Forbidden")
                world.writes.append((verb, kind.name))
            return await original(self, verb, kind, path, *args, **more)

        self.monkeypatch.setattr(Api, "_request", counted)

    @asynccontextmanager
    async def operator(self, registry: Registry | None = None, **changed: Any) -> AsyncIterator[Operator]:
        if registry is not None:
            self.grant(operator_rights(registry))
        operator = Operator(self.settings(**changed), await load_configuration(), registry=registry or builtin())
        task = asyncio.create_task(operator.run())
        try:
            async with asyncio.timeout(120):
                while not operator.watching.is_set():
                    assert not task.done(), task.result()
                    await asyncio.sleep(0.02)
            yield operator
        finally:
            operator.stop.set()
            await task

    def grant(self, rights: Sequence[Rights]) -> None:
        """Gives the operator's account more than the chart does."""
        rules = [{"apiGroups": [each.group], "resources": [*each.resources], "verbs": [*each.verbs]} for each in rights]
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "more"}}
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "more"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "more"},
            "subjects": [{"kind": "ServiceAccount", "name": "fovea", "namespace": self.namespace}],
        }
        self.plane.apply({**role, "rules": rules}, binding, namespace=self.namespace)

    async def apply(self, *manifests: dict[str, Any]) -> None:
        await asyncio.to_thread(self.plane.apply, *manifests, namespace=self.namespace)

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        with contextlib.suppress(Exception):
            return self.plane.objects.get_namespaced_custom_object(
                kind.group, kind.version, self.namespace, kind.plural, name
            )
        return None

    def all(self, kind: Kind) -> list[dict[str, Any]]:
        found = self.plane.objects.list_namespaced_custom_object(kind.group, kind.version, self.namespace, kind.plural)[
            "items"
        ]
        return sorted(found, key=lambda each: each["metadata"]["name"])

    def patch(self, kind: Kind, name: str, change: dict[str, Any], status: bool = True) -> None:
        api = self.plane.objects
        call = api.patch_namespaced_custom_object_status if status else api.patch_namespaced_custom_object
        call(
            kind.group, kind.version, self.namespace, kind.plural, name, change,
            _content_type="application/merge-patch+json",
        )  # fmt: skip

    async def until(self, what: Callable[[], Any], timeout: float = 180) -> Any:
        """What the callable returns, as soon as it is true."""
        found = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not (found := await asyncio.to_thread(what)):
                    await asyncio.sleep(0.05)
        assert found, f"waited {timeout} s in vain; {self.describe()}"
        return found

    def describe(self) -> str:
        lines = []
        for kind in (DATASET, TRAINING_JOB, RUN, RAY_JOB):
            for each in self.all(kind):
                status = each.get("status", {})
                lines.append(f"{kind} {each['metadata']['name']}: {status}")
        return "\n".join(lines)

    def jobs(self) -> list[client.V1Job]:
        found: list[client.V1Job] = client.BatchV1Api(self.plane.api).list_namespaced_job(self.namespace).items
        return found

    def ready(self, kind: Kind, name: str = "blood-cells") -> dict[str, Any]:
        found = (self.get(kind, name) or {}).get("status", {}).get("conditions", [])
        return next((each for each in found if each["type"] == "Ready"), {"status": "?", "reason": "?", "message": ""})

    def reason(self, kind: Kind, expected: str, name: str = "blood-cells") -> bool:
        return bool(self.ready(kind, name)["reason"] == expected)

    def events(self, reason: str) -> list[str]:
        found = self.plane.core.list_namespaced_event(self.namespace).items
        return [each.message for each in found if each.reason == reason]

    # The parts of KubeRay and of the run's pod

    def dataset_is_ready(self, version: str = VERSION, versions: tuple[str, ...] = (), images: int = 364) -> None:
        """The result of the build that has none yet; `versions` are those that it found in the store."""
        run = next(each for each in self.builds() if "result" not in each.get("status", {}))
        result = {
            "completedAt": "2030-01-01T00:00:00Z",
            "artifact": f"s3://fovea/{self.namespace}/dataset/blood-cells/{version}/",
            "digest": version,
            "report": "s3://fovea/report.html",
            "versions": versions,
            "dataset": {
                "version": version,
                "images": images,
                "annotations": 4888,
                "splits": {"train": 292, "validation": 36, "test": 36},
                "classes": [{"name": "RBC", "images": 350, "annotations": 4155}],
            },
        }
        self.patch(RUN, run["metadata"]["name"], {"status": {"result": result}})

    def pods_end(self, runs: list[dict[str, Any]]) -> None:
        """The pods of these Runs end well, and with them their Jobs: the job controller is real."""
        for run in runs:
            selector = f"{names.LABEL_RUN}={run['metadata']['name']}"
            for pod in self.plane.core.list_namespaced_pod(self.namespace, label_selector=selector).items:
                with contextlib.suppress(client.ApiException):
                    change = {"status": {"phase": "Succeeded"}}
                    self.plane.core.patch_namespaced_pod_status(pod.metadata.name, self.namespace, change)

    def pod(self) -> str:
        """Name of the one pod; empty: there is none yet."""
        found = self.plane.core.list_namespaced_pod(self.namespace).items
        return str(found[0].metadata.name) if found else ""

    def pod_fails(self, **container: Any) -> None:
        """The container of the one pod ends as given, and with it the pod and its Job."""
        ended = {"exitCode": 1, "reason": "Error", **container}
        state = {"name": "fovea", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        status = {"phase": "Failed", "containerStatuses": [{**state, "state": {"terminated": ended}}]}
        self.plane.core.patch_namespaced_pod_status(self.pod(), self.namespace, {"status": status})

    def reserves(self, child: str, cpus: str) -> None:
        """A pod of an attempt, named after its child, is scheduled."""
        value = self.get(RAY_JOB, child)
        assert value is not None
        requests = client.V1ResourceRequirements(requests={"cpu": cpus})
        container = client.V1Container(name="ray-worker", image="none", resources=requests)
        metadata = client.V1ObjectMeta(name=child, labels=value["metadata"]["labels"])
        pod = client.V1Pod(metadata=metadata, spec=client.V1PodSpec(containers=[container]))
        self.plane.core.create_namespaced_pod(self.namespace, pod)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}
        self.plane.core.patch_namespaced_pod_status(child, self.namespace, {"status": {"conditions": [scheduled]}})

    def kubelet_says(self, type: str, reason: str, message: str) -> None:
        """An event about the one pod."""
        pod = client.V1ObjectReference(api_version="v1", kind="Pod", name=self.pod(), namespace=self.namespace)
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name="kubelet-"),
            involved_object=pod, type=type, reason=reason, message=message,
        )  # fmt: skip
        self.plane.core.create_namespaced_event(self.namespace, event)

    def builds(self) -> list[dict[str, Any]]:
        """The Runs of type DatasetBuild."""
        return [each for each in self.all(RUN) if each["spec"]["type"] == "DatasetBuild"]

    def cleanups(self) -> dict[str, dict[str, Any]]:
        """The Runs of type Cleanup, by the kind of their object."""
        return {each["spec"]["owner"]["kind"]: each for each in self.all(RUN) if each["spec"]["type"] == "Cleanup"}

    def cleanup_waits(self, kind: str) -> str:
        """Reason and message of a Cleanup."""
        found = self.cleanups().get(kind, {}).get("status", {}).get("conditions", [])
        return next((f"{each['reason']}: {each['message']}" for each in found if each["type"] == "Ready"), "")

    def cleaning(self) -> list[client.V1Job]:
        """Jobs of Cleanups."""
        runs = [each["metadata"]["name"] for each in self.cleanups().values()]
        return [job for job in self.jobs() if job.metadata.labels[names.LABEL_RUN] in runs]

    def cleaned(self, *versions: str) -> None:
        """All Cleanups report that they are done, and which versions are left."""
        for run in self.cleanups().values():
            result = {"completedAt": "2030-01-01T01:00:00Z", "versions": versions}
            self.patch(RUN, run["metadata"]["name"], {"status": {"result": result}})

    async def delete(self, *what: str) -> None:
        await asyncio.to_thread(self.plane.kubectl, "-n", self.namespace, "delete", *what)

    def trained(self, run: str, **metrics: float) -> None:
        result = {
            "completedAt": "2030-01-01T00:00:00Z",
            "artifact": "s3://fovea/bundle/",
            "digest": BUNDLE,
            "metrics": {name.replace("__", "/"): value for name, value in metrics.items()},
            "training": {"bestEpoch": 3, "epochs": 4, "seconds": 60.5},
        }
        self.patch(RUN, run, {"status": {"result": result}})

    def ray_job(self, name: str, deployment: str, job: str = "", **more: str) -> None:
        self.patch(RAY_JOB, name, {"status": {"jobDeploymentStatus": deployment, "jobStatus": job, **more}})


@pytest.fixture
def world(
    control_plane: ControlPlane,
    kuberay_crds: None,
    namespace: str,
    operator_kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    monkeypatch.setenv("KUBECONFIG", str(operator_kubeconfig))
    return World(control_plane, namespace, monkeypatch)


def dataset(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Dataset",
        "metadata": {"name": "blood-cells"},
        "spec": {
            "task": "Detection",
            "sources": [{"name": "lab", "uri": "s3://lab/bccd", "format": "PascalVOC"}],
        }
        | spec,
    }


def training(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "TrainingJob",
        "metadata": {"name": "blood-cells", "annotations": annotations or {}},
        "spec": {
            "datasetRef": {"name": "blood-cells"},
            "model": {"architecture": "retinanet-efficientnet-lite0"},
            "successCriteria": [{"metric": "test/mAP50", "min": 0.85}],
        }
        | spec,
    }


async def built(world: World, **spec: Any) -> None:
    """A Dataset with a version."""
    await world.apply(dataset(**spec))
    await world.until(world.builds)
    await asyncio.to_thread(world.dataset_is_ready)
    await world.until(lambda: world.ready(DATASET)["status"] == "True")


async def started(world: World, **spec: Any) -> str:
    """A TrainingJob whose first attempt exists; returns its run."""
    await world.apply(training(**spec))
    child = await world.until(lambda: world.all(RAY_JOB))
    await world.until(lambda: (world.get(TRAINING_JOB, "blood-cells") or {}).get("status", {}).get("run"))
    return str(child[0]["metadata"]["labels"][names.LABEL_RUN])


async def test_from_manifests_to_a_model(world: World) -> None:
    async with world.operator():
        await world.apply(training())
        await world.until(lambda: world.reason(TRAINING_JOB, "DatasetNotFound"))
        await world.apply(dataset())
        await world.until(lambda: world.reason(TRAINING_JOB, "DatasetNotReady"))
        job = await world.until(lambda: world.jobs())
        assert job[0].spec.template.spec.service_account_name == "fovea-run"
        await asyncio.to_thread(world.dataset_is_ready)
        await world.until(lambda: world.ready(DATASET)["status"] == "True")
        status = world.get(DATASET, "blood-cells")["status"]  # type: ignore[index]
        assert (status["phase"], status["images"], status["version"]) == ("Ready", 364, VERSION)

        child = (await world.until(lambda: world.all(RAY_JOB)))[0]["metadata"]["name"]
        run = child.rpartition("-")[0]
        await asyncio.to_thread(world.ray_job, child, "Running", "RUNNING")
        progress = {"epoch": 1, "epochs": 8, "percent": 12, "metrics": {"train/loss": 0.5}}
        await asyncio.to_thread(world.patch, RUN, run, {"status": {"progress": progress}})
        await world.until(
            lambda: world.get(TRAINING_JOB, "blood-cells")["status"].get("progress", {}).get("percent") == 12  # type: ignore[index]
        )
        assert world.get(TRAINING_JOB, "blood-cells")["status"]["phase"] == "Running"  # type: ignore[index]
        await asyncio.to_thread(lambda: world.trained(run, test__mAP50=0.9))
        await world.until(lambda: world.ready(TRAINING_JOB)["status"] == "True")
        status = world.get(TRAINING_JOB, "blood-cells")["status"]  # type: ignore[index]
        assert status["phase"] == "Succeeded"
        assert status["result"]["eligible"] is True
        assert status["history"] == [run]
        for reason in ("RunCreated", "AttemptStarted", "AttemptSucceeded"):
            assert len([each for each in world.events(reason) if run in each]) == 1
        assert len(world.events("Succeeded")) == 1


async def test_a_run_spec_of_200_kib_reaches_the_trainer(world: World, tmp_path: Path) -> None:
    """No environment variable takes it; what the pod is given on the API server is read as the pod reads it."""
    classes = [f"class number {number:05} of very many" for number in range(8000)]
    async with world.operator():
        await world.apply(dataset(classes=classes))
        (job,) = await world.until(world.jobs)
        (run,) = world.builds()
        (container,) = job.spec.template.spec.containers
        assert all(len(each.value or "") < 128 << 10 for each in container.env)
        held = world.plane.core.read_namespaced_config_map(job.metadata.name, world.namespace)
        assert [owner.uid for owner in held.metadata.owner_references] == [run["metadata"]["uid"]]
        mount = next(each for each in container.volume_mounts if each.name == "fovea-run-spec")
        volume = next(each for each in job.spec.template.spec.volumes if each.name == "fovea-run-spec")
        assert volume.config_map.name == held.metadata.name
        for name, value in held.binary_data.items():
            (tmp_path / name).write_bytes(base64.b64decode(value))

        env = {each.name: each.value or "" for each in container.env}
        env["FOVEA_RUN_FILE"] = env["FOVEA_RUN_FILE"].replace(mount.mount_path, str(tmp_path))
        env |= {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}  # as the kubelet adds them
        spec, environment = read_environment(env)
        assert len(spec.model_dump_json()) > 200 << 10
        assert spec.identity == run["spec"]["identity"]
        assert spec.recipe["classes"] == classes
        cluster, tenant = (world.plane.core.read_namespace(name) for name in ("kube-system", world.namespace))
        assert environment.owner == StoreOwner(cluster.metadata.uid, tenant.metadata.uid, world.namespace)


async def test_three_writes_from_a_training_job_to_its_ray_job(world: World) -> None:
    async with world.operator():
        await built(world)
        world.writes.clear()
        await started(world)
        kinds = [kind for _, kind in world.writes]
        before = [kind for kind in kinds[: kinds.index("RayJob") + 1] if kind != "Event"]
        assert before == ["Run", "RayJob"]
        await world.until(lambda: ("PATCH", "TrainingJob") in world.writes)


async def test_a_restart_writes_nothing(world: World) -> None:
    async with world.operator():
        await built(world)
        run = await started(world)
        await asyncio.to_thread(world.ray_job, f"{run}-1", "Running", "RUNNING")
        await world.until(lambda: world.reason(TRAINING_JOB, "Running"))
    world.writes.clear()
    async with world.operator(relist_delay_seconds=0.2, resync_seconds=1):
        await asyncio.sleep(3)
    assert world.writes == []
    async with world.operator():
        await asyncio.to_thread(lambda: world.trained(run, test__mAP50=0.9))
        await world.until(lambda: world.ready(TRAINING_JOB)["status"] == "True")
    world.writes.clear()
    async with world.operator():
        await asyncio.sleep(2)
    assert world.writes == []


async def test_a_failed_attempt_is_followed_by_the_next_of_the_same_run(world: World) -> None:
    async with world.operator():
        await built(world)
        run = await started(world, runPolicy={"retries": 1})
        await asyncio.to_thread(world.ray_job, f"{run}-1", "Failed", "", reason="AppFailed", message="head died")
        await world.until(lambda: world.get(RAY_JOB, f"{run}-2"))
        await world.until(lambda: world.get(RAY_JOB, f"{run}-1") is None)
        await asyncio.to_thread(world.ray_job, f"{run}-2", "Failed", "", reason="AppFailed", message="head died again")
        await world.until(lambda: world.reason(TRAINING_JOB, "AppFailed") and world.ready(TRAINING_JOB))
        ready = world.ready(TRAINING_JOB)
        assert "2 attempts failed: head died again" in ready["message"]
        assert len(world.all(RUN)) == 2


async def test_a_fault_of_the_infrastructure_waits_and_goes_on_in_the_same_run(world: World) -> None:
    error = {"reason": "AccessDenied", "message": "check the keys", "retryable": True, "recoverable": True}

    async def fails(number: int) -> None:
        await world.until(lambda: any(job.metadata.name == f"{run}-{number}" for job in world.jobs()))
        result = {"completedAt": "2030-01-01T00:00:00Z", "attempt": number, "error": error}
        await asyncio.to_thread(world.patch, RUN, run, {"status": {"result": result}})
        await world.until(world.pod)
        await asyncio.to_thread(world.pod_fails, exitCode=75)

    async with world.operator(retry_first_seconds=3600, blocked_retry_max_seconds=3600):
        await world.apply(dataset(runPolicy={"retries": 0}))
        run = str((await world.until(world.builds))[0]["metadata"]["name"])
        await fails(1)
        await world.until(lambda: world.reason(DATASET, "AccessDenied") and not world.jobs())
        assert "kubectl annotate dataset blood-cells fovea.dev/retry=now" in world.ready(DATASET)["message"]
        annotate = ("annotate", "dataset", "blood-cells", "-n", world.namespace, "--overwrite")
        await asyncio.to_thread(world.plane.kubectl, *annotate, "fovea.dev/retry=now")
        await fails(2)
        await world.until(lambda: world.reason(DATASET, "AccessDenied") and not world.jobs())
        await asyncio.to_thread(world.plane.kubectl, *annotate, "fovea.dev/retry=again")
        await fails(3)
        await world.until(lambda: world.reason(DATASET, "AccessDenied") and not world.jobs())
        adopt = ("annotate", "namespace", world.namespace, "fovea.dev/adopt=cluster/namespace")
        await asyncio.to_thread(world.plane.kubectl, *adopt)
        await world.until(lambda: any(job.metadata.name == f"{run}-4" for job in world.jobs()))

        def attempts() -> list[tuple[str | None, str | None]]:
            found = (world.get(RUN, run) or {})["status"]["attempts"]
            return [(each.get("outcome"), each.get("adopt")) for each in found]

        blocked = ("Blocked", None)
        await world.until(lambda: attempts() == [blocked, blocked, blocked, (None, "cluster/namespace")])
    assert len(world.builds()) == 1


async def test_why_a_pod_died_and_its_last_words_are_reported(world: World) -> None:
    async with world.operator():
        await world.apply(dataset(runPolicy={"retries": 1}))
        pod = await world.until(world.pod)
        await asyncio.to_thread(world.pod_fails, message="reading lab\nno space left on device\n")
        words = (
            f"pod {pod}, container fovea ended with exit code 1; its last words: reading lab\nno space left on device"
        )
        await world.until(lambda: any(words in each for each in world.events("AttemptFailed")))
        await world.until(lambda: world.pod() not in ("", pod))
        await asyncio.to_thread(lambda: world.pod_fails(reason="OOMKilled", exitCode=137))
        await world.until(lambda: world.reason(DATASET, "OOMKilled"))
        assert "raise spec.compute.resources.limits.memory" in world.ready(DATASET)["message"]


async def test_a_deleted_pod_is_reported(world: World) -> None:
    async with world.operator():
        await world.apply(dataset(runPolicy={"retries": 0}))
        pod = await world.until(world.pod)
        await world.delete("pod", pod, "--grace-period=0", "--force")
        await world.until(lambda: world.reason(DATASET, "PodDeleted"))


async def test_what_keeps_a_container_from_being_created_is_reported_while_it_does(world: World) -> None:
    note = 'MountVolume.SetUp failed for volume "fovea-secret-0" : secret "hospital" not found'
    async with world.operator(scheduling_grace_seconds=0):
        await world.apply(dataset())
        pod = await world.until(world.pod)
        await asyncio.to_thread(world.kubelet_says, "Warning", "FailedMount", note)
        await world.until(lambda: world.reason(DATASET, "FailedMount"))
        assert world.ready(DATASET)["message"] == f"pod {pod}: {note}"
        await asyncio.to_thread(world.kubelet_says, "Normal", "Pulling", "pulling the image")
        await world.until(lambda: world.reason(DATASET, "Starting"))


async def test_bad_input_fails_at_once(world: World) -> None:
    async with world.operator():
        await built(world)
        run = await started(world)
        error = {"reason": "InvalidInput", "message": "spec.training.batchSize: too large"}
        result = {"completedAt": "2030-01-01T00:00:00Z", "error": error}
        await asyncio.to_thread(world.patch, RUN, run, {"status": {"result": result}})
        await world.until(lambda: world.reason(TRAINING_JOB, "InvalidInput"))
        assert world.ready(TRAINING_JOB)["message"] == error["message"]
        assert world.get(TRAINING_JOB, "blood-cells")["status"]["phase"] == "Failed"  # type: ignore[index]


async def test_an_error_longer_than_an_event_may_be_closes_its_attempt(world: World) -> None:
    async with world.operator():
        await built(world)
        run = await started(world)
        error = {"reason": "A" * 200, "message": "ü" * 2000}
        result = {"completedAt": "2030-01-01T00:00:00Z", "error": error}
        await asyncio.to_thread(world.patch, RUN, run, {"status": {"result": result}})
        await world.until(lambda: world.get(RUN, run)["status"]["phase"] == "Failed")  # type: ignore[index]
        await world.until(lambda: world.ready(TRAINING_JOB)["message"] == error["message"])
        note = (await world.until(lambda: world.events("AttemptFailed")))[0]
        assert 1022 <= len(note.encode()) <= 1024
        assert note.endswith("ü")
        assert await world.until(lambda: world.events("A" * 128))


async def test_a_refused_event_keeps_no_status_from_being_written(world: World) -> None:
    async with world.operator():
        await built(world)
        world.refused = "Event"
        run = await started(world)
        await asyncio.to_thread(lambda: world.trained(run, test__mAP50=0.9))
        await world.until(lambda: world.ready(TRAINING_JOB)["status"] == "True")
        assert not any(run in note for note in world.events("AttemptSucceeded"))


async def test_a_fault_of_the_operator_is_reported_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Plan:
        raise OverflowError("date value out of range")

    async with world.operator():
        with monkeypatch.context() as patched:
            patched.setattr("fovea_operator.kinds.dataset.plan._plan", broken)
            await world.apply(dataset())
            await world.until(lambda: world.reason(DATASET, "InternalError"))
        assert world.ready(DATASET)["message"].startswith(
            "OverflowError: date value out of range; a fault of the operator"
        )
        assert any(each.exc_info and each.exc_info[0] is OverflowError for each in caplog.records)
        await world.until(lambda: world.reason(DATASET, "Starting"))


async def test_a_warning_in_words_is_a_reason_of_a_condition(world: World) -> None:
    async with world.operator(scheduling_grace_seconds=0):
        await built(world)
        run = await started(world)
        regarding = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": f"{run}-1", "namespace": world.namespace}
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "reported-by-a-policy"},
            "eventTime": "2030-01-01T00:00:00.000000Z",
            "reportingController": "policy.example/admission",
            "reportingInstance": "policy-1",
            "action": "Deny",
            "type": "Warning",
            "reason": "Pods denied: image not signed!",
            "note": "the image is not signed",
            "regarding": regarding,
        }
        await world.apply(event)
        await world.until(lambda: world.reason(TRAINING_JOB, "PodsDeniedImageNotSigned"))
        assert world.ready(TRAINING_JOB)["message"] == "the image is not signed"


async def test_suspend_and_resume(world: World) -> None:
    async with world.operator():
        await built(world)
        run = await started(world)
        await world.apply(training(runPolicy={"suspend": True}))
        await world.until(lambda: world.reason(TRAINING_JOB, "Suspended") and not world.all(RAY_JOB))
        await world.apply(training())
        await world.until(lambda: world.get(RAY_JOB, f"{run}-2"))
        attempts = world.get(RUN, run)["status"]["attempts"]  # type: ignore[index]
        assert attempts[0]["outcome"] == "Suspended"


async def test_what_pods_reserve_is_counted_over_attempts_and_operators(world: World) -> None:
    """A pod of 3,600 cores reserves a core hour a second; the operator's clock has whole seconds."""

    def used() -> float:
        found = (world.get(TRAINING_JOB, "blood-cells") or {}).get("status", {})
        return float(found.get("usage", {}).get("cpuHours", 0))

    def counted() -> tuple[float, float]:
        usage = (world.get(RUN, run) or {}).get("status", {}).get("usage", {})
        return float(usage.get("cpuHours", 0)), float(usage.get("heldCpus", 0))

    async with world.operator():
        await built(world)
        run = await started(world)
        await asyncio.to_thread(world.ray_job, f"{run}-1", "Running", "RUNNING")
        await asyncio.to_thread(world.reserves, f"{run}-1", "3600")
        await world.until(lambda: counted()[1] == 3600)
    await asyncio.sleep(1)
    await world.delete("pod", f"{run}-1", "--grace-period=0", "--force")  # while no operator is there
    async with world.operator():
        await world.until(lambda: counted()[0] > 0 and counted()[1] == 0)
        first, _ = counted()
        await world.apply(training(runPolicy={"suspend": True}))
        await world.until(lambda: world.reason(TRAINING_JOB, "Suspended") and used() == first)
        await world.apply(training())
        await world.until(lambda: world.get(RAY_JOB, f"{run}-2"))
        await asyncio.to_thread(world.reserves, f"{run}-2", "3600")
        await asyncio.to_thread(world.ray_job, f"{run}-2", "Running", "RUNNING")
        await world.until(lambda: counted()[1] == 3600)
        await asyncio.sleep(1)
        progress = {"status": {"progress": {"epoch": 1}}}
        await asyncio.to_thread(world.patch, RUN, run, progress)
        await world.until(lambda: used() > first)
        await asyncio.to_thread(lambda: world.trained(run, test__mAP50=0.9))
        await world.delete("pod", f"{run}-2", "--grace-period=0", "--force")
        await world.until(lambda: counted()[1] == 0 and used() == counted()[0] > first)
    world.writes.clear()
    async with world.operator():
        await asyncio.sleep(2)
    assert world.writes == []


async def test_changes_that_train_again_and_changes_that_do_not(world: World) -> None:
    async with world.operator():
        await built(world)
        run = await started(world)
        await asyncio.to_thread(lambda: world.trained(run, test__mAP50=0.8))
        await world.until(lambda: world.reason(TRAINING_JOB, "CriteriaNotMet"))
        assert "test/mAP50 0.8 (required ≥ 0.85)" in world.ready(TRAINING_JOB)["message"]
        await world.apply(training(successCriteria=[{"metric": "test/mAP50", "min": 0.7}]))
        await world.until(lambda: world.ready(TRAINING_JOB)["status"] == "True")
        assert len(world.all(RAY_JOB)) == 1

        await world.apply(training(training={"epochs": 3}))
        await world.until(lambda: world.get(TRAINING_JOB, "blood-cells")["status"]["run"] != run)  # type: ignore[index]
        second = world.get(TRAINING_JOB, "blood-cells")["status"]["run"]  # type: ignore[index]
        await world.apply(training(training={"epochs": 4}))  # while the second runs: it must go
        await world.until(lambda: world.get(RAY_JOB, f"{second}-1") is None)
        await world.until(
            lambda: (
                world.get(RUN, second)["status"]["phase"] == "Suspended"
                and world.get(RUN, run)["status"]["phase"] == "Succeeded"
            )
        )  # type: ignore[index]
        await world.apply(training())  # back to what was trained already
        await world.until(lambda: world.get(TRAINING_JOB, "blood-cells")["status"]["run"] == run)  # type: ignore[index]
        await world.until(lambda: world.reason(TRAINING_JOB, "CriteriaNotMet"))
        await world.apply(training(annotations={names.ANNOTATION_RESTART: "again"}))
        await world.until(lambda: world.get(TRAINING_JOB, "blood-cells")["status"]["run"] not in (run, second))  # type: ignore[index]


async def test_what_a_person_can_act_on(world: World) -> None:
    async with world.operator():
        await built(world)
        await world.apply(training(model={"architecture": "retinanet-eficientnet-lite0"}))
        await world.until(lambda: world.reason(TRAINING_JOB, "UnknownArchitecture"))
        assert "retinanet-efficientnet-lite0" in world.ready(TRAINING_JOB)["message"]
        world.plane.kubectl("-n", world.namespace, "delete", "trainingjob", "--all")
        await world.apply(training(model={"architecture": "resnet18"}))
        await world.until(lambda: world.reason(TRAINING_JOB, "TaskMismatch"))
        assert (
            "use one of fasterrcnn, fcos, retinanet, retinanet-efficientnet-lite0"
            in world.ready(TRAINING_JOB)["message"]
        )
        await world.apply(training(model={"architecture": "fasterrcnn", "pretrained": {"uri": "pvc://weights/x.pth"}}))
        await world.until(lambda: world.reason(TRAINING_JOB, "PersistentVolumeClaimNotFound"))
        assert "'weights' (spec.model.pretrained.uri)" in world.ready(TRAINING_JOB)["message"]
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "weights"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        await world.apply(claim)
        child = (await world.until(lambda: world.all(RAY_JOB)))[0]
        worker = child["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
        mounts = {each["mountPath"]: each.get("readOnly") for each in worker["containers"][0]["volumeMounts"]}
        assert mounts["/fovea/pvc/weights"] is True


async def test_the_store_of_a_namespace_that_was_not_listed_yet_is_read(world: World) -> None:
    store = f"s3://team/{world.namespace}"
    await asyncio.to_thread(world.plane.kubectl, "annotate", "namespace", world.namespace, f"fovea.dev/store={store}")
    await world.apply(dataset())
    key, namespace = Key(DATASET, world.namespace, "blood-cells"), Key(NAMESPACE, "", world.namespace)
    async with connect(await load_configuration(), 30, Metrics()) as api:
        cache = Cache(builtin())
        cache.put(DATASET, await api.get(key) or {})
        poller = Poller(api, world.settings(), lambda key: None)
        snapshot = await observe_dataset(Observer(api, cache, poller, world.settings()), key, datetime.now(UTC))
    assert snapshot is not None
    assert snapshot.store.uri == store
    assert cache.get(namespace) is not None


async def test_an_operator_that_may_not_list_says_what_to_grant_and_is_not_ready(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    kubectl, namespace = world.plane.kubectl, world.namespace
    await asyncio.to_thread(kubectl, "-n", namespace, "create", "serviceaccount", "operator")
    token = (await asyncio.to_thread(kubectl, "-n", namespace, "create", "token", "operator")).strip()
    configuration = await load_configuration()
    configuration.api_key["BearerToken"] = f"Bearer {token}"
    operator = Operator(world.settings(leader_election=False), configuration)
    task = asyncio.create_task(operator.run())

    async def ready() -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{operator.port}/readyz") as answer,
        ):
            return answer.status, await answer.text()

    grant = "grant the operator's ServiceAccount get, list and watch on namespaces of the core API group"
    try:
        await world.until(lambda: operator.unread)
        status, text = await ready()
        assert (status, text.rpartition("; ")[2]) == (503, grant)
        assert 'cannot list resource "namespaces"' in text
        await asyncio.sleep(0.5)
        assert len([each for each in caplog.records if grant in each.getMessage()]) == 1
        admin = ("--clusterrole=cluster-admin", f"--serviceaccount={namespace}:operator")
        await asyncio.to_thread(kubectl, "create", "clusterrolebinding", namespace, *admin)
        await world.until(operator.watching.is_set)
        assert await ready() == (200, "ok")
    finally:
        operator.stop.set()
        await task
        await asyncio.to_thread(kubectl, "delete", "clusterrolebinding", namespace, "--ignore-not-found")


async def test_a_second_replica_takes_over(world: World) -> None:
    """The second is a process of its own: kopf ends every task of its event loop that is younger than itself."""
    lease = Key(LEASE, world.namespace, world.settings().lease_name)

    def holder() -> str:
        found = client.CoordinationV1Api(world.plane.api).read_namespaced_lease(lease.name, lease.namespace)
        return str(found.spec.holder_identity or "")

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(world.settings()).items()]
    command = [sys.executable, "-c", "import sys; from fovea_operator.main import main; sys.exit(main(sys.argv[1:]))"]
    async with world.operator() as first:
        second = await asyncio.create_subprocess_exec(*command, *flags)
        try:
            await asyncio.sleep(5)
            assert holder() == first.identity
            first.stop.set()
            await world.until(lambda: holder() not in ("", first.identity))
            await world.apply(dataset())
            await world.until(lambda: world.all(RUN))
        finally:
            second.terminate()
            assert await second.wait() == 0
    assert holder() == ""


async def killed_at(world: World, number: int, act: Callable[[], Awaitable[Any]]) -> None:
    """Lets an operator die at its write of this number, then starts another."""
    world.writes.clear()
    world.fail_after = number
    async with world.operator():
        await act()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while len(world.writes) < number:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.1)
    world.fail_after = None


def outcome(world: World) -> Any:
    """What counts in the end, without names and times."""
    job = world.get(TRAINING_JOB, "blood-cells") or {}
    runs = [each for each in world.all(RUN) if each["spec"]["type"] == "Training"]
    return (
        [(each["type"], each["status"], each["reason"]) for each in job["status"]["conditions"]],
        job["status"]["phase"],
        [[(a["number"], a["child"], a.get("outcome")) for a in each["status"]["attempts"]] for each in runs],
        [each["metadata"]["name"] for each in world.all(RAY_JOB)],
        [
            sorted(re.sub(r" after \w+", "", each) for each in world.events(reason) if job["status"]["run"] in each)
            for reason in STORY
        ],
    )


async def test_killed_at_any_write_the_outcome_is_the_same(world: World) -> None:
    async with world.operator():
        await built(world)
    ends = [await killed_twice(world, number) for number in range(9)]
    for number, end in enumerate(ends):
        assert end == ends[0], f"killed at write {number}"


async def test_killed_while_suspending_and_resuming_no_attempt_is_left_open(world: World) -> None:
    async with world.operator():
        await built(world)
    for suspending, resuming in ((1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (5, 3)):
        attempts, children = await suspended_and_resumed(world, suspending, resuming)
        ended = [each.get("outcome") for each in attempts]
        assert ended[-1] is None, f"killed at writes {suspending} and {resuming}"
        assert set(ended[:-1]) <= {"Suspended"}, f"killed at writes {suspending} and {resuming}"
        assert children == [attempts[-1]["child"]], f"killed at writes {suspending} and {resuming}"


async def suspended_and_resumed(world: World, suspending: int, resuming: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The attempts and children of a job whose operator dies at its writes of these numbers; others take over."""
    async with world.operator():
        run = await started(world)
        await asyncio.to_thread(world.ray_job, f"{run}-1", "Running", "RUNNING")
        await world.until(lambda: world.get(RUN, run)["status"].get("phase") == "Running")  # type: ignore[index]
    await killed_at(world, suspending, lambda: world.apply(training(runPolicy={"suspend": True})))
    await killed_at(world, resuming, lambda: world.apply(training(runPolicy={"suspend": False})))
    async with world.operator():
        await world.until(lambda: world.all(RAY_JOB))
        await world.until(lambda: len(world.all(RAY_JOB)) == 1 and world.get(RUN, run)["status"]["attempts"])  # type: ignore[index]
        await asyncio.sleep(0.5)
        attempts: list[dict[str, Any]] = world.get(RUN, run)["status"]["attempts"]  # type: ignore[index]
        children = [str(each["metadata"]["name"]) for each in world.all(RAY_JOB)]
        await world.delete("trainingjob", "--all")
        await world.until(lambda: not world.all(RAY_JOB))
    return attempts, children


async def killed_twice(world: World, number: int) -> Any:
    """A job is created and its first attempt fails; the operator dies at its n-th write in both."""
    await killed_at(world, number, lambda: world.apply(training()))
    async with world.operator():
        run = await started(world)
        await world.until(lambda: world.get(RUN, run)["status"].get("attempts"))  # type: ignore[index]
    first, second = f"{run}-1", f"{run}-2"
    await killed_at(
        world,
        number,
        lambda: asyncio.to_thread(world.ray_job, first, "Failed", "", reason="AppFailed", message="died"),
    )
    async with world.operator():
        await world.until(lambda: world.get(RAY_JOB, second) and world.get(RAY_JOB, first) is None)
        await world.until(lambda: len(world.get(RUN, run)["status"]["attempts"]) == 2)  # type: ignore[index]
        await world.until(lambda: world.reason(TRAINING_JOB, "Starting"))
        await asyncio.sleep(0.3)
    end = outcome(world)
    await asyncio.to_thread(world.plane.kubectl, "-n", world.namespace, "delete", "trainingjob,events", "--all")
    await world.until(lambda: not world.all(RAY_JOB) and len(world.all(RUN)) == 1)
    return end


async def test_data_go_when_their_object_and_all_that_use_them_are_deleted(world: World) -> None:
    async with world.operator():
        await built(world, deletionPolicy="Delete")
        run = await started(world, deletionPolicy="Delete")
        await asyncio.to_thread(lambda: world.trained(run, test__mAP50=0.9))
        await world.until(lambda: world.ready(TRAINING_JOB)["status"] == "True")
        for kind in ("Dataset", "TrainingJob"):
            assert world.cleanup_waits(kind) == f"Waiting: acts when {kind} blood-cells is deleted"
        await world.delete("dataset", "blood-cells")
        users = f"TrainingJob blood-cells (spec.datasetRef), Run {run} of TrainingJob blood-cells"
        expected = f"InUse: the data are kept until these are deleted: {users}"
        await world.until(lambda: world.cleanup_waits("Dataset") == expected)
        await asyncio.sleep(0.5)
    world.writes.clear()
    async with world.operator(relist_delay_seconds=0.2, resync_seconds=1):
        await asyncio.sleep(3)
    assert world.writes == []
    async with world.operator():
        await world.delete("trainingjob", "blood-cells")
        await world.until(lambda: len(world.cleaning()) == 2)
        runs = [each["metadata"]["name"] for each in world.cleanups().values()]
        await asyncio.to_thread(world.cleaned)
        await world.until(lambda: not world.all(RUN))
        for each in runs:
            assert len([note for note in world.events("AttemptSucceeded") if each in note]) == 1
    world.writes.clear()
    async with world.operator():
        await asyncio.sleep(2)
    assert world.writes == []


async def test_back_to_retain_the_data_stay(world: World) -> None:
    async with world.operator():
        await built(world, deletionPolicy="Delete")
        await world.until(world.cleanups)
        await world.apply(dataset())
        await world.until(lambda: not world.cleanups())
        await world.delete("dataset", "blood-cells")
        await world.until(lambda: not world.all(RUN))
        await asyncio.sleep(1)
        assert world.cleaning() == []


async def test_to_retain_and_deleted_at_once_the_data_stay(world: World) -> None:
    async with world.operator():
        await built(world, deletionPolicy="Delete")
        await world.until(lambda: world.cleanup_waits("Dataset").startswith("Waiting"))
        await asyncio.to_thread(
            world.plane.kubectl, "-n", world.namespace, "patch", "dataset", "blood-cells",
            "--type=merge", "-p", '{"spec": {"deletionPolicy": "Retain"}}',
        )  # fmt: skip
        await world.delete("dataset", "blood-cells", "--wait=false")
        await world.until(lambda: not world.all(RUN))
        assert world.cleaning() == []


async def test_a_cleanup_that_a_backup_brings_back_deletes_nothing_without_its_object(world: World) -> None:
    async with world.operator():
        await built(world, deletionPolicy="Delete")
        await world.until(world.cleanups)
        cleanup = world.cleanups()["Dataset"]
    await world.delete("dataset,runs", "--all")
    metadata = {name: cleanup["metadata"][name] for name in ("name", "labels")}
    await world.apply({name: cleanup[name] for name in ("apiVersion", "kind", "spec")} | {"metadata": metadata})
    async with world.operator():
        await world.until(lambda: world.cleanup_waits("Dataset").startswith("Unconfirmed"))
        await asyncio.sleep(2)
        assert world.cleaning() == []
        await world.apply(dataset(deletionPolicy="Delete"))
        await world.until(lambda: world.cleanup_waits("Dataset").startswith("Waiting"))


async def test_an_object_made_again_starts_nothing_while_the_data_of_the_one_before_go(world: World) -> None:
    async with world.operator():
        await built(world, deletionPolicy="Delete")
        await world.delete("dataset", "blood-cells")
        await world.until(world.cleaning)
        await world.apply(dataset())
        await world.until(lambda: world.reason(DATASET, "CleaningUp"))
        assert len(world.jobs()) == 1
        cleanups = list(world.cleanups().values())
        await asyncio.to_thread(world.cleaned)

        def goes_on() -> bool:
            world.pods_end(cleanups)
            return not world.cleanups() and world.reason(DATASET, "Starting")

        await world.until(goes_on)


async def test_killed_at_any_write_of_a_cleanup_the_data_go_once(world: World) -> None:
    for number in range(7):
        async with world.operator():
            await built(world, deletionPolicy="Delete")
            await world.until(lambda: world.cleanup_waits("Dataset").startswith("Waiting"))
        await killed_at(world, number, lambda: world.delete("dataset", "blood-cells"))
        async with world.operator():
            jobs = await world.until(world.cleaning)
            run = jobs[0].metadata.labels[names.LABEL_RUN]
            await world.until(lambda run=run: world.get(RUN, run)["status"].get("attempts"))
        await killed_at(world, number, lambda: asyncio.to_thread(world.cleaned))
        async with world.operator():
            await world.until(lambda: not world.all(RUN))
        started_ = [each for each in world.events("AttemptStarted") if run in each]
        assert len(started_) == number + 1, f"killed at write {number}"


@pytest.mark.parametrize("kind", [RUN, RAY_JOB], ids=str)
async def test_an_object_made_again_waits_for_what_is_left_and_inherits_nothing(world: World, kind: Kind) -> None:
    """A finalizer, such as KubeRay's, keeps a part of the object before; it had succeeded."""
    async with world.operator():
        await built(world)
        run = await started(world)
        await asyncio.to_thread(lambda: world.trained(run, test__mAP50=0.9))
        await world.until(lambda: world.ready(TRAINING_JOB)["status"] == "True")
        name = run if kind == RUN else f"{run}-1"
        before = {each: world.get(each, at)["metadata"]["uid"] for each, at in ((RUN, run), (RAY_JOB, f"{run}-1"))}  # type: ignore[index]
        keep = {"metadata": {"finalizers": ["fovea.dev/test"]}}
        await asyncio.to_thread(world.patch, kind, name, keep, status=False)
        await world.delete("trainingjob", "blood-cells")
        await world.until(lambda: "deletionTimestamp" in world.get(kind, name)["metadata"])  # type: ignore[index]
        await world.apply(training())
        expected = f"waiting for {kind} {world.namespace}/{name} of the object before to go"
        await world.until(lambda: world.ready(TRAINING_JOB)["message"] == expected)
        assert world.ready(TRAINING_JOB)["reason"] == "Stopping"
        await asyncio.sleep(0.5)
        assert not [each for each in world.all(RAY_JOB) if each["metadata"]["uid"] != before[RAY_JOB]]
        await asyncio.to_thread(world.patch, kind, name, {"metadata": {"finalizers": []}}, status=False)
        await world.until(lambda: world.reason(TRAINING_JOB, "Starting"))
        for each, at in ((RUN, run), (RAY_JOB, f"{run}-1")):
            assert world.get(each, at)["metadata"]["uid"] != before[each]  # type: ignore[index]


async def test_a_run_that_was_left_behind_is_named_until_somebody_deletes_it(world: World) -> None:
    async with world.operator():
        await built(world)
        run = await started(world)
        await world.delete("trainingjob", "blood-cells", "--cascade=orphan")
        await world.until(lambda: not world.get(RUN, run)["metadata"].get("ownerReferences"))  # type: ignore[index]
        await world.apply(training())
        expected = f"waiting for Run {world.namespace}/{run} of the object before to go"
        await world.until(lambda: world.ready(TRAINING_JOB)["message"] == expected)
        await world.delete("runs.fovea.dev", run)
        await world.until(lambda: world.reason(TRAINING_JOB, "Starting"))


async def test_old_versions_go_and_those_in_use_stay(world: World) -> None:
    other, newer = f"sha256-{'4' * 64}", f"sha256-{'6' * 64}"
    pinned = training(datasetRef={"name": "blood-cells", "version": other}) | {"metadata": {"name": "pinned"}}
    async with world.operator():
        await built(world, retainVersions=1)
        await started(world)  # on the first version
        await world.apply(dataset(retainVersions=1, classes=["RBC", "WBC"]))
        await world.until(lambda: len(world.builds()) == 2)
        await asyncio.to_thread(world.dataset_is_ready, newer, (newer, VERSION, other))
        await world.until(world.cleanups)

        def start() -> list[client.V1Job]:
            world.pods_end(world.builds())  # no cleanup starts before the builds' pods have ended
            return world.cleaning()

        container = (await world.until(start))[0].spec.template.spec.containers[0]
        spec = json.loads(next(each.value for each in container.env if each.name == "FOVEA_RUN"))
        assert (spec["recipe"]["keepNewest"], spec["recipe"]["keep"]) == (1, sorted([VERSION, newer]))
        await world.apply(pinned)  # too late to be kept, so it must not start while versions go
        await world.until(lambda: world.reason(TRAINING_JOB, "CleaningUp", "pinned"))
        await asyncio.to_thread(world.cleaned, newer, VERSION)
        await world.until(lambda: world.cleanups()["Dataset"]["status"]["phase"] == "Succeeded")
        await world.until(lambda: world.get(TRAINING_JOB, "pinned")["status"].get("run"))  # type: ignore[index]
        await world.until(lambda: world.reason(TRAINING_JOB, "Starting", "pinned"))
        await asyncio.sleep(0.5)
    world.writes.clear()
    async with world.operator():
        await asyncio.sleep(2)
    assert world.writes == []
