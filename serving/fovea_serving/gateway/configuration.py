"""Following the configuration: each change becomes a routing, and what did not change goes on as it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from fovea_api.bundle import MANIFEST, BundleManifest
from fovea_api.errors import FoveaError, InvalidInput, problems
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_store import StorePath
from pydantic import ValidationError

from fovea_serving.bundle import parse_manifest, verify_digest
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.upstreams import UpstreamUnavailable, open_upstream

log = logging.getLogger(__name__)

MAX_MANIFEST_BYTES = 16 * 2**20
READY_SECONDS = 10.0
"""How long a version that is new here may take to answer before requests are sent to it all the same."""
RETRY_SECONDS = 2.0
"""Pause before a configuration that could not be applied is tried again: a store that was away comes back."""


class Follower:
    """Applies configurations to a gateway, one after the other.

    Args:
        gateway: What it routes.
        credentials: Folder of the store's credentials, see StorePath.
    """

    def __init__(self, gateway: Gateway, credentials: str | None = None) -> None:
        self._gateway = gateway
        self._credentials = credentials
        self._open: dict[tuple[str, ServedVersion], Version] = {}

    async def follow(self, configs: AsyncIterator[GatewayConfig]) -> None:
        """Applies each configuration; while one cannot be applied, the one before goes on."""
        applying: asyncio.Task[None] | None = None
        async for config in configs:
            if applying is not None:
                applying.cancel()
                await asyncio.wait([applying])
            applying = asyncio.create_task(self._apply_until_done(config))
        if applying is not None:
            await applying

    async def _apply_until_done(self, config: GatewayConfig) -> None:
        while True:
            try:
                return await self.apply(config)
            except FoveaError as error:
                log.error("the configuration cannot be applied yet: %s", error)
                if not self._gateway.routing.versions:
                    self._gateway.route(Routing((), str(error)))
            await asyncio.sleep(RETRY_SECONDS)

    async def apply(self, config: GatewayConfig) -> None:
        """Opens new versions, waits until they answer, and switches. Raises FoveaError, and changes nothing then."""
        versions = [await self._version(served, config) for served in config.versions]
        await asyncio.gather(*(self._answers(version) for version in versions if version.weight))
        self._gateway.inference = config.inference
        self._gateway.route(Routing(versions, config.reason or "the deployment has no ready version"))
        self._open = {
            _identity(served, config): version for served, version in zip(config.versions, versions, strict=True)
        }
        log.info("routing: %s", ", ".join(f"{v.name} {v.role} {v.weight:g} %" for v in versions) or config.reason)

    async def _version(self, served: ServedVersion, config: GatewayConfig) -> Version:
        known = self._open.get(_identity(served, config))
        if known is not None:
            return Version(served.name, served.role, served.weight, known.manifest, known.digest, known.upstream)
        manifest, digest = await asyncio.to_thread(self._read, served.bundle)
        upstream = open_upstream(served, manifest, config)
        return Version(served.name, served.role, served.weight, manifest, digest, upstream)

    async def _answers(self, version: Version) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    try:
                        return await version.upstream.ready()
                    except UpstreamUnavailable as error:
                        reason = str(error)
                        await asyncio.sleep(0.2)
        except TimeoutError:
            log.warning("%s does not answer yet: %s", version.name, reason)

    def _read(self, uri: str) -> tuple[BundleManifest, str]:
        folder = StorePath.parse(uri, self._credentials)
        manifest = parse_manifest((folder / MANIFEST).read_bytes(MAX_MANIFEST_BYTES), uri)
        return manifest, verify_digest(manifest, folder.name, uri)


def _identity(served: ServedVersion, config: GatewayConfig) -> tuple[str, ServedVersion]:
    """What an open connection depends on: all but role and weight."""
    return config.runtime, served.model_copy(update={"role": "Stable", "weight": 0})


def parse_config(text: str | bytes, place: str) -> GatewayConfig:
    """The configuration that a text is. Raises InvalidInput, which names the field."""
    try:
        return GatewayConfig.model_validate_json(text)
    except ValidationError as error:
        raise InvalidInput("; ".join(f"{path}: {words}" for path, words in problems(error)), place) from error


async def watch_file(file: Path, interval: float = 1.0) -> AsyncIterator[GatewayConfig]:
    """The configuration in a file, and again after each change. A faulty change is logged and left out.

    Raises InvalidInput when it is faulty at the start.
    """
    text = file.read_bytes()
    yield parse_config(text, str(file))
    while True:
        await asyncio.sleep(interval)
        changed = file.read_bytes() if file.exists() else text
        if changed != text:
            text = changed
            try:
                yield parse_config(text, str(file))
            except InvalidInput as error:
                log.error("the changed configuration is left out: %s", error)
