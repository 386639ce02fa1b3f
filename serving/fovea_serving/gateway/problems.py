"""Errors as HTTP answers: RFC 9457 problem details, with the status that says whose fault it is."""

from __future__ import annotations

import json
import math
from http import HTTPStatus

from fovea_api.errors import FoveaError, InvalidInput
from pydantic import JsonValue
from starlette.responses import Response

from fovea_serving.gateway.authentication import Forbidden, Unauthenticated
from fovea_serving.pipeline.decode import InvalidImage
from fovea_serving.pipeline.header import ImageTooLarge, UnsupportedImage
from fovea_serving.upstreams import Overloaded, UpstreamFailed, UpstreamUnavailable

RETRY_AFTER_SECONDS = 2
"""When asking again makes sense after 503: about the time in which a restarted runtime is seen to be ready."""


class RequestTooLarge(InvalidInput):
    """The body, or the number of images in it, is over the limit."""


class UnknownModel(InvalidInput):
    """The service has one model, and it is not called so."""


class UnknownRequest(InvalidInput):
    """No answer is kept under this id."""


class FeedbackDisabled(InvalidInput):
    """The deployment takes no feedback."""


class SlowRequest(FoveaError):
    """The body did not come in time."""


class DeadlineExceeded(FoveaError):
    """The answer was not there in `timeoutSeconds`; the request was given up."""


class ClientDisconnected(FoveaError):
    """The client closed its connection before the answer was there; nobody reads this."""


STATUSES: tuple[tuple[type[FoveaError], HTTPStatus], ...] = (
    (RequestTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnknownModel, HTTPStatus.NOT_FOUND),
    (UnknownRequest, HTTPStatus.NOT_FOUND),
    (FeedbackDisabled, HTTPStatus.CONFLICT),
    (ImageTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedImage, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (InvalidImage, HTTPStatus.UNPROCESSABLE_ENTITY),
    (InvalidInput, HTTPStatus.BAD_REQUEST),
    (Overloaded, HTTPStatus.TOO_MANY_REQUESTS),
    (UpstreamUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (UpstreamFailed, HTTPStatus.BAD_GATEWAY),
    (DeadlineExceeded, HTTPStatus.GATEWAY_TIMEOUT),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (SlowRequest, HTTPStatus.REQUEST_TIMEOUT),
)
"""The first class that fits decides."""


def status_of(error: FoveaError) -> HTTPStatus:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem_json(error: FoveaError, request_id: str) -> dict[str, JsonValue]:
    """The problem details of an error."""
    return {
        "type": "about:blank",
        "title": error.reason,
        "status": status_of(error).value,
        "detail": str(error),
        "requestId": request_id,
    }


def problem(error: FoveaError, request_id: str) -> Response:
    """The answer to a request that failed."""
    headers = {"X-Request-Id": request_id}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif isinstance(error, UpstreamUnavailable):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        json.dumps(problem_json(error, request_id)), status_of(error).value, headers, "application/problem+json"
    )
