"""Feedback: what is right for a request that was answered, by its id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from fovea_api.errors import FoveaError, InvalidInput, Recoverable
from pydantic import JsonValue

from fovea_serving.captures import Answered, Label, is_right_answer
from fovea_serving.gateway.capturing import Capturer
from fovea_serving.gateway.monitoring import Monitor
from fovea_serving.gateway.problems import FeedbackDisabled, UnknownRequest
from fovea_serving.upstreams import UpstreamUnavailable

MAX_BYTES = 16 * 2**20
"""Largest body: masks of a large image."""
_FIELDS = ("class", "objects", "classes")


async def take_feedback(monitor: Monitor, body: bytes) -> dict[str, JsonValue]:
    """Keeps a label as the body has it and counts whether the answer was right, once for each request.

    Raises:
        InvalidInput: the body is no feedback, or does not fit the request.
        FeedbackDisabled: the deployment takes none.
        UnknownRequest: no answer is kept under the id.
        UpstreamUnavailable: the store does not answer.
    """
    capturer = monitor.capturer
    if capturer is None or not capturer.takes_feedback:
        raise FeedbackDisabled("this deployment takes no feedback", None, "set spec.monitoring.feedback")
    content = _object(body)
    request_id, label = content.get("requestId"), label_of(content)
    if not isinstance(request_id, str) or not request_id:
        raise InvalidInput("`requestId` is missing", "requestId", "give that of the answer")
    try:
        found, right = await asyncio.to_thread(_keep, capturer, request_id, label)
    except Recoverable as error:
        raise UpstreamUnavailable(f"the store of the captures does not answer: {error}") from error
    if counted := found.label is None:
        monitor.metrics.labelled(found.capture.run, found.capture.role.lower(), "right" if right else "wrong")
    return {"requestId": request_id, "run": found.capture.run, "right": right, "counted": counted}


def label_of(content: Mapping[str, JsonValue]) -> Label:
    """The label that a body is. Raises InvalidInput."""
    now = datetime.now(UTC)
    if "wrong" in content:
        if not isinstance(content["wrong"], bool):
            raise InvalidInput("`wrong` is neither true nor false", "wrong")
        return Label(time=now, source="feedback", wrong=content["wrong"])
    images = content.get("images", [content])
    if not isinstance(images, list) or not images:
        raise InvalidInput("`images` is no list", "images", "give one label for each image of the request")
    return Label(time=now, source="feedback", images=tuple(_one(image) for image in images))


def _one(content: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(content, Mapping) or not any(field in content for field in _FIELDS):
        words = f"a label has none of {', '.join(_FIELDS)}"
        raise InvalidInput(words, "body", 'give "class", "objects" or "classes", or {"wrong": true}')
    if "class" in content:
        return {"classes": [{"class": content["class"]}]}
    return {field: content[field] for field in ("objects", "classes") if field in content}


def _keep(capturer: Capturer, request_id: str, label: Label) -> tuple[Answered, bool]:
    found = capturer.find(request_id)
    if found is None:
        raise UnknownRequest(
            f"no answer is kept under the id {request_id!r}",
            "requestId",
            "give the id of an answer that is younger than the retention; of very many requests some are not kept",
        )
    right = is_right_answer(found.capture, label)
    capturer.store.label(found.day, request_id, label)
    return found, right


def _object(body: bytes) -> Mapping[str, JsonValue]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise InvalidInput(f"the body is no JSON: {error}", "body") from error
    if not isinstance(content, dict):
        raise InvalidInput("the body is no JSON object", "body")
    return content


__all__ = ["MAX_BYTES", "FoveaError", "label_of", "take_feedback"]
