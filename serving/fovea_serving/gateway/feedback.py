"""Feedback: what is right for a request that was answered, by its id."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fovea_api.common import Task
from fovea_api.errors import InvalidInput, Recoverable
from fovea_api.profile import PairOutcome
from pydantic import JsonValue

from fovea_serving.captures import Answered, Label, is_right_answer
from fovea_serving.captures.records import AnsweredPair
from fovea_serving.gateway.capturing import Capturer
from fovea_serving.gateway.monitoring import Monitor
from fovea_serving.gateway.problems import FeedbackDisabled, UnknownRequest
from fovea_serving.gateway.requests import REQUEST_ID, parse_object
from fovea_serving.upstreams import UpstreamUnavailable

MAX_BYTES = 16 * 2**20
"""Largest body: masks of a large image."""
MOST_PARTS = 5000
"""Objects or classes of an image's label at most: what they are compared with takes memory for each pair."""
MOST_AT_ONCE = 32
"""Requests that wait for the store at most."""
_FIELDS = ("class", "objects", "classes")


async def take_feedback(monitor: Monitor, body: bytes) -> dict[str, JsonValue]:
    """Keeps a label as the body has it and counts whether the answer was right, once for each request.

    Raises:
        InvalidInput: the body is no feedback, or does not fit the request.
        FeedbackDisabled: the deployment takes none.
        UnknownRequest: no answer is kept under the id.
        UpstreamUnavailable: the store does not answer, or so slowly that very many wait for it.
    """
    capturer = monitor.capturer
    if capturer is None or not capturer.takes_feedback:
        raise FeedbackDisabled("this deployment takes no feedback", None, "set spec.monitoring.feedback")
    if monitor.feedback_at_work >= MOST_AT_ONCE:
        raise UpstreamUnavailable(f"the store of the captures is slow: {MOST_AT_ONCE} labels wait for it")
    monitor.feedback_at_work += 1
    try:
        kept = await asyncio.get_running_loop().run_in_executor(capturer.feedback_threads, _take, capturer, body)
    except Recoverable as error:
        raise UpstreamUnavailable(f"the store of the captures does not answer: {error}") from error
    finally:
        monitor.feedback_at_work -= 1
    capture = kept.found.capture
    if counted := kept.found.label is None:
        monitor.metrics.labelled(capture.run, capture.role.lower(), "right" if kept.right else "wrong")
        if kept.pair is not None and kept.outcome is not None:
            candidate = kept.pair.candidate
            monitor.metrics.labelled_pair(candidate.run, candidate.role.lower(), kept.pair.stable.run, kept.outcome)
    return {"requestId": capture.id, "run": capture.run, "right": kept.right, "counted": counted}


def label_of(content: Mapping[str, JsonValue]) -> Label:
    """The label that a body is. Raises InvalidInput."""
    now = datetime.now(UTC)
    if "wrong" in content:
        if not isinstance(content["wrong"], bool):
            raise InvalidInput("`wrong` is neither true nor false", "wrong")
        return Label(time=now, source="feedback", wrong=content["wrong"])
    images: JsonValue = content.get("images", [dict(content)])
    if not isinstance(images, list) or not images:
        raise InvalidInput("`images` is no list", "images", "give one label for each image of the request")
    return Label(time=now, source="feedback", images=tuple(_one(image) for image in images))


def _one(content: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(content, Mapping) or not any(field in content for field in _FIELDS):
        words = f"a label has none of {', '.join(_FIELDS)}"
        raise InvalidInput(words, "body", 'give "class", "objects" or "classes", or {"wrong": true}')
    if "class" in content:
        return {"classes": [{"class": content["class"]}]}
    parts: dict[str, JsonValue] = {field: content[field] for field in ("objects", "classes") if field in content}
    for field, listed in parts.items():
        if isinstance(listed, list) and len(listed) > MOST_PARTS:
            raise InvalidInput(f"{len(listed):,} {field} in one label", field, f"give at most {MOST_PARTS:,}")
    return parts


@dataclass(frozen=True, slots=True)
class _Kept:
    found: Answered
    right: bool
    pair: AnsweredPair | None
    outcome: PairOutcome | None


def _take(capturer: Capturer, body: bytes) -> _Kept:
    content = parse_object(body)
    request_id, label = content.get("requestId"), label_of(content)
    if not isinstance(request_id, str) or not request_id:
        raise InvalidInput("`requestId` is missing", "requestId", "give that of the answer")
    return _keep(capturer, request_id, label)


def _keep(capturer: Capturer, request_id: str, label: Label) -> _Kept:
    found = capturer.find(request_id) if REQUEST_ID.fullmatch(request_id) else None
    if found is None:
        raise UnknownRequest(
            f"no answer is kept under the id {request_id!r}",
            "requestId",
            "give the id of an answer that is younger than the retention; of very many requests some are not kept",
        )
    task = found.capture.task
    right = is_right_answer(task, found.capture.images, label)
    # "wrong" is said of the answer that the client got, and of no other
    pair = capturer.store.find_pair(found) if label.wrong is None else None
    outcome = None if pair is None else _outcome(task, pair, label)
    if label.images or found.label is None or not found.label.images:  # "wrong" takes no better label's place
        capturer.store.label(found, label)
    return _Kept(found, right, pair, outcome)


def _outcome(task: Task, pair: AnsweredPair, label: Label) -> PairOutcome:
    candidate, stable = (is_right_answer(task, each.images, label) for each in (pair.candidate, pair.stable))
    if candidate and stable:
        return "both"
    return "candidate" if candidate else "stable" if stable else "neither"
