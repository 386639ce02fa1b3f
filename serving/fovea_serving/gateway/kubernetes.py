"""The few things that a gateway asks of the API server, with its ServiceAccount's token."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import aiohttp
from fovea_api.errors import FoveaError, InvalidInput, Retryable

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WATCH_SECONDS = 60
"""After this time a watch is begun anew. A connection that died without a word is noticed a little later."""
REQUEST_SECONDS = 10.0
MAX_PAUSE_SECONDS = 10.0
"""Longest pause between two attempts while the API server is away."""

JsonObject = dict[str, Any]


class ApiUnavailable(Retryable):
    """The API server cannot be reached, or cannot answer now."""


class ApiRefused(FoveaError):
    """The API server refuses: rights are missing, or the request is wrong."""


class ApiServer:
    """Connections to the API server. The token is read anew for each request, because the kubelet renews it.

    Args:
        url: Such as https://10.0.0.1:443.
        account: Folder with `token`, `ca.crt` and `namespace`, as Kubernetes mounts it.
    """

    def __init__(self, url: str, account: Path = SERVICE_ACCOUNT) -> None:
        self._url = url.rstrip("/")
        self._account = account
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def in_cluster(cls, account: Path = SERVICE_ACCOUNT) -> Self:
        """That of the cluster which the process runs in. Raises InvalidInput outside of one."""
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        if not host or not (account / "token").exists():
            remedy = "run in a pod with a ServiceAccount's token, or give --config FILE"
            raise InvalidInput("this process is not in a cluster", None, remedy)
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port or 443}", account)

    async def post(self, path: str, content: JsonObject) -> JsonObject:
        """The created object. Raises ApiUnavailable, ApiRefused."""
        async with asyncio.timeout(REQUEST_SECONDS):
            return await self._json("POST", path, data=json.dumps(content))

    async def get(self, path: str, parameters: Mapping[str, str]) -> JsonObject:
        """An object or a list. Raises ApiUnavailable, ApiRefused."""
        async with asyncio.timeout(REQUEST_SECONDS):
            return await self._json("GET", path, params=parameters)

    async def watch(self, path: str, parameters: Mapping[str, str]) -> AsyncIterator[JsonObject]:
        """Events until the API server ends the watch. Raises ApiUnavailable, ApiRefused."""
        query = {**parameters, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        limit = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=WATCH_SECONDS + 15)
        try:
            async with self._client().get(
                f"{self._url}{path}", params=query, headers=self._headers(), timeout=limit
            ) as answer:
                await _check(answer)
                async for line in answer.content:
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(f"the watch broke: {type(error).__name__}: {error}", self._url) from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def _json(self, method: str, path: str, **arguments: Any) -> JsonObject:
        try:
            async with self._client().request(
                method, f"{self._url}{path}", headers=self._headers(), **arguments
            ) as answer:
                await _check(answer)
                content: JsonObject = await answer.json()
                return content
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(f"{type(error).__name__}: {error}", self._url) from error

    def _headers(self) -> dict[str, str]:
        token = (self._account / "token").read_text().strip()
        return {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json"}

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            trust = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust), timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)
            )
        return self._session


async def watch_config_map(api: ApiServer, namespace: str, name: str, key: str) -> AsyncIterator[str]:
    """The text under a key of a ConfigMap, and again after each change. Never ends: while the API server is away, or
    the object missing, nothing comes.
    """
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    selected = {"fieldSelector": f"metadata.name={name}"}
    last: str | None = None
    failures = 0
    while True:
        try:
            listed = await api.get(path, selected)
            failures = 0
            version = listed["metadata"]["resourceVersion"]
            events: list[JsonObject] = [{"type": "ADDED", "object": item} for item in listed["items"]]
            if not events:
                log.warning("ConfigMap %s/%s does not exist", namespace, name)
            for event in events:
                if (text := event["object"].get("data", {}).get(key)) is not None and text != last:
                    last = text
                    yield text
            while True:
                async for event in api.watch(path, {**selected, "resourceVersion": version}):
                    if event["type"] == "ERROR":
                        raise ApiUnavailable(str(event["object"].get("message")), path)
                    version = event["object"]["metadata"]["resourceVersion"]
                    text = event["object"].get("data", {}).get(key)
                    if event["type"] in ("ADDED", "MODIFIED") and text is not None and text != last:
                        last = text
                        yield text
        except (ApiUnavailable, ApiRefused, TimeoutError, KeyError) as error:
            failures += 1
            pause = min(MAX_PAUSE_SECONDS, 0.5 * 2**failures) * random.uniform(0.5, 1)
            log.warning("ConfigMap %s/%s cannot be watched; next attempt in %.1f s: %s", namespace, name, pause, error)
            await asyncio.sleep(pause)


async def _check(answer: aiohttp.ClientResponse) -> None:
    """Raises what a refusal means."""
    if answer.status < HTTPStatus.BAD_REQUEST:
        return
    text = (await answer.text())[:500]
    words = f"{answer.status} {text}"
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status in (
        HTTPStatus.UNAUTHORIZED,  # an expired token is renewed in its file
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.GONE,
    ):
        raise ApiUnavailable(words, answer.url.path)
    raise ApiRefused(words, answer.url.path, "give the gateway's ServiceAccount this right")
