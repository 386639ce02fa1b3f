"""The KubeRay RayService of a ModelDeployment: each version of the model is an application with a route of its own.

Applications are added and removed in `serveConfigV2`, which Ray Serve takes up without touching the others. The pods
follow the replicas by Ray's own autoscaler, also where the number of replicas is fixed: KubeRay (1.6) hands no later
number of workers on to a running cluster, and a worker that it removed by itself might be one that serves. A change of
what the pods are (image, podTemplate, resources) makes a second cluster; KubeRay moves the Service there when all its
applications run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from fovea_api.common import Resources
from fovea_api.modeldeployment import DeployedVersion, ModelDeploymentSpec
from pydantic import JsonValue

from fovea_operator.objects import RAY_SERVICE, JsonObject, View, mapping, number, text
from fovea_operator.settings import Settings
from fovea_operator.workloads.autoscaler import autoscaler_options
from fovea_operator.workloads.pod_template import Content
from fovea_operator.workloads.serving import (
    HEAD,
    REPLICA,
    Serving,
    VersionState,
    is_ready,
    key_volumes,
    of_component,
    public_key,
    trouble,
)

APPLICATION = "fovea_serving.runtimes.ray_serve:app"
DEPLOYMENT = "Model"
"""The one Serve deployment of an application."""
PORT, METRICS_PORT, DASHBOARD_PORT = 8000, 8080, 8265
NAME_LENGTH = 40
"""Characters of a RayService's name: KubeRay cuts the name of its Service, which has 10 more, at 50."""
_OBJECT_STORE = 150 << 20
"""Bytes of Ray's object store: it holds the images of requests on their way."""
_MOST_WORKERS = 1000
"""Bound of the cluster, never met: a later one would not reach a running cluster."""
_WORDS = 1000
"""Characters at the end of Ray's words that are reported."""


def service_name(serving: Serving) -> str:
    """Name of the Service at which Ray Serve answers."""
    return f"{serving.child(limit=NAME_LENGTH)}-serve-svc"


def address(serving: Serving, version: DeployedVersion) -> str:
    """Where the version answers."""
    return f"http://{service_name(serving)}.{serving.namespace}.svc:{PORT}/{version.name}"


def build_ray_service(serving: Serving, versions: Sequence[DeployedVersion], settings: Settings) -> JsonObject:
    """A Ray cluster of a head, which serves nothing itself, and a worker for each replica."""
    spec = serving.spec
    image = serving.image(settings.serving_image)
    head = Resources(
        requests={"cpu": settings.ray_head_cpu, "memory": settings.ray_head_memory},
        limits={"memory": settings.ray_head_memory_limit},
    )
    cluster: JsonObject = {
        "rayVersion": settings.ray_version,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": autoscaler_options(settings),
        "headGroupSpec": {
            "rayStartParams": {
                "num-cpus": "0",
                "num-gpus": "0",
                "dashboard-host": "0.0.0.0",
                "object-store-memory": str(_OBJECT_STORE),
            },
            "template": _pod(serving, HEAD, image, head, versions, settings),
        },
        "workerGroupSpecs": [
            {
                "groupName": "replica",
                "replicas": _first_replicas(spec),
                "minReplicas": 0,
                "maxReplicas": _MOST_WORKERS,
                "rayStartParams": {
                    "num-cpus": "1",
                    "object-store-memory": str(_OBJECT_STORE),
                    **_gpus(spec, "num-gpus"),
                },
                "template": _pod(serving, REPLICA, image, spec.resources, versions, settings),
            }
        ],
    }
    if settings.redis_address:
        cluster["gcsFaultToleranceOptions"] = _fault_tolerance(settings)
    return {
        "apiVersion": RAY_SERVICE.api_version,
        "kind": RAY_SERVICE.name,
        "metadata": serving.metadata(serving.child(limit=NAME_LENGTH)),
        "spec": {"serveConfigV2": serve_config(spec, versions), "rayClusterConfig": cluster},
    }


def serve_config(spec: ModelDeploymentSpec, versions: Sequence[DeployedVersion]) -> str:
    """The applications in Ray Serve's schema. `args` are part of an application's code version, `user_config` is not:
    a change of thresholds restarts nothing."""
    config: JsonObject = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PORT},
        "applications": [_application(spec, version) for version in versions],
    }
    return json.dumps(config, indent=2)


def _application(spec: ModelDeploymentSpec, version: DeployedVersion) -> JsonObject:
    scaling, inference = spec.scaling, spec.inference
    args: JsonObject = {"bundle": version.bundle}
    if version.precision != "Auto":
        args["precision"] = version.precision
    if (key := public_key(version)) is not None:
        args["publicKey"] = key
    deployment: JsonObject = {
        "name": DEPLOYMENT,
        "user_config": inference.to_dict(),
        # Two batches: one is computed while the next is put together.
        "max_ongoing_requests": max(2 * inference.batching.max_size, int(2 * scaling.target_ongoing_requests)),
        "graceful_shutdown_timeout_s": inference.timeout_seconds,
        "ray_actor_options": {"num_cpus": 1, **_gpus(spec, "num_gpus", 1)},
    }
    if scaling.min_replicas is not None and scaling.max_replicas is not None:
        deployment["autoscaling_config"] = {
            "min_replicas": scaling.min_replicas,
            "initial_replicas": min(max(scaling.replicas, scaling.min_replicas), scaling.max_replicas),
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
        }
    else:
        deployment["num_replicas"] = scaling.replicas
    return {
        "name": version.name,
        "route_prefix": f"/{version.name}",
        "import_path": APPLICATION,
        "args": args,
        "deployments": [deployment],
    }


def _first_replicas(spec: ModelDeploymentSpec) -> int:
    return max(spec.scaling.replicas, spec.scaling.min_replicas or 0)


def uses_gpu(spec: ModelDeploymentSpec) -> bool:
    """Whether replicas are given a GPU, by its resource's name, such as nvidia.com/gpu."""
    return any(name.endswith("/gpu") and str(amount) != "0" for name, amount in spec.resources.limits.items())


def _gpus(spec: ModelDeploymentSpec, name: str, amount: JsonValue = "1") -> JsonObject:
    """A replica uses one GPU; Ray hides it from actors that ask for none."""
    return {name: amount} if uses_gpu(spec) else {}


def _pod(
    serving: Serving,
    component: str,
    image: str,
    resources: Resources,
    versions: Sequence[DeployedVersion],
    settings: Settings,
) -> JsonObject:
    ports = {"serve": PORT, "metrics": METRICS_PORT}
    ports |= {"dashboard": DASHBOARD_PORT, "gcs-server": 6379} if component == HEAD else {}
    keys, key_mounts = key_volumes(versions if component == REPLICA else [])
    content = Content(
        container=component,
        image=image,
        labels={},
        env={"RAY_USAGE_STATS_ENABLED": "0", "RAY_COLOR_PREFIX": "0"},
        resources=resources,
        volumes=keys,
        mounts=key_mounts,
        main={"ports": [{"name": name, "containerPort": port} for name, port in ports.items()]},
        # The head's token is that of Ray's autoscaler, whose ServiceAccount KubeRay makes.
        pod={} if component == HEAD else {"automountServiceAccountToken": False},
    )
    return serving.pod(component, versions, settings, content)


def _fault_tolerance(settings: Settings) -> JsonObject:
    options: JsonObject = {"redisAddress": settings.redis_address}
    if settings.redis_secret:
        reference: JsonObject = {"name": settings.redis_secret, "key": "password"}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
    return options


# --- Reading -----------------------------------------------------------------------------------------------------


def head_is_ready(pods: Sequence[View]) -> bool:
    """Whether a Ray head answers."""
    return any(is_ready(pod) for pod in of_component(pods, HEAD))


def ray_state(value: View | None, pods: Sequence[View], version: DeployedVersion) -> VersionState:
    """Where a version is. KubeRay's status is as old as the last head that answered it, so the head is looked at."""
    if value is None:
        return VersionState()
    replicas = sum(map(is_ready, of_component(pods, REPLICA)))
    active = mapping(value, "status", "activeServiceStatus", "applicationStatuses", version.name or "")
    known = active or mapping(value, "status", "pendingServiceStatus", "applicationStatuses", version.name or "")
    status, words = text(active, "status"), _ray_words(known)
    if status == "RUNNING" and head_is_ready(pods):
        return VersionState(ready=True, answers=True, replicas=replicas)
    moving = _moves(value)
    answers = (bool(status) or moving) and replicas > 0 and head_is_ready(pods)
    if text(known, "status") == "DEPLOY_FAILED":
        reason, message = "BundleRefused", f"Ray Serve gave version {version.name} up: {words}"
        kept = moving and answers  # it is the other cluster that gave it up
        return VersionState(answers=kept, replicas=replicas, reason=reason, message=message, refused=True)
    started = ("Moving", "a new Ray cluster starts beside the one that answers") if moving else None
    known_trouble = _why(pods, version, status)
    reason, message = known_trouble or started or ("Loading", f"version {version.name} is being loaded; {words}")
    return VersionState(answers=answers, replicas=replicas, reason=reason, message=message.rstrip("; "))


def _moves(value: View) -> bool:
    """Whether KubeRay starts another cluster for the same applications, as after a change of the pods. It says nothing
    meanwhile of the applications of the one that answers."""
    active = mapping(value, "status", "activeServiceStatus")
    pending = text(value, "status", "pendingServiceStatus", "rayClusterName")
    endpoints = number(value, "status", "numServeEndpoints")
    return (
        bool(pending and text(active, "rayClusterName"))
        and not mapping(active, "applicationStatuses")
        and endpoints > 0
    )


def _why(pods: Sequence[View], version: DeployedVersion, status: str) -> tuple[str, str] | None:
    """What keeps a version from answering, by the pods. `status`: that of its application when a head last gave it."""
    heads, replicas = list(of_component(pods, HEAD)), list(of_component(pods, REPLICA))
    found = trouble(heads, "the operator's setting ray_head_memory_limit")
    found = found or trouble(replicas, "spec.resources.limits.memory")
    if found is not None:
        return found
    if status and not head_is_ready(pods):
        words = (
            "the Ray head is away; unless Redis keeps its state (the setting redis_address), replicas start anew too"
        )
        return "RayHeadDown", words
    return None if heads else ("Starting", f"the Ray cluster of version {version.name} starts")


def _ray_words(application: View) -> str:
    """What Ray Serve says of an application, or else of its deployments; of a traceback its last line, the error."""
    said = [text(application, "message")]
    for deployment in mapping(application, "serveDeploymentStatuses"):
        said.append(text(application, "serveDeploymentStatuses", deployment, "message"))
    words = max(said, key=len).strip()
    words = words.splitlines()[-1] if "Traceback" in words else words
    return words if len(words) <= _WORDS else f"… {words[-_WORDS:]}"
