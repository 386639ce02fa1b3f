"""Kinds that others define, and what to install where a cluster lacks them."""

from __future__ import annotations

from fovea_api.errors import FoveaError

from fovea_operator.objects import Kind


class KindMissing(FoveaError):
    """The cluster lacks a kind that others define."""


class KubeRayMissing(KindMissing):
    """The cluster has no RayJobs or RayServices."""


class GatewayAPIMissing(KindMissing):
    """The cluster has no HTTPRoutes."""


def missing(kind: Kind) -> KindMissing | None:
    """What to do where the cluster lacks a kind; None for a kind of Kubernetes' own."""
    match kind.group:
        case "ray.io":
            return KubeRayMissing(f"the cluster knows no {kind}s", None, "install the KubeRay operator 1.6 or newer")
        case "gateway.networking.k8s.io":
            remedy = "install the Gateway API's CRDs and a controller, or give spec.expose an ingressClassName"
            return GatewayAPIMissing(f"the cluster knows no {kind}s", None, remedy)
    return None
