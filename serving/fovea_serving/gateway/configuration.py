"""Following the configuration: each change becomes a routing, and what did not change goes on as it is."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fovea_api.bundle import MANIFEST, BundleManifest
from fovea_api.errors import FoveaError, InvalidInput, problems
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_api.modeldeployment import Authentication, CapturePolicy
from fovea_api.profile import ReferenceProfile
from fovea_store import NotFound, StorePath
from pydantic import ValidationError

from fovea_serving.bundle import golden_of, parse_manifest, profile_of, verify_digest
from fovea_serving.gateway.authentication import ApiKeys, Authenticator, Everybody, ServiceAccountTokens
from fovea_serving.gateway.capturing import Capturer
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.kubernetes import ApiServer
from fovea_serving.gateway.load_test import LoadPlan, LoadTester
from fovea_serving.gateway.metrics import MULTIPROCESS
from fovea_serving.gateway.routing import Routing, Served, Version
from fovea_serving.signature import SIGNATURE, unsigned, verify_signed_file
from fovea_serving.upstreams import UpstreamUnavailable, open_upstream

log = logging.getLogger(__name__)

MAX_MANIFEST_BYTES = 16 * 2**20
READY_SECONDS = 10.0
"""How long a version that is new here may take to answer before requests are sent to it all the same."""
READY_INTERVAL_SECONDS = 0.2
RETRY_SECONDS = 2.0
"""Pause before a configuration that could not be applied is tried again: a store that was away comes back."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a configuration refers to.

    Args:
        store_credentials: Folder of the credentials of the store that holds the bundles, see StorePath.
        api_keys: Folder whose files are the API keys: a mounted Secret.
        api: The API server that reviews tokens. None: that of the cluster which the process runs in.
        host: Name of this gateway among those that share a load test: in a pod, the pod's.
    """

    store_credentials: str | None = None
    api_keys: Path | None = None
    api: ApiServer | None = None
    host: str = field(default_factory=socket.gethostname)


class Follower:
    """Applies configurations to a gateway, one after the other.

    Args:
        gateway: What it routes.
        surroundings: What a configuration refers to.
    """

    def __init__(self, gateway: Gateway, surroundings: Surroundings) -> None:
        self._gateway = gateway
        self._surroundings = surroundings
        self._authentication: tuple[Authentication, str, str] | None = None
        self._captures: tuple[CapturePolicy | None, bool, int] = (None, False, 1)
        self._open: dict[_Identity, Served] = {}
        self._load_tester = LoadTester(surroundings.host, gateway.metrics.load_test, gateway.new_admission)

    async def follow(self, configs: AsyncIterator[GatewayConfig]) -> None:
        """Applies each configuration; while one cannot be applied, the one before goes on."""
        applying: asyncio.Task[None] | None = None
        try:
            async for config in configs:
                if applying is not None:
                    applying.cancel()
                    await asyncio.wait([applying])
                applying = asyncio.create_task(self._apply_until_done(config))
        finally:
            if applying is not None:
                applying.cancel()
            await self._load_tester.close()

    async def _apply_until_done(self, config: GatewayConfig) -> None:
        while True:
            try:
                return await self.apply(config)
            except Exception as error:
                words = str(error) if isinstance(error, FoveaError) else f"{type(error).__name__}: {error}"
                log.error("the configuration cannot be applied yet: %s", words)
                if not self._gateway.routing.versions:
                    await self._start_without_candidate(config, words)
            await asyncio.sleep(RETRY_SECONDS)

    async def _start_without_candidate(self, config: GatewayConfig, reason: str) -> None:
        """A gateway that has just started serves the stable version alone, whatever is wrong with a candidate's bundle.
        Without a revision nobody takes that for the configuration."""
        stable = tuple(version for version in config.versions if version.role == "Stable")
        if len(stable) < len(config.versions):
            try:
                return await self.apply(config.model_copy(update={"versions": stable, "revision": ""}))
            except Exception as error:
                log.error("nor can its stable version alone: %s", error)
        self._gateway.route(Routing((), reason))

    async def apply(self, config: GatewayConfig) -> None:
        """Opens new versions, waits until they answer, and switches. Raises FoveaError, and changes nothing then."""
        opened: list[Served] = []
        try:
            versions = [await self._version(served, config, opened) for served in config.versions]
            await asyncio.gather(*(_sees(v) for v in versions if v.model in opened and v.weight))
            authenticator = self._authenticator(config)
        except BaseException:
            for model in opened:
                await model.upstream.close()
            raise
        self._gateway.authenticator = authenticator
        self._gateway.inference = config.inference
        self._gateway.name = config.deployment
        self._gateway.label_studio = config.label_studio
        self._gateway.metrics.describe(config.namespace, config.deployment, config.objectives)
        former, monitor = self._gateway.monitor.capturer, self._gateway.monitor
        monitor.capturer = self._capturer(config)
        reason = config.reason or "the deployment has no ready version"
        self._gateway.route(Routing(versions, reason, config.mirror_percent / 100, config.revision))
        self._gateway.configured = True
        self._open = {
            _identity(served, config): version.model for served, version in zip(config.versions, versions, strict=True)
        }
        log.info("routing: %s", ", ".join(f"{v.name} {v.role} {v.weight:g} %" for v in versions) or config.reason)
        try:
            await self._load_tester.follow(_load_plan(config), lambda: self._opened(config))
        finally:  # also where the next configuration is there already
            if former is not None and former is not monitor.capturer:
                await asyncio.to_thread(former.close)

    async def _opened(self, config: GatewayConfig) -> Served:
        """The version that is to be tested under load, on connections of its own. Raises what opening one raises."""
        assert config.load_test is not None
        return await self._new(config.load_test.version, config)

    async def _version(self, served: ServedVersion, config: GatewayConfig, opened: list[Served]) -> Version:
        model = self._open.get(_identity(served, config))
        if model is None:
            opened.append(model := await self._new(served, config))
        return Version(served.name, served.role, served.weight, model, served.latency_limits_milliseconds)

    async def _new(self, served: ServedVersion, config: GatewayConfig) -> Served:
        manifest, digest, golden, profile = await asyncio.to_thread(self._read, served)
        return Served.of(manifest, digest, open_upstream(served, manifest, config), golden, profile)

    def _read(self, served: ServedVersion) -> tuple[BundleManifest, str, list[float] | None, ReferenceProfile | None]:
        """The manifest, its digest, the stated answer to the golden image and the profile, of a bundle in its store.

        Raises UntrustedBundle where it must be signed and is not.
        """
        folder = StorePath.parse(served.bundle, self._surroundings.store_credentials)
        content = (folder / MANIFEST).read_bytes(MAX_MANIFEST_BYTES)
        if served.public_key is not None:  # the manifest has the digests of all other files
            verify_signed_file(MANIFEST, content, _signature(folder), Path(served.public_key), served.bundle)
        manifest = parse_manifest(content, served.bundle)
        digest = verify_digest(manifest, folder.name, served.bundle)

        def read(name: str) -> bytes:
            return (folder / name).read_bytes(MAX_MANIFEST_BYTES)

        return manifest, digest, golden_of(manifest, served.precision, read), profile_of(manifest, read)

    def _capturer(self, config: GatewayConfig) -> Capturer | None:
        """What keeps requests as the configuration asks for; the one there is, where nothing changed. None where their
        folder is none: requests are answered all the same."""
        required = (config.captures, config.feedback, config.gateways)
        if required == self._captures:
            return self._gateway.monitor.capturer
        self._captures = required
        if config.captures is None:
            return None
        try:
            return Capturer(
                config.captures,
                self._surroundings.store_credentials,
                feedback=config.feedback,
                gateways=config.gateways,
                metrics=self._gateway.metrics.drift,
            )
        except FoveaError as error:
            log.error("no request is kept: %s", error)
            return None

    def _authenticator(self, config: GatewayConfig) -> Authenticator:
        """What the configuration asks for; the one there is, with all that it remembers, where nothing changed."""
        required = (config.authentication, config.namespace, config.deployment)
        if required == self._authentication:
            return self._gateway.authenticator
        match config.authentication.type:
            case "None":
                authenticator: Authenticator = Everybody()
            case "APIKey":
                if self._surroundings.api_keys is None:
                    raise InvalidInput("authentication by APIKey needs the keys", "authentication", "give --api-keys")
                authenticator = ApiKeys(self._surroundings.api_keys)
            case "ServiceAccountToken":
                api = self._surroundings.api or ApiServer.in_cluster()
                authenticator = ServiceAccountTokens(api, config.namespace, config.deployment)
        self._authentication = required
        return authenticator


def _load_plan(config: GatewayConfig) -> LoadPlan | None:
    """The load test that is due."""
    if config.load_test is None or MULTIPROCESS in os.environ:
        return None
    milliseconds = config.objectives.latency_p95_milliseconds if config.objectives is not None else None
    objective = milliseconds / 1000 if milliseconds is not None else None
    return LoadPlan(config.load_test, (config.namespace, config.deployment), config.inference, objective)


async def _sees(version: Version) -> None:
    """Waits until a version answers rightly, for a while: if nothing else is there, it is asked all the same."""
    reason = ""
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    return await version.model.health.check()
                except UpstreamUnavailable as error:
                    reason = str(error)
                    await asyncio.sleep(READY_INTERVAL_SECONDS)
    except TimeoutError:
        log.warning("%s does not answer yet: %s", version.name, reason)


def _signature(bundle: StorePath) -> bytes:
    """Content of a bundle's signature. Raises UntrustedBundle where it has none."""
    try:
        return (bundle / SIGNATURE).read_bytes(MAX_MANIFEST_BYTES)
    except NotFound as error:
        raise unsigned(str(bundle)) from error


_Identity = tuple[ServedVersion, float]


def _identity(served: ServedVersion, config: GatewayConfig) -> _Identity:
    """What an open connection depends on: the version without role, weight and limits, and how long it waits."""
    version = served.model_copy(update={"role": "Stable", "weight": 0, "latency_limits_milliseconds": ()})
    return version, config.inference.timeout_seconds


def parse_config(text: str | bytes, place: str) -> GatewayConfig:
    """The configuration that a text is. Raises InvalidInput, which names the field.

    A field that only a later operator knows is left out with a warning, so that a gateway of an older image goes on
    following versions and weights; but for those that say who may ask, and which bundle is trusted.
    """
    try:
        return GatewayConfig.model_validate_json(text)
    except ValidationError as error:
        unknown = [each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"]
        if len(unknown) == error.error_count() and not any(path[0] in _OBEYED for path in unknown):
            names = ", ".join(".".join(map(str, path)) for path in unknown)
            log.warning("%s: this version of the gateway does not know %s, and leaves it out", place, names)
            return parse_config(json.dumps(_without(json.loads(text), unknown)), place)  # what is left may be wrong too
        raise InvalidInput("; ".join(f"{path}: {words}" for path, words in problems(error)), place) from error


_OBEYED = ("authentication", "versions")
"""Parts in which an unknown field may not be left out: it might restrict something."""


def _without(content: Any, paths: Sequence[tuple[int | str, ...]]) -> Any:
    """JSON without the fields at these paths."""
    for *parents, name in paths:
        holder = content
        for parent in parents:
            holder = holder[parent]
        del holder[name]
    return content


async def parsed(texts: AsyncIterator[str], place: str) -> AsyncIterator[GatewayConfig]:
    """The configurations that texts are; one that is faulty is logged and left out, and the one before goes on."""
    async for text in texts:
        try:
            config = parse_config(text, place)
        except InvalidInput as error:
            log.error("the configuration is left out: %s", error)
        else:
            yield config


async def watch_file(file: Path, interval: float = 1.0) -> AsyncIterator[str]:
    """The text of a file, and again after each change."""
    last = None
    while True:
        try:
            text = file.read_text()
        except OSError as error:
            log.error("the configuration cannot be read: %s", error)
        else:
            if text != last:
                yield text
            last = text
        await asyncio.sleep(interval)
