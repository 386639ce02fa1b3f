"""An upstream that is closed answers what is under way, and takes nothing more."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from fovea_api.dataset import Task
from fovea_serving.upstreams import UpstreamUnavailable
from fovea_serving.upstreams.ray_serve import RayServeUpstream
from fovea_serving.upstreams.wire import CONTENT_TYPE, write_answers


async def test_a_version_that_leaves_the_routing_answers_what_it_has_begun() -> None:
    begun, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        begun.set()
        await may_answer.wait()
        return web.Response(body=write_answers([]), content_type=CONTENT_TYPE)

    app = web.Application()
    app.router.add_post("/v1", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    upstream = RayServeUpstream(f"http://127.0.0.1:{port}/v1", Task.DETECTION, 600)
    try:
        asked = asyncio.create_task(upstream.predict([]))
        await begun.wait()
        closing = asyncio.create_task(upstream.close())
        await asyncio.sleep(0)
        with pytest.raises(UpstreamUnavailable):
            await upstream.predict([])
        assert not closing.done()
        may_answer.set()
        assert await asked == []
        await closing
    finally:
        await runner.cleanup()
