"""The one door to the API server: JSON in, JSON out, errors as a small tree, every request counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fovea_api import names
from fovea_api.errors import FoveaError
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from fovea_operator.metrics import Metrics
from fovea_operator.objects import JsonObject, Key, Kind, View, text

_APPLY = "application/apply-patch+yaml"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_WEBHOOK = re.compile(r'admission webhook ".+" denied the request|failed calling webhook ".+"')
"""The API server's words about a webhook, which come with any code."""
_PAGE = 500
"""Objects in one answer of a listing; the API server's own recommendation."""


class ApiError(FoveaError):
    """The API server refused a request or could not be asked."""

    code = 0

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self._reason = reason or type(self).__name__

    @property
    def reason(self) -> str:
        """The API server's own reason, such as Forbidden or Invalid."""
        return self._reason


class NotFound(ApiError):
    """No such object, or no such kind of object on this cluster."""

    code = 404


class Conflict(ApiError):
    """The object exists already, has changed meanwhile, or has fields that belong to other field managers."""

    code = 409
    fields: tuple[str, ...] = ()
    """Paths of the fields that an apply would have taken from their managers."""


class Refused(ApiError):
    """The request is not allowed: by access rights, a quota or an admission policy."""

    code = 403


class WebhookFailed(Refused):
    """An admission webhook does not answer, or says that it cannot decide now; the API server itself is well."""

    code = 500

    @property
    def reason(self) -> str:
        """Not the API server's InternalError, which would be blamed on the operator."""
        return type(self).__name__


class Invalid(Refused):
    """The request is wrong, so that the same one will be refused again."""

    code = 422


class Unreachable(ApiError):
    """The API server is down, overloaded or does not answer."""


def _error(status: int, body: str) -> ApiError:
    try:
        answer = json.loads(body)
        message, reason = str(answer["message"]), str(answer.get("reason") or "")
    except (ValueError, KeyError, TypeError):
        message, reason = body[:500] or f"status {status}", ""
    if status == 409:
        return _conflict(message, reason, body)
    if (status == 429 or status >= 500) and _WEBHOOK.search(message):
        return WebhookFailed(message, reason or str(status))
    kinds: dict[int, type[ApiError]] = {404: NotFound, 403: Refused, 400: Invalid, 422: Invalid}
    return kinds.get(status, Unreachable)(message, reason or str(status))


def _conflict(message: str, reason: str, body: str) -> Conflict:
    error = Conflict(message, reason or "409")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        causes = json.loads(body)["details"]["causes"]
        error.fields = tuple(cause["field"] for cause in causes if cause["reason"] == "FieldManagerConflict")
    return error


class Api:
    """Requests to one API server. Safe to share among tasks of one event loop."""

    def __init__(
        self, client: ApiClient, timeout: float, metrics: Metrics, fence: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._metrics = metrics
        self._fence = fence

    async def get(self, key: Key, metadata_only: bool = False) -> JsonObject | None:
        """The object, or None when it does not exist."""
        accept = _METADATA_ONLY if metadata_only else "application/json"
        try:
            return await self._request("GET", key.kind, key.kind.path(key.namespace, key.name), accept=accept)
        except NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str = "", selector: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], int]:
        """All objects and the resource version at which they were listed. A kind the cluster lacks is empty.

        Items of a list do not say what they are; ours do.
        """
        listed: list[JsonObject] = []
        query = {"limit": str(_PAGE), "labelSelector": selector, "fieldSelector": fields}
        while True:
            try:
                page = await self._request("GET", kind, kind.path(namespace), query)
            except NotFound:
                return [], 0
            items = page["items"]
            assert isinstance(items, list)
            said: JsonObject = {"kind": kind.name, "apiVersion": kind.api_version}
            listed += [item | said for item in items if isinstance(item, dict)]
            query["continue"] = text(page, "metadata", "continue")
            if not query["continue"]:
                return listed, int(text(page, "metadata", "resourceVersion") or 0)

    async def create(self, kind: Kind, manifest: View) -> JsonObject:
        """Creates an object. Raises Conflict when one of its name exists."""
        namespace = text(manifest, "metadata", "namespace")
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("POST", kind, kind.path(namespace), query, manifest)

    async def replace(self, key: Key, manifest: View) -> JsonObject:
        """Replaces an object. Raises Conflict when it has changed since it was read."""
        return await self._request("PUT", key.kind, key.kind.path(key.namespace, key.name), body=manifest)

    async def apply(
        self, key: Key, manifest: View, force: bool = True, manager: str = names.FIELD_MANAGER
    ) -> JsonObject:
        """Server-side apply of an object.

        Without `force` raises Conflict, with the fields, where others have set them to other values.
        """
        query = {"fieldManager": manager, "force": "true" if force else ""}
        path = key.kind.path(key.namespace, key.name)
        return await self._request("PATCH", key.kind, path, query, manifest, content_type=_APPLY)

    async def apply_status(self, key: Key, status: View) -> JsonObject:
        """Server-side apply of the status as field manager `fovea`: exactly the fields given are ours."""
        body: JsonObject = {
            "apiVersion": key.kind.api_version,
            "kind": key.kind.name,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": dict(status),
        }
        path = key.kind.path(key.namespace, key.name, "status")
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", key.kind, path, query, body, content_type=_APPLY)

    async def delete(self, key: Key, uid: str) -> None:
        """Asks for the deletion of exactly this object; it is no error if it is deleted already."""
        body: JsonObject = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", key.kind, key.kind.path(key.namespace, key.name), body=body)
        except (NotFound, Conflict):
            return

    async def ready(self) -> None:
        """Raises Unreachable unless the API server answers."""
        await self._request("GET", None, "/version")

    async def _request(
        self,
        verb: str,
        kind: Kind | None,
        path: str,
        query: dict[str, str] | None = None,
        body: View | None = None,
        accept: str = "application/json",
        content_type: str = "application/json",
    ) -> JsonObject:
        code, timeout = "0", self._timeout
        if verb != "GET":
            timeout = min(timeout, self._fence())
        try:
            request = await self._client.param_serialize(
                verb,
                path,
                query_params=[(name, value) for name, value in (query or {}).items() if value],
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*request, _request_timeout=aiohttp.ClientTimeout(total=timeout))
            content: bytes = await response.read()  # type: ignore[no-untyped-call]
            code = str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"the API server cannot be reached: {str(error) or type(error).__name__}") from error
        finally:
            self._metrics.requests.labels(verb, kind.name if kind else "", code).inc()
        if not 200 <= response.status < 300:
            raise _error(response.status, content.decode(errors="replace"))
        answer: Any = json.loads(content)
        assert isinstance(answer, dict)
        return answer


async def load_configuration() -> Configuration:
    """Credentials as every Kubernetes tool finds them: the pod's ServiceAccount, else $KUBECONFIG or ~/.kube/config."""
    configuration: Configuration = type.__call__(Configuration)
    try:
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            os.environ.get("KUBECONFIG"), client_configuration=configuration, persist_config=False
        )
    return configuration


@asynccontextmanager
async def connect(
    configuration: Configuration, timeout: float, metrics: Metrics, fence: Callable[[], float] = lambda: math.inf
) -> AsyncIterator[Api]:
    """An Api for the time of the block. `timeout` is in seconds for each request.

    `fence` returns the seconds in which a write must have been sent and answered, or raises where none may be sent.
    """
    async with ApiClient(configuration) as client:
        yield Api(client, timeout, metrics, fence)
        await asyncio.sleep(0)
