"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fovea_operator.metrics import Metrics

Check = Callable[[], str]
"""Returns what is wrong; empty when nothing is."""


@asynccontextmanager
async def serve(port: int, healthy: Check, ready: Check, metrics: Metrics) -> AsyncIterator[int]:
    """Serves for the time of the block; yields the port."""

    def answer(check: Check) -> Callable[[web.Request], object]:
        async def handle(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(text=problem or "ok", status=503 if problem else 200)

        return handle

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", answer(healthy)),  # type: ignore[arg-type]
            web.get("/readyz", answer(ready)),  # type: ignore[arg-type]
            web.get("/metrics", scrape),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, None, port)
        await site.start()
        yield next((address[1] for address in runner.addresses if len(address) == 2), port)
    finally:
        await runner.cleanup()
