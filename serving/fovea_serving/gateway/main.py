"""What the console commands `fovea serve` and `fovea gateway` start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from fovea_api.gateway import CONFIG_KEY
from fovea_api.modeldeployment import Inference

from fovea_serving.bundle import load_bundle
from fovea_serving.gateway.configuration import Follower, Surroundings, parse_config, parsed, watch_file
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.kubernetes import ApiServer, watch_config_map
from fovea_serving.gateway.routing import Routing, Served, Version
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
        model = Served.of(verified.manifest, verified.digest, upstream, verified.golden())
        gateway.route(Routing([Version(run, "Stable", 100, model)]))

    uvloop.run(serve(lambda: Gateway(inference, settings), start, settings))


def serve_file(file: Path, settings: Settings, surroundings: Surroundings) -> None:
    """Serves the versions of a configuration in a file, and follows its changes. Raises InvalidInput at the start."""
    parse_config(file.read_text(), str(file))
    _follow(watch_file(file), str(file), settings, surroundings)


def serve_config_map(namespace: str, name: str, settings: Settings, surroundings: Surroundings) -> None:
    """Serves the versions of a configuration in a ConfigMap, and follows its changes."""
    api = surroundings.api or ApiServer.in_cluster()
    texts = watch_config_map(api, namespace, name, CONFIG_KEY)
    _follow(texts, f"ConfigMap {namespace}/{name}", settings, surroundings)


def _follow(texts: AsyncIterator[str], place: str, settings: Settings, surroundings: Surroundings) -> None:
    async def start(gateway: Gateway) -> None:
        await Follower(gateway, surroundings).follow(parsed(texts, place))

    uvloop.run(serve(lambda: Gateway(None, settings), start, settings))
