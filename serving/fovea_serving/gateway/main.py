"""What the console commands `fovea serve` and `fovea gateway` start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from fovea_api.gateway import GatewayConfig
from fovea_api.modeldeployment import Inference

from fovea_serving.bundle import load_bundle
from fovea_serving.gateway.configuration import Follower
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.gateway.server import serve
from fovea_serving.gateway.settings import Settings
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.local import LocalUpstream


def serve_bundle(bundle: Path, inference: Inference, settings: Settings, *, threads: int = 0) -> None:
    """Serves a bundle in this process until a signal comes. Raises InvalidBundle, CorruptBundle, InvalidModel."""
    verified = load_bundle(bundle)
    predictor = Predictor.from_bundle(verified, threads=threads)
    run = verified.manifest.lineage.run

    async def start(gateway: Gateway) -> None:
        upstream = LocalUpstream(predictor, inference.batching)
        gateway.route(Routing([Version(run, "Stable", 100, verified.manifest, verified.digest, upstream)]))

    uvloop.run(serve(Gateway(inference), start, settings))


def serve_config(configs: AsyncIterator[GatewayConfig], settings: Settings, *, credentials: str | None = None) -> None:
    """Serves the versions of a configuration, and follows its changes, until a signal comes."""

    async def start(gateway: Gateway) -> None:
        await Follower(gateway, credentials).follow(configs)

    uvloop.run(serve(Gateway(), start, settings))
