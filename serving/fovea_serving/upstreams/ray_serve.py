"""A version that Ray Serve runs: image bytes go to its replicas, which do everything else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp
from fovea_api.bundle import BundleManifest
from fovea_api.common import Task
from fovea_api.errors import FoveaError
from fovea_api.gateway import GatewayConfig, ServedVersion

from fovea_serving.pipeline.decode import InvalidImage
from fovea_serving.upstreams.base import (
    DEFAULTS,
    Answer,
    InvalidOptions,
    Overloaded,
    PredictOptions,
    UpstreamFailed,
    UpstreamUnavailable,
)
from fovea_serving.upstreams.registry import register
from fovea_serving.upstreams.underway import UnderWay
from fovea_serving.upstreams.wire import CONTENT_TYPE, UnreadableMessage, read_answers, write_request

CONNECT_SECONDS = 2.0
"""To reach Ray's proxy, which is in the same cluster."""
IDLE_SECONDS = 4.0
"""How long a connection is kept for the next request: less than the 5 seconds after which Ray's proxy closes it."""
ATTEMPTS = 3
"""Of a request whose replica or proxy went away under it: the same request again is answered by another."""
BACKPRESSURE = "backpressure"
"""What Ray Serve's own 503 names where a queue is full."""


class RayServeUpstream:
    """An application of Ray Serve.

    Args:
        address: `http://host:port/route`, the application's route.
        task: What its model predicts.
        timeout: Seconds after which a request is given up.
    """

    def __init__(self, address: str, task: Task, timeout: float) -> None:
        self._address = address
        self._task = task
        self._under_way = UnderWay(address)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)  # the gateway limits
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS),
            headers={"content-type": CONTENT_TYPE},
            auto_decompress=False,
        )

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        body = await self._post(write_request(images, options))
        try:
            answers = read_answers(body, self._task)
        except UnreadableMessage as error:
            raise UpstreamFailed(str(error), self._address) from error
        if len(answers) != len(images):
            raise UpstreamFailed(f"{len(answers)} answers for {len(images)} images", self._address)
        return answers

    async def ready(self) -> None:
        await self._post(write_request([], DEFAULTS))

    async def close(self) -> None:
        await self._under_way.close()
        await self._session.close()

    async def _post(self, body: bytes) -> bytes:
        with self._under_way.call():
            return await self._sent(body)

    async def _sent(self, body: bytes) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._session.post(self._address, data=body) as response:
                    content = await response.read()
            except TimeoutError as error:
                raise UpstreamUnavailable("no answer in time", self._address) from error
            except (aiohttp.ClientError, OSError) as error:
                failure = UpstreamUnavailable(f"cannot be reached: {error}", self._address)
                if isinstance(error, aiohttp.ClientConnectorError) or attempt == ATTEMPTS:
                    raise failure from error
                continue
            if response.status == HTTPStatus.OK:
                return content
            failure_of = explain(response.status, response.content_type, content, self._address)
            if not isinstance(failure_of, ReplicaLost) or attempt == ATTEMPTS:
                raise failure_of
        raise AssertionError("the last attempt has returned or raised")


class ReplicaLost(UpstreamUnavailable):
    """The replica died with the request; another one can answer it."""


def explain(status: int, content_type: str, content: bytes, place: str) -> FoveaError:
    """What an answer other than 200 says: our replica's, in problem details, or Ray Serve's own, in plain text."""
    if content_type == "application/problem+json":
        detail = str(json.loads(content).get("detail", ""))
        kinds: dict[int, FoveaError] = {
            HTTPStatus.UNPROCESSABLE_ENTITY: InvalidImage(detail),
            HTTPStatus.BAD_REQUEST: InvalidOptions(detail),
            HTTPStatus.TOO_MANY_REQUESTS: Overloaded(detail),
            HTTPStatus.SERVICE_UNAVAILABLE: UpstreamUnavailable(detail, place),
        }
        return kinds.get(status, UpstreamFailed(detail, place))
    text = content.decode(errors="replace").strip()[:500]
    if status == HTTPStatus.NOT_FOUND:
        return UpstreamUnavailable("Ray Serve does not have this version", place, "it is being deployed, or is removed")
    if status == HTTPStatus.SERVICE_UNAVAILABLE and BACKPRESSURE in text:
        return Overloaded("the replicas' queues are full")
    if status in (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY):
        return ReplicaLost(f"the replica was lost: {text}", place)
    return UpstreamUnavailable(f"Ray Serve answers {status}: {text}", place)


@register("RayServe")
def open_ray_serve(version: ServedVersion, manifest: BundleManifest, config: GatewayConfig) -> RayServeUpstream:
    """The upstream of a version in Ray Serve."""
    return RayServeUpstream(version.address, manifest.task, config.inference.timeout_seconds)
