"""A ModelDeployment against a real API server, with the rights that the chart gives; KubeRay is played by patches."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fovea_api import names
from fovea_operator.objects import MODEL_DEPLOYMENT, RAY_SERVICE
from kubernetes import client

from tests.controlplane.conftest import good
from tests.controlplane.test_operator import World, killed_at, kuberay_crds, world

__all__ = ["kuberay_crds", "world"]  # fixtures
FIRST, SECOND = "s3://models/first/", "s3://models/second/"


def deployment(uri: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": "cells"},
        "spec": {
            "model": {"uri": uri},
            "rollout": {"strategy": "Recreate"},
            "inference": {"timeoutSeconds": 1},
        }
        | spec,
    }


def status(world: World) -> dict[str, Any]:
    return dict((world.get(MODEL_DEPLOYMENT, "cells") or {}).get("status", {}))


def holds(world: World) -> set[str]:
    """The conditions of every kind that are True."""
    found = status(world).get("conditions", ())
    return {each["type"] for each in found if each["status"] == "True"} - {"FullySupported"}


def config(world: World) -> dict[str, Any]:
    found = world.plane.core.read_namespaced_config_map("cells-gateway", world.namespace)
    return dict(json.loads(found.data["gateway.json"]))


def applications(world: World) -> list[str]:
    value = world.get(RAY_SERVICE, "cells")
    return [each["name"] for each in json.loads(value["spec"]["serveConfigV2"])["applications"]] if value else []


def loaded(world: World) -> None:
    """KubeRay reports every application as running; head, replica and gateway are ready."""
    states = {name: {"status": "RUNNING"} for name in applications(world)}
    world.patch(RAY_SERVICE, "cells", {"status": {"activeServiceStatus": {"applicationStatuses": states}}})
    for component in ("gateway", "head", "replica"):
        pod_is_ready(world, component)


def pod_is_ready(world: World, component: str) -> None:
    labels = {
        names.LABEL_KIND: "ModelDeployment",
        names.LABEL_NAME: "cells",
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_COMPONENT: component,
    }
    container = client.V1Container(name="main", image="none")
    core, name = world.plane.core, f"played-{component}"
    if any(each.metadata.name == name for each in core.list_namespaced_pod(world.namespace).items):
        return
    pod = client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels=labels), spec=client.V1PodSpec(containers=[container])
    )
    core.create_namespaced_pod(world.namespace, pod)
    ready = {"type": "Ready", "status": "True"}
    change = {"status": {"phase": "Running", "conditions": [ready], "podIP": "127.0.0.1"}}
    core.patch_namespaced_pod_status(name, world.namespace, change)


async def serves(world: World, uri: str) -> None:
    """Waits until a bundle answers and nothing else is in the runtime."""
    await world.until(lambda: uri in str(world.get(RAY_SERVICE, "cells")))
    await asyncio.to_thread(loaded, world)
    await world.until(lambda: [each["bundle"] for each in config(world).get("versions", ())] == [uri])
    await world.until(lambda: len(applications(world)) == 1 and "retiring" not in status(world))
    await world.until(lambda: world.ready(MODEL_DEPLOYMENT, "cells")["status"] == "True")


@pytest.fixture
def restricted(world: World) -> World:
    """The namespace takes no pod that breaks the restricted Pod Security Standard."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    world.plane.kubectl("label", "namespace", world.namespace, label)
    return world


SETTINGS: dict[str, Any] = {"switch_grace_seconds": 0.5, "gateway_replicas": 1, "metrics_seconds": 0.3}


async def test_from_apply_to_a_switch_of_bundles(world: World) -> None:
    async with world.operator(**SETTINGS):
        await world.apply(deployment(FIRST))
        await serves(world, FIRST)
        printed = world.plane.kubectl("-n", world.namespace, "get", "md").splitlines()
        assert printed[0].split()[:5] == ["NAME", "READY", "URL", "STABLE", "REPLICAS"]
        assert printed[1].split()[1:3] == ["True", f"http://cells.{world.namespace}.svc.cluster.local"]
        await world.apply(deployment(SECOND))
        await world.until(lambda: len(applications(world)) == 2)
        await world.until(lambda: holds(world) == {"Ready", "Reconciling"})
        assert [each["bundle"] for each in config(world)["versions"]] == [FIRST]
        await serves(world, SECOND)
        assert "VersionRemoved" in {
            each.reason for each in world.plane.core.list_namespaced_event(world.namespace).items
        }

        # Nothing is left to be done, and the scale subresource changes what Ray Serve is told.
        world.writes.clear()
        await asyncio.sleep(1)
        assert world.writes == []
        scale = ("scale", "modeldeployment", "cells", "--replicas=3")
        await asyncio.to_thread(world.plane.kubectl, "-n", world.namespace, *scale)
        await world.until(lambda: '"num_replicas": 3' in str(world.get(RAY_SERVICE, "cells")))
        assert status(world)["selector"].count(names.LABEL_COMPONENT) == 1

        # What is not asked for any more goes.
        await world.apply(deployment(SECOND, scaling={"replicas": 0}))
        await world.until(lambda: not applications(world))
        await world.until(lambda: "ScaledToZero" in str(status(world)["conditions"]))  # the status is written last
    world.writes.clear()
    async with world.operator(**SETTINGS):
        await asyncio.sleep(2)
    assert world.writes == [], "a restart with nothing to do writes nothing"


def outcome(world: World) -> Any:
    found = status(world)
    return (
        [(each["type"], each["status"], each["reason"]) for each in found["conditions"]],
        found["phase"],
        found["stable"]["bundle"],
        applications(world),
        config(world)["versions"],
        [sorted(world.events(reason)) for reason in ("RolloutStarted", "Promoted", "VersionRemoved")],
    )


async def test_killed_at_any_write_the_same_version_serves_in_the_end(world: World) -> None:
    ends = []
    for number in range(1, 12, 4):
        await killed_at(world, number, lambda: world.apply(deployment(FIRST)))
        async with world.operator(**SETTINGS):
            await serves(world, FIRST)

        async def switched() -> None:
            await world.apply(deployment(SECOND))
            with_both = world.until(lambda: len(applications(world)) == 2, timeout=2)
            try:
                await with_both
            except AssertionError:
                return  # it died before
            await asyncio.to_thread(loaded, world)

        await killed_at(world, number % 6, switched)
        async with world.operator(**SETTINGS):
            await serves(world, SECOND)
            await asyncio.sleep(0.3)
        ends.append(outcome(world))
        await asyncio.to_thread(world.plane.kubectl, "-n", world.namespace, "delete", "md,events,pods", "--all")
        await world.until(lambda: world.get(RAY_SERVICE, "cells") is None)
        await world.until(lambda: not world.plane.core.list_namespaced_pod(world.namespace).items)
    for number, end in enumerate(ends):
        assert end == ends[0], f"killed at write {number}"


async def test_every_child_is_taken_by_the_api_server_in_a_restricted_namespace(restricted: World) -> None:
    """All pods pass, of both runtimes; a missing Gateway API is said, and is nobody else's trouble."""
    world = restricted
    world.plane.core.create_namespaced_secret(
        world.namespace, {"metadata": {"name": "keys"}, "stringData": {"one": "secret"}}
    )
    more = {
        "authentication": {"type": "APIKey", "secretRef": {"name": "keys"}},
        "podTemplate": {"nodeSelector": {"pool": "serving"}, "labels": {"team": "cells"}},
        "scaling": {"replicas": 1, "minReplicas": 1, "maxReplicas": 3},
    }
    settings = SETTINGS | {"gateway_replicas": 2, "redis_address": "redis:6379", "redis_secret": "redis"}
    async with world.operator(**settings):
        exposed = {"hostname": "cells.example.com", "ingressClassName": "nginx", "tlsSecretRef": {"name": "tls"}}
        await world.apply(deployment(FIRST, expose=exposed, **more))
        networking = client.NetworkingV1Api(world.plane.api)
        await world.until(lambda: world.get(RAY_SERVICE, "cells"))
        cluster = world.get(RAY_SERVICE, "cells")["spec"]["rayClusterConfig"]  # type: ignore[index]
        assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            accepted(world, group["template"])
        budgets = client.PolicyV1Api(world.plane.api)
        await world.until(lambda: budgets.list_namespaced_pod_disruption_budget(world.namespace).items)
        (ingress,) = await world.until(lambda: networking.list_namespaced_ingress(world.namespace).items)
        assert ingress.spec.tls[0].secret_name == "tls"
        policy, *_ = await world.until(lambda: networking.list_namespaced_network_policy(world.namespace).items)
        assert policy.spec.policy_types == ["Ingress"]
        await world.until(lambda: templates(world))
        for template in templates(world):
            accepted(world, template)

        await world.apply(deployment(FIRST, runtime="Triton", **more))
        await world.until(lambda: len(templates(world)) == 2)
        for template in templates(world):
            accepted(world, template)
        scalers = client.AutoscalingV2Api(world.plane.api)
        (scaler,) = await world.until(lambda: scalers.list_namespaced_horizontal_pod_autoscaler(world.namespace).items)
        assert (scaler.spec.min_replicas, scaler.spec.max_replicas) == (1, 3)
        await world.until(lambda: not networking.list_namespaced_ingress(world.namespace).items)

        await world.apply(deployment(FIRST, expose={"hostname": "cells.example.com", "gatewayRef": {"name": "public"}}))
        await world.until(lambda: world.reason(MODEL_DEPLOYMENT, "GatewayAPIMissing", "cells"))


def accepted(world: World, template: dict[str, Any]) -> None:
    """The API server, with its Pod Security admission, takes a pod of this template."""
    spec = {**template["spec"], "serviceAccountName": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "pod-"}, "spec": spec}
    world.plane.core.create_namespaced_pod(world.namespace, pod, dry_run="All")


def templates(world: World) -> list[dict[str, Any]]:
    """The pod templates of all Deployments."""
    return [each["spec"]["template"] for each in world.plane.get(world.namespace, "deployments")["items"]]


async def test_all_of_the_north_star_acts(world: World) -> None:
    async with world.operator(**SETTINGS):
        await world.apply(good("modeldeployment"))
        await world.until(lambda: world.reason(MODEL_DEPLOYMENT, "GatewayAPIMissing") or status(world))
        found = await world.until(
            lambda: (world.get(MODEL_DEPLOYMENT, "blood-cells") or {}).get("status", {}).get("conditions")
        )
        words = next(each for each in found if each["type"] == "FullySupported")
        assert (words["status"], words.get("message", "")) == ("True", "")
