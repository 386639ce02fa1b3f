"""What the console commands `fovea serve` and `fovea gateway` start."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import uvloop
from fovea_api.gateway import CONFIG_KEY
from fovea_api.modeldeployment import Inference

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.bundle import load_bundle
from fovea_serving.gateway.configuration import Follower, Surroundings, parse_config, parsed, watch_file
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.kubernetes import ApiServer, watch_config_map
from fovea_serving.gateway.processes import run_processes
from fovea_serving.gateway.routing import Routing, Served, Version
from fovea_serving.gateway.server import serve
from fovea_serving.gateway.settings import Settings
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.local import LocalUpstream


def serve_bundle(bundle: Path, inference: Inference, settings: Settings, *, threads: int = 0) -> None:
    """Serves a bundle until a signal comes. Raises InvalidBundle, CorruptBundle, InvalidModel.

    Args:
        bundle: Its local directory.
        inference: How requests are answered.
        settings: Addresses, limits, processes.
        threads: Of the network in each process; 0: the CPUs that they may use, shared out.
    """
    threads = threads or max(1, usable_cpus() // settings.processes)
    run_processes(partial(_serve_bundle, bundle, inference, settings, threads), settings.processes)


def serve_file(file: Path, settings: Settings, surroundings: Surroundings) -> None:
    """Serves the versions of a configuration in a file, and follows its changes. Raises InvalidInput at the start."""
    parse_config(file.read_text(), str(file))
    run_processes(partial(_serve_file, file, settings, surroundings), settings.processes)


def serve_config_map(namespace: str, name: str, settings: Settings, surroundings: Surroundings) -> None:
    """Serves the versions of a configuration in a ConfigMap, and follows its changes. Raises InvalidInput outside of
    a cluster.
    """
    ApiServer.in_cluster()
    run_processes(partial(_serve_config_map, namespace, name, settings, surroundings), settings.processes)


def _serve_bundle(bundle: Path, inference: Inference, settings: Settings, threads: int) -> None:
    verified = load_bundle(bundle)
    predictor = Predictor.from_bundle(verified, threads=threads)
    run = verified.manifest.lineage.run

    async def start(gateway: Gateway) -> None:
        upstream = LocalUpstream(predictor, inference.batching, threads)
        model = Served.of(verified.manifest, verified.digest, upstream, verified.golden(), verified.profile())
        gateway.route(Routing([Version(run, "Stable", 100, model)]))

    uvloop.run(serve(lambda: Gateway(inference, settings), start, settings))


def _serve_file(file: Path, settings: Settings, surroundings: Surroundings) -> None:
    _follow(watch_file(file), str(file), settings, surroundings)


def _serve_config_map(namespace: str, name: str, settings: Settings, surroundings: Surroundings) -> None:
    texts = watch_config_map(surroundings.api or ApiServer.in_cluster(), namespace, name, CONFIG_KEY)
    _follow(texts, f"ConfigMap {namespace}/{name}", settings, surroundings)


def _follow(texts: AsyncIterator[str], place: str, settings: Settings, surroundings: Surroundings) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def start(gateway: Gateway) -> None:
        await Follower(gateway, surroundings).follow(parsed(texts, place))

    uvloop.run(serve(lambda: Gateway(None, settings), start, settings))
