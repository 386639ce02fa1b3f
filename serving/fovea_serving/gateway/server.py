"""The process: listens, serves until SIGTERM or SIGINT, and ends without dropping a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from fovea_api.errors import InvalidInput
from prometheus_client import CONTENT_TYPE_LATEST

from fovea_serving.gateway.app import add_probes, create_app
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.open_inference_grpc import grpc_server
from fovea_serving.gateway.settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that wait to be accepted: a burst of clients is not refused."""

Start = Callable[[Gateway], Coroutine[Any, Any, None]]


class _Server(uvicorn.Server):
    """Leaves signals to `serve`, which has two servers to stop, one after the other."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(create: Callable[[], Gateway], start: Start, settings: Settings) -> None:
    """Serves until a signal comes. What is running then is answered; new connections are accepted for
    `drain_delay_seconds`, while `/readyz` answers 503.

    Args:
        create: Makes the gateway, without a version yet.
        start: Gives it its versions; awaited beside the servers, so that probes are answered meanwhile.
        settings: Addresses and limits.
    """
    gateway = create()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    apps = {settings.port: create_app(gateway, settings)}
    if settings.admin_port:
        apps[settings.admin_port] = _admin(gateway)
    sockets = [_listen(settings.host, port, settings.processes > 1) for port in apps]
    servers = [_server(app, settings) for app in apps.values()]
    pairs = zip(servers, sockets, strict=True)
    serving = [asyncio.create_task(server.serve([listening])) for server, listening in pairs]
    rpc = grpc_server(gateway, settings) if settings.grpc_port else None
    if rpc is not None:
        await rpc.start()
    starting = asyncio.create_task(start(gateway))
    watching = asyncio.create_task(gateway.watch_health())
    stopping = asyncio.create_task(stop.wait())
    try:
        await _first(stopping, starting, *serving)  # an error of any of them ends all
        await _first(stopping, *serving)
        gateway.draining = True
        log.info("shutting down; running requests are answered")
        await asyncio.sleep(settings.drain_delay_seconds)
    finally:
        for server, task in zip(servers, serving, strict=True):
            server.should_exit = True
            await asyncio.wait([task])
        if rpc is not None:
            await rpc.stop(settings.drain_seconds)
        for task in (starting, watching):
            task.cancel()
        stopping.cancel()
        await gateway.close()


async def _first(*tasks: asyncio.Task[object] | asyncio.Task[None] | asyncio.Task[bool]) -> None:
    """Waits for the first task that ends. Raises its error."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _admin(gateway: Gateway) -> FastAPI:
    app = FastAPI(title="Fovea: probes and metrics", docs_url=None, redoc_url=None, openapi_url=None)
    add_probes(app, gateway)

    @app.get("/metrics")
    async def metrics() -> Response:
        gateway.metrics.load(gateway.at_work, gateway.admission.expected_wait)
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


def _listen(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        raise InvalidInput(f"cannot listen: {error.strerror}", f"{host}:{port}", "choose another port") from error


def _server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=round(settings.drain_seconds),
        )
    )
