"""From an HTTP request to images, options and an id."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fovea_api.bundle import BundleManifest
from fovea_api.errors import InvalidInput
from pydantic import JsonValue
from starlette.datastructures import FormData, QueryParams, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from fovea_serving.gateway.capturing import client_digest
from fovea_serving.gateway.problems import ClientDisconnected, RequestTooLarge
from fovea_serving.pipeline import prediction_type
from fovea_serving.pipeline.tiles import MIN_TILE
from fovea_serving.upstreams import InvalidOptions, PredictOptions

T = TypeVar("T")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(request: Request) -> str:
    """The caller's `X-Request-Id`, or a new one where it gave none that can stand in logs and headers."""
    if not hasattr(request.state, "id"):
        request.state.id = clean_request_id(request.headers.get("x-request-id", ""))
    return str(request.state.id)


def clean_request_id(given: str) -> str:
    """The id as it was given, where it can stand in logs and headers; else a new one."""
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def client_of(request: Request, deployment: str) -> str:
    """A digest of who asks: of its key or token, else of its address."""
    return digest_of(request.headers, request.client.host if request.client is not None else "", deployment)


def digest_of(headers: Mapping[str, str], address: str, deployment: str) -> str:
    """The same of headers (in lower case) and an address without its port."""
    return client_digest(deployment, headers.get("x-api-key") or headers.get("authorization") or address)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises RequestTooLarge as soon as it is over the limit, without reading the rest."""
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise RequestTooLarge(f"the body has {int(stated):,} bytes", None, f"send at most {limit:,}")
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > limit:
            raise RequestTooLarge(f"the body has more than {limit:,} bytes", None, f"send at most {limit:,}")
        parts.append(part)
    return b"".join(parts)


def parse_object(body: bytes) -> dict[str, JsonValue]:
    """The JSON object that a body is. Raises InvalidInput."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # the latter for very many brackets
        raise InvalidInput(f"the body is no JSON: {error}", "body") from error
    if not isinstance(content, dict):
        raise InvalidInput("the body is no JSON object", "body")
    return content


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work for a request whose body was read. It is cancelled as soon as the client is gone.

    Raises ClientDisconnected then, and whatever the work raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnected("the client closed its connection")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_images(request: Request, limit: int, max_images: int) -> list[bytes]:
    """The image files of a body: the body itself, or the files of a multipart form.

    Raises RequestTooLarge, InvalidInput.
    """
    body = await read_body(request, limit)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return [body]

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form: FormData = await MultiPartParser(request.headers, stream(), max_files=max_images + 1).parse()
    except (MultiPartException, KeyError) as error:
        raise InvalidInput(f"the multipart form cannot be read: {error}", "body", "send it as curl -F does") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise InvalidInput("the form has no file", "body", "send images as files: curl -F image=@photo.jpg")
    if len(files) > max_images:
        raise RequestTooLarge("too many images in one request", "body", f"send at most {max_images}")
    return [await file.read() for file in files]


def options_of(query: QueryParams, manifest: BundleManifest, defaults: PredictOptions) -> PredictOptions:
    """What a request chose. Raises InvalidOptions, which names the parameter.

    Args:
        query: `confidence`, `classes` (names, separated by commas or repeated), `tile` (pixels).
        manifest: That of the model which answers.
        defaults: The deployment's.
    """
    names = [name for value in query.getlist("classes") for name in value.split(",") if name]
    return PredictOptions(
        confidence=_fraction(query, "confidence") if "confidence" in query else defaults.confidence,
        classes=_indices(names, manifest.classes) if "classes" in query else defaults.classes,
        max_detections=defaults.max_detections,
        tile=_tile(query["tile"], manifest) if "tile" in query else None,
    )


def _tile(text: str, manifest: BundleManifest) -> int:
    if not prediction_type(manifest.task).tiled:
        raise InvalidOptions(f"parts of an image have no {manifest.task} of their own", "tile", "ask without it")
    if not text.isdigit() or int(text) < MIN_TILE:
        raise InvalidOptions(f"{text!r} is no number of pixels of at least {MIN_TILE}", "tile")
    return int(text)


def _fraction(query: QueryParams, name: str) -> float:
    try:
        value = float(query[name])
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise InvalidOptions(f"{query[name]!r} is no number from 0 to 1", name)
    return value


def _indices(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    unknown = [name for name in names if name not in classes]
    if unknown:
        known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
        raise InvalidOptions(f"the model has no class {', '.join(map(repr, unknown))}", "classes", f"it has {known}")
    return tuple(classes.index(name) for name in names)
