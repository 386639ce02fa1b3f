"""Which upstream speaks with which runtime. An upstream is a file of this folder that registers itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from fovea_api.bundle import BundleManifest
from fovea_api.gateway import GatewayConfig, ServedVersion

from fovea_serving.upstreams.base import Upstream

Open = Callable[[ServedVersion, BundleManifest, GatewayConfig], Upstream]

_OPENERS: dict[str, Open] = {}


def register(runtime: str) -> Callable[[Open], Open]:
    """Decorator of what opens a version in a runtime (`GatewayConfig.runtime`). A runtime can be taken once."""

    def decorate(opener: Open) -> Open:
        if runtime in _OPENERS:
            raise ValueError(f"an upstream for {runtime} is registered twice")
        _OPENERS[runtime] = opener
        return opener

    return decorate


def open_upstream(version: ServedVersion, manifest: BundleManifest, config: GatewayConfig) -> Upstream:
    """The upstream of a version, inside of a running event loop. It connects when it is asked first.

    Args:
        version: Where it is, and in which precision.
        manifest: That of the version's bundle, verified by the gateway.
        config: The deployment's.
    """
    _load()
    return _OPENERS[config.runtime](version, manifest, config)


@cache
def _load() -> None:
    from fovea_serving import upstreams

    for module in pkgutil.iter_modules(upstreams.__path__):
        importlib.import_module(f"{upstreams.__name__}.{module.name}")
