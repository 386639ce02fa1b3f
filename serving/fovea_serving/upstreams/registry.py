"""Which upstream speaks with which runtime. An upstream is a file of this folder that registers itself."""

from __future__ import annotations

from collections.abc import Callable

from fovea_api.bundle import BundleManifest
from fovea_api.gateway import GatewayConfig, ServedVersion

from fovea_serving.registry import Registry
from fovea_serving.upstreams.base import Upstream

_OPENERS: Registry[Callable[[ServedVersion, BundleManifest, GatewayConfig], Upstream]] = Registry(
    "fovea_serving.upstreams", "an upstream"
)
register = _OPENERS.register
"""Decorator of what opens a version in a runtime (`ServedVersion.runtime`). A runtime can be taken once."""


def open_upstream(version: ServedVersion, manifest: BundleManifest, config: GatewayConfig) -> Upstream:
    """The upstream of a version, inside of a running event loop. It connects when it is asked first.

    Args:
        version: Where it is, and in which precision.
        manifest: That of the version's bundle, verified by the gateway.
        config: The deployment's.
    """
    return _OPENERS.entries()[version.runtime](version, manifest, config)
