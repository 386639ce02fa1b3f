"""A client of a served model, which needs nothing but Python.

from fovea_serving.client import Client

client = Client("http://localhost:8080")
for each in client.predict("photo.jpg").objects:
    print(each.name, each.score, each.box)
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fovea_api.errors import FoveaError, Retryable

RETRIED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})
"""Statuses after which the same request may succeed; to predict twice does no harm."""
MAX_PAUSE_SECONDS = 10.0

Image = Path | str | bytes
"""A file by its path, or the bytes of one."""


class RequestFailed(FoveaError):
    """The service refused the request; `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServiceUnavailable(Retryable):
    """The service could not be reached, or did not answer, after all attempts."""


@dataclass(frozen=True, slots=True)
class Mask:
    """COCO's compressed run-length encoding, as pycocotools and faster-coco-eval read it."""

    size: tuple[int, int]
    """Height and width."""
    counts: str


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """An object: the name of its class, its score from 0 to 1, and its box in pixels of the upright image."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    mask: Mask | None = None
    """Its pixels, where the model finds them."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """A class of the image (with `score`), or of some of its pixels (with `pixels` and `mask`)."""

    name: str
    score: float | None = None
    pixels: int | None = None
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """What the model says of one image: objects of a detector, classes of every other model."""

    width: int
    height: int
    objects: tuple[DetectedObject, ...]
    classes: tuple[ClassResult, ...]
    run: str
    """The run that made the model which answered."""
    request_id: str


class Client:
    """Asks a served model. One object may be used by several threads.

    Args:
        url: Such as http://localhost:8080.
        token: An API key, or a token of Kubernetes.
        timeout: Seconds for an attempt.
        attempts: How often a request is sent at most; with pauses that grow, or as the service asks for.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30, attempts: int = 4) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._attempts = attempts

    def predict(
        self,
        image: Image,
        *,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
        tile: int | None = None,
    ) -> ImagePrediction:
        """The prediction for one image. Raises RequestFailed, ServiceUnavailable."""
        return self.predict_many([image], confidence=confidence, classes=classes, tile=tile)[0]

    def predict_many(
        self,
        images: Sequence[Image],
        *,
        confidence: float | None = None,
        classes: Sequence[str] | None = None,
        tile: int | None = None,
    ) -> list[ImagePrediction]:
        """The predictions for some images, in one request. Raises RequestFailed, ServiceUnavailable."""
        body, content_type = _form([_bytes(image) for image in images])
        answer = json.loads(self._post(_query(confidence, classes, tile), body, content_type))
        run, request_id = answer["model"]["run"], answer["requestId"]
        return [_prediction(each, run, request_id) for each in answer["predictions"]]

    def render(self, image: Image, *, confidence: float | None = None, classes: Sequence[str] | None = None) -> bytes:
        """The image as JPEG with the prediction drawn on it. Raises RequestFailed, ServiceUnavailable."""
        return self._post(_query(confidence, classes) | {"render": "1"}, _bytes(image), "application/octet-stream")

    def feedback(
        self,
        request_id: str,
        *,
        name: str | None = None,
        objects: Sequence[DetectedObject] | None = None,
        masks: Mapping[str, Mask] | None = None,
        wrong: bool | None = None,
    ) -> bool:
        """Says what is right for a request of one image; whether its answer was. Raises RequestFailed.

        Args:
            request_id: As the prediction has it.
            name: The class of the image.
            objects: All its objects.
            masks: The pixels of each class.
            wrong: Whether the answer was wrong, where no more is known.
        """
        label: dict[str, object] = {"requestId": request_id}
        if name is not None:
            label["class"] = name
        if objects is not None:
            label["objects"] = [
                {"class": each.name, "box": list(each.box), **_run_lengths(each.mask)} for each in objects
            ]
        if masks is not None:
            label["classes"] = [{"class": each, **_run_lengths(mask)} for each, mask in masks.items()]
        if wrong is not None:
            label["wrong"] = wrong
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/v1/feedback", json.dumps(label).encode(), headers, method="POST")
        return bool(json.loads(self._send(request))["right"])

    def model(self) -> Mapping[str, Any]:
        """The model's run, task, classes and threshold. Raises RequestFailed, ServiceUnavailable."""
        model: Mapping[str, Any] = json.loads(self._send(urllib.request.Request(f"{self._url}/v1/model")))
        return model

    def _post(self, query: Mapping[str, str], body: bytes, content_type: str) -> bytes:
        url = f"{self._url}/v1/predict?{urlencode(query)}"
        # One id for all attempts: the gateway's choice among versions goes by it.
        headers = {"Content-Type": content_type, "X-Request-Id": uuid.uuid4().hex}
        return self._send(urllib.request.Request(url, body, headers, method="POST"))

    def _send(self, request: urllib.request.Request) -> bytes:
        for name, value in self._headers.items():
            request.add_header(name, value)
        reason = ""
        for attempt in range(self._attempts):
            pause = min(MAX_PAUSE_SECONDS, 0.2 * 2**attempt) * random.uniform(0.5, 1)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    content: bytes = answer.read()
                    return content
            except urllib.error.HTTPError as error:
                reason = _detail(error)
                if error.code not in RETRIED:
                    raise RequestFailed(reason, error.code) from None
                after = error.headers.get("Retry-After", "")
                pause = max(pause, min(MAX_PAUSE_SECONDS, float(after))) if after.isdigit() else pause
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                reason = str(error)
            if attempt + 1 < self._attempts:
                time.sleep(pause)
        raise ServiceUnavailable(f"no answer in {self._attempts} attempts: {reason}", self._url)


def _query(confidence: float | None, classes: Sequence[str] | None, tile: int | None = None) -> dict[str, str]:
    given = {"confidence": confidence, "classes": classes and ",".join(classes), "tile": tile}
    return {name: str(value) for name, value in given.items() if value is not None}


def _bytes(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _form(images: Sequence[bytes]) -> tuple[bytes, str]:
    """The body and its type: one image as it is, several as a form."""
    if len(images) == 1:
        return images[0], "application/octet-stream"
    boundary = uuid.uuid4().hex
    head = 'Content-Disposition: form-data; name="image"; filename="image"\r\nContent-Type: application/octet-stream'
    parts = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + image + b"\r\n" for image in images]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def _prediction(content: Mapping[str, Any], run: str, request_id: str) -> ImagePrediction:
    objects = [
        DetectedObject(each["class"], each["score"], _box(each["box"]), _mask(each.get("mask")))
        for each in content.get("objects", ())
    ]
    classes = [
        ClassResult(each["class"], each.get("score"), each.get("pixels"), _mask(each.get("mask")))
        for each in content.get("classes", ())
    ]
    return ImagePrediction(content["width"], content["height"], tuple(objects), tuple(classes), run, request_id)


def _box(edges: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = edges
    return left, top, right, bottom


def _mask(content: Mapping[str, Any] | None) -> Mask | None:
    return None if content is None else Mask((content["size"][0], content["size"][1]), content["counts"])


def _run_lengths(mask: Mask | None) -> dict[str, object]:
    return {} if mask is None else {"mask": {"size": list(mask.size), "counts": mask.counts}}


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return f"{error.code}: {json.loads(error.read())['detail']}"
    except (ValueError, KeyError, OSError):
        return f"{error.code}: {error.reason}"
