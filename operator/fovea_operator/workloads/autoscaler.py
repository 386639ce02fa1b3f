"""Ray's own autoscaler: a container that KubeRay adds to the head, and how it is asked for."""

from __future__ import annotations

from fovea_operator.objects import JsonObject
from fovea_operator.settings import Settings
from fovea_operator.workloads.pod_template import container_security


def autoscaler_options(settings: Settings) -> JsonObject:
    """What the container asks for, and when a worker is given back; its image is that of the head."""
    return {
        "idleTimeoutSeconds": settings.ray_idle_seconds,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {
            "requests": {"cpu": settings.ray_autoscaler_cpu, "memory": settings.ray_autoscaler_memory},
            "limits": {"memory": settings.ray_autoscaler_memory_limit},
        },
        "securityContext": container_security(),
    }
