"""Deployments of a ModelDeployment: the gateway, and a Triton server for each version of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from fovea_api import names
from fovea_api.common import Resources
from fovea_api.errors import InvalidInput
from fovea_api.modeldeployment import DeployedVersion
from pydantic import JsonValue

from fovea_operator.objects import AUTOSCALER, DEPLOYMENT, SERVICE, JsonObject, View, items, mapping, number, text
from fovea_operator.settings import Settings
from fovea_operator.workloads.pod_template import SECRETS_ROOT, Content, container_security
from fovea_operator.workloads.serving import (
    DRAIN_SECONDS,
    GATEWAY,
    REPLICA,
    Serving,
    VersionState,
    key_volumes,
    of_component,
    public_key,
    trouble,
)

GATEWAY_PORT, GATEWAY_GRPC_PORT, GATEWAY_METRICS_PORT = 8080, 8001, 9090
TRITON_HTTP_PORT, TRITON_GRPC_PORT, TRITON_METRICS_PORT = 8000, 8001, 8002
_RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""Annotation by which `kubectl rollout restart` replaces pods."""
_MODEL = "model"
"""Name of the model in Triton's repository."""
_SHARED_MEMORY = "256Mi"
"""Triton's python backend hands images to the model in shared memory; a container's own is 64 MiB."""
_RESTARTS = 2
"""Restarts of a container until its end counts as final; the kubelet goes on trying."""
_START_SECONDS = 600
"""Time for a pod to fetch a bundle and to load its model."""
_GATEWAY_START_SECONDS = 180
"""Time for a gateway to start: its libraries are many, and load slowly on a busy node."""


def build_gateway(
    serving: Serving, versions: Sequence[DeployedVersion], settings: Settings, restarted: datetime | None = None
) -> JsonObject:
    """The gateway: it stays while runtimes and versions come and go. `restarted`: another time replaces its pods."""
    secret, label_studio = serving.spec.authentication.secret_ref, serving.spec.monitoring.label_studio
    secrets = [secret, label_studio.secret_ref if label_studio is not None else None]
    volumes, mounts = key_volumes(versions, *(each.name for each in secrets if each is not None))
    resources = Resources(
        requests={"cpu": settings.gateway_cpu, "memory": settings.gateway_memory},
        limits={"memory": settings.gateway_memory_limit},
    )
    env = {
        "FOVEA_GATEWAY_CONFIG_MAP": serving.child(GATEWAY),
    }
    if secret is not None:
        env["FOVEA_API_KEYS"] = f"{SECRETS_ROOT}/{secret.name}"
    content = Content(
        container=GATEWAY,
        image=settings.serving_image,
        labels={},
        env=env,
        resources=resources,
        volumes=[*volumes, {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        mounts=[*mounts, {"name": "tmp", "mountPath": "/tmp"}],
        main={
            "command": [
                *("fovea", "gateway", "--port", str(GATEWAY_PORT), "--admin-port", str(GATEWAY_METRICS_PORT)),
                *("--grpc-port", str(GATEWAY_GRPC_PORT), "--drain-delay", str(DRAIN_SECONDS)),
            ],
            "ports": [
                {"name": "http", "containerPort": GATEWAY_PORT},
                {"name": "grpc", "containerPort": GATEWAY_GRPC_PORT},
                {"name": "metrics", "containerPort": GATEWAY_METRICS_PORT},
            ],
            "startupProbe": _probe("/healthz", GATEWAY_METRICS_PORT, 1, _GATEWAY_START_SECONDS),
            "livenessProbe": _probe("/healthz", GATEWAY_METRICS_PORT, 20, 3),
            # Not whether the model answers: a gateway without one still has to say so.
            "readinessProbe": _probe("/startz", GATEWAY_METRICS_PORT, 2, 1),
            "securityContext": {**container_security(), "readOnlyRootFilesystem": True},
        },
        pod={"serviceAccountName": serving.child(GATEWAY), "topologySpreadConstraints": [_spread(serving, GATEWAY)]},
    )
    template = serving.pod(GATEWAY, versions, settings, content)
    if restarted is not None:
        metadata = mapping(template, "metadata")
        annotations = {**mapping(metadata, "annotations"), _RESTARTED: restarted.isoformat()}
        template = {**template, "metadata": {**metadata, "annotations": annotations}}
    labels = serving.component(GATEWAY)
    return _deployment(serving, serving.child(GATEWAY), labels, template, settings.gateway_replicas)


def build_triton(serving: Serving, version: DeployedVersion, settings: Settings) -> JsonObject:
    """A Triton server with one version. Where an autoscaler decides, the number of replicas is left to it."""
    spec = serving.spec
    command = ["fovea", "triton", version.bundle, "--inference", json.dumps(spec.inference.to_dict(), sort_keys=True)]
    command += ["--precision", version.precision] if version.precision != "Auto" else []
    command += ["--public-key", key] if (key := public_key(version)) is not None else []
    ready = _probe(f"/v2/models/{_MODEL}/ready", TRITON_HTTP_PORT, 2, 2)
    labels = _version_labels(serving, version)
    keys, key_mounts = key_volumes([version])
    content = Content(
        container=REPLICA,
        image=serving.image(settings.triton_image),
        labels=labels,
        env={},
        resources=spec.resources,
        volumes=[*keys, {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}}],
        mounts=[*key_mounts, {"name": "shared-memory", "mountPath": "/dev/shm"}],
        main={
            "command": list[JsonValue](command),
            "ports": [
                {"name": "http", "containerPort": TRITON_HTTP_PORT},
                {"name": "grpc", "containerPort": TRITON_GRPC_PORT},
                {"name": "metrics", "containerPort": TRITON_METRICS_PORT},
            ],
            "startupProbe": ready | {"failureThreshold": _START_SECONDS // 2},
            "livenessProbe": _probe("/v2/health/live", TRITON_HTTP_PORT, 20, 3),
            "readinessProbe": ready,
            "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        },
        pod={"automountServiceAccountToken": False, "topologySpreadConstraints": [_spread(serving, REPLICA)]},
    )
    template = serving.pod(REPLICA, [version], settings, content)
    scales = spec.scaling.min_replicas is not None
    replicas = None if scales else spec.scaling.replicas
    return _deployment(serving, _triton_name(serving, version), labels, template, replicas)


def build_triton_service(serving: Serving, version: DeployedVersion) -> JsonObject:
    """Where a version's pods are found. It has no address of its own, so a gRPC client sees, and balances over, all."""
    ports = {"grpc": TRITON_GRPC_PORT, "http": TRITON_HTTP_PORT, "metrics": TRITON_METRICS_PORT}
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.name,
        "metadata": serving.metadata(_triton_name(serving, version)),
        "spec": {
            "clusterIP": "None",
            "selector": dict[str, JsonValue](_version_labels(serving, version)),
            "ports": [{"name": name, "port": port, "targetPort": name} for name, port in ports.items()],
        },
    }


def build_triton_autoscaler(serving: Serving, version: DeployedVersion, settings: Settings) -> JsonObject:
    """Scales a version by its CPU, within the bounds of the spec."""
    name, scaling = _triton_name(serving, version), serving.spec.scaling
    target: JsonObject = {"type": "Utilization", "averageUtilization": settings.cpu_utilization}
    return {
        "apiVersion": AUTOSCALER.api_version,
        "kind": AUTOSCALER.name,
        "metadata": serving.metadata(name),
        "spec": {
            "scaleTargetRef": {"apiVersion": DEPLOYMENT.api_version, "kind": DEPLOYMENT.name, "name": name},
            "minReplicas": max(1, scaling.min_replicas or 0),
            "maxReplicas": scaling.max_replicas or 1,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def triton_address(serving: Serving, version: DeployedVersion) -> str:
    """Where a version answers."""
    return f"{_triton_name(serving, version)}.{serving.namespace}.svc:{TRITON_GRPC_PORT}"


def _triton_name(serving: Serving, version: DeployedVersion) -> str:
    return serving.child(version.name or "")


def _version_labels(serving: Serving, version: DeployedVersion) -> dict[str, str]:
    return {**serving.component(REPLICA), names.LABEL_VERSION: version.name or ""}


def _deployment(
    serving: Serving, name: str, labels: dict[str, str], template: JsonObject, replicas: int | None
) -> JsonObject:
    number: JsonObject = {"replicas": replicas} if replicas is not None else {}
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.name,
        "metadata": serving.metadata(name),
        "spec": {
            **number,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": dict[str, JsonValue](labels)},
            "template": template,
        },
    }


def _probe(path: str, port: int, period: int, failures: int) -> JsonObject:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _spread(serving: Serving, component: str) -> JsonObject:
    """Prefers different nodes."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict[str, JsonValue](serving.component(component))},
    }


# --- Reading -----------------------------------------------------------------------------------------------------


def triton_state(value: View | None, pods: Sequence[View], version: DeployedVersion) -> VersionState:
    """Where a version is, by its Deployment and the pods that have its label."""
    if value is None:
        return VersionState()
    desired = mapping(value, "spec").get("replicas", 1)
    available = number(value, "status", "availableReplicas")
    observed = number(value, "status", "observedGeneration") >= number(value, "metadata", "generation")
    own = [
        pod
        for pod in of_component(pods, REPLICA)
        if text(mapping(pod, "metadata", "labels"), names.LABEL_VERSION) == version.name
    ]
    if observed and isinstance(desired, int) and available >= desired:
        return VersionState(ready=True, answers=True, replicas=available)
    found = trouble(own, "spec.resources.limits.memory")
    if found is None:
        found = next(
            (
                (text(condition, "reason"), text(condition, "message"))
                for condition in items(value, "status", "conditions")
                if text(condition, "type") == "ReplicaFailure" and text(condition, "status") == "True"
            ),
            None,
        )
    if any(map(gives_up, own)) and found is not None:
        return VersionState(replicas=available, reason="BundleRefused", message=found[1], refused=True)
    reason, message = found or ("Loading", f"version {version.name} is being loaded")
    return VersionState(answers=available > 0, replicas=available, reason=reason, message=message)


def gives_up(pod: View) -> bool:
    """Whether a pod's container ends again and again with the exit code of wrong input."""
    for container in items(pod, "status", "containerStatuses"):
        ended = mapping(container, "lastState", "terminated") or mapping(container, "state", "terminated")
        if number(container, "restartCount") >= _RESTARTS and number(ended, "exitCode") == InvalidInput.exit_code:
            return True
    return False
