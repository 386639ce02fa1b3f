"""The client, against an HTTP server that plays the API server: pages, errors, writes without the Lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fovea_operator.client import (
    Api,
    ApiError,
    Conflict,
    Invalid,
    NotFound,
    Refused,
    Unreachable,
    WebhookFailed,
    connect,
)
from fovea_operator.lease import LeaseLost
from fovea_operator.metrics import Metrics
from fovea_operator.objects import DATASET, Key
from kubernetes.aio.client import Configuration

KEY = Key(DATASET, "ns", "cells")
Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def api(handler: Handler, fence: Callable[[], float] = lambda: 60.0, timeout: float = 600) -> AsyncIterator[Api]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        configuration: Configuration = type.__call__(Configuration)
        configuration.host = str(server.make_url("")).rstrip("/")
        async with connect(configuration, timeout, Metrics(), fence) as found:
            yield found


async def test_a_listing_goes_on_after_its_first_page() -> None:
    asked: list[dict[str, str]] = []
    pages: dict[str, dict[str, Any]] = {
        "": {"items": [{"metadata": {"name": "a"}}], "metadata": {"continue": "more", "resourceVersion": "7"}},
        "more": {"items": [{"metadata": {"name": "b"}}], "metadata": {"continue": "last", "resourceVersion": "7"}},
        "last": {"items": [{"metadata": {"name": "c"}}], "metadata": {"resourceVersion": "7"}},
    }

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response(pages[request.query.get("continue", "")])

    async with api(answer) as client:
        found, version = await client.list(DATASET, "ns", "a=b", "type=Warning")
    assert [(each["metadata"]["name"], each["kind"]) for each in found] == [(name, "Dataset") for name in "abc"]  # type: ignore[index,call-overload]
    assert version == 7
    assert {(each["labelSelector"], each["fieldSelector"], each["limit"]) for each in asked} == {
        ("a=b", "type=Warning", "500")
    }


async def test_a_deletion_names_the_uid_and_one_of_another_uid_is_no_error() -> None:
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, await request.json()))
        return web.json_response(
            {"message": "the UID in the precondition does not match", "reason": "Conflict"}, status=409
        )

    async with api(answer) as client:
        await client.delete(KEY, "uid-1")
    body = {"propagationPolicy": "Background", "preconditions": {"uid": "uid-1"}}
    assert asked == [("DELETE", "/apis/fovea.dev/v1alpha1/namespaces/ns/datasets/cells", body)]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (422, Invalid),
        (403, Refused),
        (404, NotFound),
        (409, Conflict),
        (429, Unreachable),
        (500, Unreachable),
    ],
)
async def test_the_api_servers_words_are_those_of_the_error(status: int, kind: type[ApiError]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"message": "its words", "reason": "ItsReason"}, status=status)

    async with api(answer) as client:
        with pytest.raises(ApiError, match="its words") as raised:
            await client.create(DATASET, {"metadata": {"namespace": "ns"}})
    assert (type(raised.value), raised.value.reason) == (kind, "ItsReason")


DENIED = 'admission webhook "check.example.com" denied the request: try later'
NOT_CALLED = 'Internal error occurred: failed calling webhook "check.example.com": no endpoints available'


@pytest.mark.parametrize(
    ("status", "words", "kind", "reason"),
    [
        (500, NOT_CALLED, WebhookFailed, "WebhookFailed"),
        (503, DENIED, WebhookFailed, "WebhookFailed"),
        (429, DENIED, WebhookFailed, "WebhookFailed"),
        (403, DENIED, Refused, "ItsReason"),
        (400, DENIED, Invalid, "ItsReason"),
        (500, "etcdserver: request timed out", Unreachable, "ItsReason"),
    ],
)
async def test_a_webhook_that_fails_is_distinguished_from_an_api_server_that_does(
    status: int, words: str, kind: type[ApiError], reason: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"message": words, "reason": "ItsReason"}, status=status)

    async with api(answer) as client:
        with pytest.raises(ApiError) as raised:
            await client.create(DATASET, {"metadata": {"namespace": "ns"}})
    assert (type(raised.value), raised.value.reason, str(raised.value)) == (kind, reason, words)


async def test_without_the_lease_nothing_is_written_and_reading_goes_on() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    def fence() -> float:
        raise LeaseLost("lost")

    async with api(answer, fence) as client:
        for write in (
            client.create(DATASET, {"metadata": {"namespace": "ns"}}),
            client.replace(KEY, {}),
            client.apply(KEY, {}, force=False),
            client.apply_status(KEY, {}),
            client.delete(KEY, "uid"),
        ):
            with pytest.raises(LeaseLost):
                await write
        await client.list(DATASET)
    assert asked == ["GET"]


async def test_a_write_waits_for_its_answer_no_longer_than_the_lease_lasts() -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    async with api(answer, lambda: 0.05, timeout=3600) as client:
        with pytest.raises(Unreachable, match="Timeout"):
            await client.create(DATASET, {"metadata": {"namespace": "ns"}})
