"""Label Studio's ML backend: predictions as pre-labels, in the form that its labelling page shows.

`/health`, `/setup` and `/predict` are those of label-studio-ml (https://labelstud.io/guide/ml_create). Whoever asks is
authenticated as for any other request; Label Studio sends a key or token as the password of basic authentication.

An image is read from the task itself (`data:`), from the captures by its name, or from the one Label Studio that the
configuration names; nothing else is fetched, and no redirect followed. It is predicted beside the requests: neither
counted nor captured, for it is no traffic.
"""

from __future__ import annotations

import asyncio
import base64
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fovea_api.common import Task
from fovea_api.errors import InvalidInput, Recoverable
from fovea_api.gateway import LabelStudioHost
from fovea_store import NotFound
from pydantic import JsonValue

from fovea_serving.captures.exchange import label_studio_result, request_of
from fovea_serving.gateway.answers import json_response
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.problems import RequestTooLarge
from fovea_serving.gateway.requests import parse_object, read_body, while_connected
from fovea_serving.gateway.settings import Settings
from fovea_serving.upstreams import UpstreamUnavailable

MAX_BYTES = 64 * 2**20
"""Largest body: tasks may have their images in them."""
FETCH_SECONDS = 20.0
SERVED_PATHS = ("/data/", "/storage-data/")
"""Where Label Studio serves images itself; below everything else there is nothing to fetch."""
_TAGS: Mapping[Task, str] = {Task.CLASSIFICATION: "Choices", Task.DETECTION: "RectangleLabels"}
"""The tag of a labelling configuration that a task's predictions go to."""


class ForbiddenImage(InvalidInput):
    """The task's image lies where nothing is fetched from."""


@dataclass(frozen=True, slots=True)
class Tag:
    """Where predictions go in a labelling configuration.

    Args:
        name: Of the control tag: `from_name`.
        image: Of the image tag: `to_name`.
        field: Of the task's data that has the image.
    """

    name: str = "label"
    image: str = "image"
    field: str = "image"


def tag_of(config: str, task: Task) -> Tag:
    """The tag for the predictions of a task. Raises InvalidInput where the configuration has none."""
    wanted = _TAGS.get(task)
    if wanted is None:
        words = f"predictions of {task} do not go to Label Studio"
        raise InvalidInput(words, "label_config", "export them as COCO: fovea captures export --format COCO")
    if "<!DOCTYPE" in config or "<!ENTITY" in config:
        raise InvalidInput("a document type is not read", "label_config", "remove <!DOCTYPE …>")
    try:
        root = ET.fromstring(config)
    except (ET.ParseError, ValueError) as error:  # the latter for text that no encoding has
        raise InvalidInput(f"no XML: {error}", "label_config") from error
    images = {each.get("name"): each.get("value", "") for each in root.iter("Image")}
    for each in root.iter(wanted):
        image = each.get("toName")
        if image in images and images[image].startswith("$"):
            return Tag(each.get("name", ""), image or "", images[image][1:])
    raise InvalidInput(f"there is no {wanted} for an Image", "label_config", f"add <{wanted} toName=…>")


def add_label_studio(app: FastAPI, gateway: Gateway, settings: Settings) -> None:
    """Adds the routes of the ML backend."""

    @app.get("/health")
    async def health(request: Request) -> Response:
        """Says to Label Studio that the backend is there."""
        await gateway.authenticator.check(request.headers)
        return json_response({"status": "UP", "model_class": "Fovea"})

    @app.post("/setup")
    async def setup(request: Request) -> Response:
        """Says to Label Studio whether a project's labelling configuration fits, and which version predicts."""
        await gateway.authenticator.check(request.headers)
        body = parse_object(await read_body(request, MAX_BYTES))
        version = gateway.routing.main
        tag_of(str(body.get("schema") or ""), version.model.manifest.task)
        return json_response({"model_version": version.name})

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        """Predicts tasks of Label Studio."""
        await gateway.authenticator.check(request.headers)
        body = parse_object(await read_body(request, MAX_BYTES))
        return json_response(await while_connected(request, _predicted(gateway, settings, body)))


async def _predicted(gateway: Gateway, settings: Settings, body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise InvalidInput("`tasks` is no list of tasks", "tasks")
    if len(tasks) > settings.max_images:
        raise RequestTooLarge(f"{len(tasks)} tasks in one request", "tasks", f"send at most {settings.max_images}")
    version = gateway.routing.main
    manifest, results = version.model.manifest, list[JsonValue]()
    tag = tag_of(str(body.get("label_config") or ""), manifest.task)
    for index, task in enumerate(tasks):
        place = f"tasks[{index}].data.{tag.field}"
        data = task.get("data") if isinstance(task, dict) else None
        value = data.get(tag.field) if isinstance(data, dict) else None
        if not isinstance(value, str):
            raise InvalidInput("the task has no image", place)
        image = await _image(gateway, value, place, settings.max_request_bytes)
        (answer,) = await gateway.suggest(version, [image])
        content, size = answer.prediction.to_dict(manifest.classes, masks=True), (answer.width, answer.height)
        result = label_studio_result(content, size, tag.name, tag.image)
        score = answer.prediction.confidence
        results.append({"model_version": version.name, "score": score or 0.0, "result": result})
    return {"results": results, "model_version": version.name}


async def _image(gateway: Gateway, value: str, place: str, most: int) -> bytes:
    """The file of a task's image. Raises ForbiddenImage, InvalidInput, UpstreamUnavailable."""
    if value.startswith("data:"):
        head, _, content = value.partition(",")
        try:
            return base64.b64decode(content, validate=True) if head.endswith(";base64") else b""
        except ValueError as error:
            raise InvalidInput(f"no base64: {error}", place) from error
    capturer, captured = gateway.monitor.capturer, request_of(value)
    if capturer is not None and captured is not None:
        request_id, index = captured

        def read() -> bytes | None:
            found = capturer.find(request_id)
            if found is None or not found.capture.has_images or index >= len(found.capture.images):
                return None
            try:
                return capturer.store.read_image(found, index)
            except NotFound:
                return None

        try:
            kept = await asyncio.get_running_loop().run_in_executor(capturer.feedback_threads, read)
        except Recoverable as error:
            raise UpstreamUnavailable(f"the store of the captures does not answer: {error}") from error
        if kept is not None:
            return kept
    return await _fetched(gateway.label_studio, value, place, most)


async def _fetched(host: LabelStudioHost | None, value: str, place: str, most: int) -> bytes:
    """An image that the Label Studio of the configuration serves."""
    if host is None:
        words = "the image is none of the captures, and no Label Studio is named from which others are read"
        raise ForbiddenImage(words, place, "set spec.monitoring.labelStudio")
    url = _served_url(host, value)
    if url is None:
        words = f"images are read from {host.url}{SERVED_PATHS[0]} alone, not from {value[:128]!r}"
        raise ForbiddenImage(words, place, "upload it to Label Studio, or serve it as its local file")
    headers = _authorization(host)
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise InvalidInput(f"Label Studio answers {response.status}", place, "check path and token")
            parts, length = [], 0
            async for part in response.content.iter_chunked(1 << 16):
                length += len(part)
                if length > most:
                    raise RequestTooLarge(f"the image has more than {most:,} bytes", place)
                parts.append(part)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise UpstreamUnavailable(f"Label Studio cannot be reached: {error}", host.url) from error
    return b"".join(parts)


def _served_url(host: LabelStudioHost, value: str) -> str | None:
    """Where Label Studio serves an image of a task; None: it lies elsewhere, or the value is no URL."""
    base = urlsplit(host.url)
    try:
        url = urljoin(host.url.rstrip("/") + "/", value.lstrip("/") if value.startswith("/") else value)
        parts, prefix = urlsplit(url), base.path.rstrip("/")
        url.encode()
    except ValueError:  # brackets that hold no address, or text that no encoding has
        return None
    served = any(parts.path.startswith(prefix + path) for path in SERVED_PATHS)
    climbs = ".." in unquote(parts.path).split("/")
    return url if (parts.scheme, parts.netloc) == (base.scheme, base.netloc) and served and not climbs else None


def _authorization(host: LabelStudioHost) -> Mapping[str, str]:
    """The header with the token, read anew for each image, because it may be renewed. Raises UpstreamUnavailable."""
    if host.token is None:
        return {}
    try:
        return {"Authorization": f"Token {Path(host.token).read_text().strip()}"}
    except OSError as error:  # a pod from before the Secret was named does not have it
        words = f"the token for Label Studio cannot be read: {error.strerror}"
        remedy = "the Secret of spec.monitoring.labelStudio needs the key token"
        raise UpstreamUnavailable(words, host.url, remedy) from error
