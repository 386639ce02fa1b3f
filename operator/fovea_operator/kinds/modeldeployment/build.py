"""The children of a ModelDeployment: gateway, runtime, and what is around them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from fovea_api import names
from fovea_api.gateway import CONFIG_KEY, GatewayConfig, LabelStudioHost, ServedVersion, VersionLoad
from fovea_api.modeldeployment import TOKEN, DeployedVersion, LabelStudio
from pydantic import JsonValue

from fovea_operator.kinds.modeldeployment.canary import Versions
from fovea_operator.kinds.modeldeployment.counting import latency_limits
from fovea_operator.kinds.modeldeployment.load_test import identity
from fovea_operator.objects import (
    AUTOSCALER,
    CONFIG_MAP,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    HTTP_ROUTE,
    INGRESS,
    NETWORK_POLICY,
    RAY_SERVICE,
    ROLE,
    ROLE_BINDING,
    SERVICE,
    SERVICE_ACCOUNT,
    JsonObject,
    Kind,
)
from fovea_operator.settings import Settings
from fovea_operator.workloads.deployment import (
    GATEWAY_GRPC_PORT,
    GATEWAY_PORT,
    TRITON_GRPC_PORT,
    TRITON_METRICS_PORT,
    build_gateway,
    build_triton,
    build_triton_autoscaler,
    build_triton_service,
    triton_address,
)
from fovea_operator.workloads.pod_template import SECRETS_ROOT
from fovea_operator.workloads.rayservice import (
    DASHBOARD_PORT,
    METRICS_PORT,
    PORT,
    address,
    build_ray_service,
)
from fovea_operator.workloads.serving import GATEWAY, HEAD, REPLICA, Serving, public_key

CHILDREN = (
    SERVICE_ACCOUNT, ROLE, ROLE_BINDING, CONFIG_MAP, SERVICE, DEPLOYMENT, DISRUPTION_BUDGET, NETWORK_POLICY,
    RAY_SERVICE, AUTOSCALER, INGRESS, HTTP_ROUTE,
)  # fmt: skip
"""Kinds of the children."""
Role = Literal["Stable", "Candidate", "Shadow"]
_KUBERAY = {"app.kubernetes.io/name": "kuberay-operator"}
"""Labels of KubeRay's pods, which ask Ray's dashboard and the proxies of Ray Serve."""


def url(serving: Serving, settings: Settings) -> str:
    """Where requests go: the public address where there is one, else that in the cluster."""
    expose = serving.spec.expose
    if expose is None:
        return f"http://{serving.child()}.{serving.namespace}.svc.cluster.local"
    if expose.gateway_ref is not None:
        return f"{settings.route_scheme}://{expose.hostname}"
    return f"{'https' if expose.tls_secret_ref is not None else 'http'}://{expose.hostname}"


def gateway_config(serving: Serving, versions: Versions, reason: str, gateways: int = 1) -> GatewayConfig:
    """What the gateway goes by.

    Args:
        serving: The deployment.
        versions: Those that status records, and with which weights.
        reason: Why no version answers, where none does.
        gateways: How many share the limits of the captures.
    """
    spec = serving.spec
    served = tuple(_all_served(serving, versions))
    percent = spec.rollout.mirror.percent if spec.rollout.mirror is not None and len(served) > 1 else 0.0
    return GatewayConfig(
        namespace=serving.namespace,
        deployment=serving.name,
        versions=served,
        mirror_percent=percent,
        revision=_digest([percent, *(each.to_dict() for each in served)]),
        reason="" if served else reason[:1024],
        inference=spec.inference,
        authentication=spec.authentication,
        objectives=spec.objectives,
        captures=spec.monitoring.captures,
        feedback=spec.monitoring.feedback is not None and spec.monitoring.feedback.enabled,
        label_studio=_label_studio(spec.monitoring.label_studio),
        load_test=_load_test(serving, versions),
        gateways=gateways,
    )


def _load_test(serving: Serving, versions: Versions) -> VersionLoad | None:
    """The load that a candidate is to get now."""
    candidate = versions.under_load
    test = candidate.load_test if candidate is not None else None
    if candidate is None or test is None or not test.gateways:
        return None
    return VersionLoad(
        id=identity(test),
        version=_served(serving, versions, candidate, "Candidate", 0),
        gateways=test.gateways,
        rate_per_second=test.rate_per_second,
        seconds=test.seconds,
    )


def _label_studio(given: LabelStudio | None) -> LabelStudioHost | None:
    """Where the gateway may fetch images, with the file of the mounted token."""
    if given is None:
        return None
    token = f"{SECRETS_ROOT}/{given.secret_ref.name}/{TOKEN}" if given.secret_ref is not None else None
    return LabelStudioHost(url=given.url, token=token)


def _all_served(serving: Serving, versions: Versions) -> Iterator[ServedVersion]:
    for version, weight in versions.shares:
        role: Role = "Stable" if version is versions.stable else "Candidate"
        yield _served(serving, versions, version, role, weight)
    if versions.shares and versions.shadow is not None:
        yield _served(serving, versions, versions.shadow, "Shadow", 0)


def _served(serving: Serving, versions: Versions, version: DeployedVersion, role: Role, weight: int) -> ServedVersion:
    tested = versions.candidate if len(versions.shares) > 1 or versions.shadow is not None else None
    limits = latency_limits(serving.spec.rollout, tested, stable=role == "Stable") if tested is not None else ()
    where = address(serving, version) if version.runtime == "RayServe" else triton_address(serving, version)
    return ServedVersion(
        name=version.name or "",
        role=role,
        weight=weight,
        latency_limits_milliseconds=tuple(sorted({limit for limit in limits if limit is not None})),
        runtime=version.runtime,
        bundle=version.bundle,
        precision=None if version.precision == "Auto" else version.precision,
        public_key=public_key(version),
        address=where,
    )


def _digest(value: JsonValue) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def gateway_children(
    serving: Serving,
    versions: Sequence[DeployedVersion],
    config: GatewayConfig,
    settings: Settings,
    restarted: datetime | None = None,
) -> tuple[JsonObject, ...]:
    """The gateway, its account and configuration, and its Service."""
    budget = [_disruption_budget(serving)] if settings.gateway_replicas > 1 else []
    return (
        {**_object(SERVICE_ACCOUNT, serving, serving.child(GATEWAY))},
        _role(serving),
        _role_binding(serving),
        _config_map(serving, config),
        build_gateway(serving, versions, settings, restarted),
        _service(serving),
        *budget,
    )


def runtime_children(
    serving: Serving, versions: Sequence[DeployedVersion], settings: Settings
) -> tuple[JsonObject, ...]:
    """What runs the versions; of Ray one object has all. First who may reach it, then the pods."""
    if not versions:
        return ()
    on_ray = [version for version in versions if version.runtime == "RayServe"]
    children = [_network_policy(serving), *([build_ray_service(serving, on_ray, settings)] if on_ray else [])]
    for version in versions:
        if version.runtime == "Triton":
            children += [build_triton_service(serving, version), build_triton(serving, version, settings)]
            if serving.spec.scaling.min_replicas is not None:
                children.append(build_triton_autoscaler(serving, version, settings))
    return tuple(children)


def route(serving: Serving) -> JsonObject | None:
    """What leads from outside to the gateway; None where it is for the cluster only."""
    expose = serving.spec.expose
    if expose is None:
        return None
    if expose.gateway_ref is None:
        return _ingress(serving)
    parent: JsonObject = {"name": expose.gateway_ref.name}
    if expose.gateway_ref.section_name is not None:
        parent["sectionName"] = expose.gateway_ref.section_name
    return _object(
        HTTP_ROUTE,
        serving,
        serving.child(),
        spec={
            "parentRefs": [parent],
            "hostnames": [expose.hostname],
            "rules": [{"backendRefs": [{"name": serving.child(), "port": 80}]}],
        },
    )


def _ingress(serving: Serving) -> JsonObject:
    expose = serving.spec.expose
    assert expose is not None
    backend: JsonObject = {"service": {"name": serving.child(), "port": {"name": "http"}}}
    path: JsonObject = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec: JsonObject = {
        "ingressClassName": expose.ingress_class_name,
        "rules": [{"host": expose.hostname, "http": {"paths": [path]}}],
    }
    if expose.tls_secret_ref is not None:
        spec["tls"] = [{"hosts": [expose.hostname], "secretName": expose.tls_secret_ref.name}]
    return _object(INGRESS, serving, serving.child(), spec=spec)


def _role(serving: Serving) -> JsonObject:
    """Its own configuration, and to ask whether a caller may get the ModelDeployment; nothing else."""
    return _object(
        ROLE,
        serving,
        serving.child(GATEWAY),
        rules=[
            {
                "apiGroups": [""],
                "resources": [CONFIG_MAP.plural],
                "resourceNames": [serving.child(GATEWAY)],
                "verbs": ["get", "list", "watch"],
            },
            {
                "apiGroups": ["authorization.k8s.io"],
                "resources": ["localsubjectaccessreviews"],
                "verbs": ["create"],
            },
        ],
    )


def _role_binding(serving: Serving) -> JsonObject:
    name = serving.child(GATEWAY)
    return _object(
        ROLE_BINDING,
        serving,
        name,
        roleRef={"apiGroup": ROLE.group, "kind": ROLE.name, "name": name},
        subjects=[{"kind": SERVICE_ACCOUNT.name, "name": name, "namespace": serving.namespace}],
    )


def _config_map(serving: Serving, config: GatewayConfig) -> JsonObject:
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True)
    return _object(CONFIG_MAP, serving, serving.child(GATEWAY), data={CONFIG_KEY: text})


def _service(serving: Serving) -> JsonObject:
    return _object(
        SERVICE,
        serving,
        serving.child(),
        spec={
            "selector": _labels(serving, GATEWAY),
            "ports": [
                {"name": "http", "port": 80, "targetPort": GATEWAY_PORT, "appProtocol": "http"},
                {
                    "name": "grpc",
                    "port": GATEWAY_GRPC_PORT,
                    "targetPort": GATEWAY_GRPC_PORT,
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        },
    )


def _disruption_budget(serving: Serving) -> JsonObject:
    selector: JsonObject = {"matchLabels": _labels(serving, GATEWAY)}
    return _object(DISRUPTION_BUDGET, serving, serving.child(GATEWAY), spec={"maxUnavailable": 1, "selector": selector})


def _network_policy(serving: Serving) -> JsonObject:
    """The runtime's pods answer the gateway, each other, KubeRay and who reads metrics; nobody else."""
    runtime: JsonObject = {
        "matchLabels": dict[str, JsonValue](serving.labels),
        "matchExpressions": [{"key": names.LABEL_COMPONENT, "operator": "In", "values": [HEAD, REPLICA]}],
    }
    kuberay: JsonObject = {"namespaceSelector": {}, "podSelector": {"matchLabels": dict[str, JsonValue](_KUBERAY)}}
    gateway: JsonObject = {"podSelector": {"matchLabels": _labels(serving, GATEWAY)}}
    return _object(
        NETWORK_POLICY,
        serving,
        serving.child("runtime"),
        spec={
            "podSelector": runtime,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": runtime}]},
                {"from": [gateway], "ports": _ports(PORT, TRITON_GRPC_PORT)},
                {"from": [kuberay], "ports": _ports(PORT, DASHBOARD_PORT)},
                {"ports": _ports(METRICS_PORT, TRITON_METRICS_PORT)},
            ],
        },
    )


def _ports(*ports: int) -> list[JsonValue]:
    return [{"port": port, "protocol": "TCP"} for port in ports]


def _labels(serving: Serving, component: str) -> JsonObject:
    return dict[str, JsonValue](serving.component(component))


def _object(kind: Kind, serving: Serving, name: str, **content: JsonValue) -> JsonObject:
    head: JsonObject = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": serving.metadata(name)}
    return head | content
