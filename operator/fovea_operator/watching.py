"""The wiring with kopf: events go to the cache, and the key of the object they concern to the queue. Nothing else.

kopf lists again after a lost watch without telling what was deleted meanwhile, so each relist that it makes, and a
clock, lead to a listing of our own that prunes the cache.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import kopf
from fovea_api.errors import FoveaError
from kubernetes.aio.client import Configuration

from fovea_operator.cache import Cache
from fovea_operator.client import Api, ApiError, Refused
from fovea_operator.metrics import Metrics
from fovea_operator.objects import CHILD_SELECTOR, NAMESPACE, Key, Kind, View, key_of
from fovea_operator.queue import KeyedQueue
from fovea_operator.settings import Settings

logger = logging.getLogger(__name__)


class KindAppeared(FoveaError):
    """A kind that the cluster lacked at our start is there now; only a new start watches it."""


@dataclass(slots=True)
class Watcher:
    """Keeps the cache true and the queue fed."""

    api: Api
    cache: Cache
    queue: KeyedQueue[Key]
    settings: Settings
    metrics: Metrics
    _relisted: set[Kind] = field(default_factory=set)
    """Kinds that the watch has listed and that we list soon."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Those that wait to list a kind, or list it."""
    _listing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One listing at a time: an older one, taken in after a newer one, would bring back what that one has pruned."""
    _resynced: float = math.inf
    """When we last tried to list everything, in seconds of the loop's clock."""

    async def fill(self) -> None:
        """Lists everything, then asks for a reconcile of every owner. Raises ApiError; may be called again."""
        self.cache.lacking.clear()
        for kind in self.cache.registry.watched:
            await self._resync(kind)
        self._resynced = asyncio.get_running_loop().time()
        self.cache.changed = self.changed
        existing = (key for kind in self.cache.registry.primary for key in self.cache.keys(kind))
        self._enqueue({*existing, *self.cache.owners()})

    async def resync_forever(self) -> None:
        """Lists everything again from time to time."""
        pause = self.settings.relist_delay_seconds  # once soon: a deletion while the watch starts is never reported
        while True:
            await asyncio.sleep(pause)
            pause = self.settings.resync_seconds * (1 + self.settings.backoff_jitter * random.random())
            for kind in self.cache.registry.watched:
                await self._try_resync(kind)
            self._resynced = asyncio.get_running_loop().time()

    def since_resync(self) -> float:
        """Seconds since the last attempt to list everything ended; that of a cluster that never was is negative."""
        return asyncio.get_running_loop().time() - self._resynced

    async def watch(self, configuration: Configuration, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Runs kopf until `stop` is set."""

        async def login(**_: Any) -> kopf.AiohttpSession:
            return _session(configuration, self.listed)

        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(login)
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.scanning.disabled = True  # it would need the right to list all CRDs of the cluster
        settings.networking.request_timeout = self.settings.request_timeout_seconds
        settings.watching.server_timeout = self.settings.watch_seconds
        settings.watching.client_timeout = self.settings.watch_seconds + self.settings.request_timeout_seconds
        for kind in self.cache.registry.watched:
            self._register(registry, kind)
            if kind in self.cache.registry.children:
                settings.watching.label_selectors[kind.group, kind.version, kind.plural] = CHILD_SELECTOR
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=not self.settings.namespace_list,
            namespaces=self.settings.namespace_list,
            stop_flag=stop,
            ready_flag=ready,
        )

    def _register(self, registry: kopf.OperatorRegistry, kind: Kind) -> None:
        async def handle(event: kopf.RawEvent, **_: Any) -> None:
            self.take(kind, event["type"], dict(event["object"]))

        kopf.on.event(kind.group, kind.version, kind.plural, id=f"watch-{kind.plural}", registry=registry)(handle)

    def take(self, kind: Kind, type: str | None, value: dict[str, Any]) -> None:
        """One watch event; `type` is None for an object of a listing."""
        self.metrics.watch_events.labels(kind.name, type or "LISTED").inc()
        if type == "DELETED":
            self.cache.remove(kind, value)
        else:
            self.cache.put(kind, value)
        self.metrics.cached.labels(kind.name).set(self.cache.count(kind))

    def listed(self, path: str) -> None:
        """The watch has listed what is at this path of the API server, and does not report what is no longer there."""
        scopes = ("", *self.settings.namespace_list)
        kind = next(
            (kind for kind in self.cache.registry.watched if path.endswith(tuple(map(kind.path, scopes)))), None
        )
        if kind is not None and kind not in self._relisted:
            self._relisted.add(kind)
            task = asyncio.create_task(self._resync_soon(kind))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _resync_soon(self, kind: Kind) -> None:
        await asyncio.sleep(self.settings.relist_delay_seconds)
        self._relisted.discard(kind)  # what the watch lists from now on is listed by us once more
        await self._try_resync(kind)

    async def _try_resync(self, kind: Kind) -> None:
        try:
            await self._resync(kind)
        except ApiError as error:
            logger.warning("%s; trying again at the next full listing", error)

    async def _resync(self, kind: Kind) -> None:
        async with self._listing:
            await self._list(kind)

    async def _list(self, kind: Kind) -> None:
        selector = CHILD_SELECTOR if kind in self.cache.registry.children else ""
        scopes = self.settings.namespace_list if kind.namespaced else ()
        for scope in scopes or ("",):
            try:
                listed, version = await self.api.list(kind, scope, selector)
            except Refused as error:
                group = f"API group {kind.group}" if kind.group else "the core API group"
                grant = f"grant the operator's ServiceAccount get, list and watch on {kind.plural} of {group}"
                raise Refused(f"{kind.plural} cannot be listed: {error}; {grant}", error.reason) from error
            if not version:
                self.cache.lacking.add(kind)
            elif kind in self.cache.lacking:
                raise KindAppeared(f"the cluster has {kind}s now; starting anew to watch them")
            within = (lambda key, scope=scope: key.namespace == scope) if scope else (lambda _: True)
            await self.cache.replace(kind, listed, version, within)
        self.metrics.cached.labels(kind.name).set(self.cache.count(kind))

    def changed(self, kind: Kind, values: Sequence[View], referred: Collection[Key]) -> None:
        """Asks for a reconcile of everything that the objects concern; the cache calls it.

        `referred` is what they refer to, or did before: what waits for its users to go must learn that they did.
        """
        self._enqueue({*self._concerned(kind, values), *referred})

    def _concerned(self, kind: Kind, values: Sequence[View]) -> set[Key]:
        """The owners whose reconcile may come out differently now."""
        registry = self.cache.registry
        if kind == NAMESPACE:
            namespaces = {key_of(kind, value).name for value in values}
            return {key for owner in registry.primary for name in namespaces for key in self.cache.keys(owner, name)}
        if kind not in registry.primary:
            return {owner for owner in map(registry.owner_of, values) if owner is not None}
        keys = {key_of(kind, value) for value in values}
        return {*keys, *(other for key in keys for other in self.cache.referrers(key))}

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key)


def _session(configuration: Configuration, listed: Callable[[str], None]) -> kopf.AiohttpSession:
    """A session for kopf with our own credentials. A ServiceAccount's token is read anew at each call.

    `listed` is called with the path of each listing, also of an empty one, about which kopf says nothing.
    """
    if configuration.refresh_api_key_hook is not None:
        configuration.refresh_api_key_hook(configuration)
    scheme, _, token = str(configuration.api_key.get("BearerToken", "")).partition(" ")
    connection = kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        ca_data=configuration.ca_cert_data,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() if token else None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )

    async def ended(_: object, __: object, request: aiohttp.TraceRequestEndParams) -> None:
        if request.method == "GET" and request.response.status == 200 and "watch" not in request.url.query:
            listed(request.url.path)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(ended)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=connection.as_ssl_context()),
        headers=connection.as_http_headers(),
        trace_configs=[trace],
    )
    return kopf.AiohttpSession(server=connection.server, aiohttp_session=session)
