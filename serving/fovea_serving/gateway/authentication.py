"""Who may ask: everybody, whoever has a key, or whoever may get the ModelDeployment."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fovea_api.errors import FoveaError
from fovea_api.names import API_VERSION, GROUP

from fovea_serving.gateway.kubernetes import ApiRefused, ApiServer, ApiUnavailable
from fovea_serving.upstreams import UpstreamUnavailable

KEYS_SECONDS = 5.0
"""Age at which keys are read again: a revoked key works no longer than this after the kubelet wrote the change."""
ALLOWED_SECONDS = 60.0
"""How long a token that was allowed is not reviewed again."""
DENIED_SECONDS = 10.0
"""The same for one that was denied: a right that was just given is waited for no longer."""
STALE_SECONDS = 300.0
"""How long a token that was allowed stays so while the API server is away."""
MAX_TOKENS = 4096
"""Tokens whose verdicts are kept; the ones used longest ago make room."""


class Unauthenticated(FoveaError):
    """Nobody is known by what the request shows: 401."""


class Forbidden(FoveaError):
    """Whoever asks may not: 403."""


class Authenticator(Protocol):
    """Decides over a request by its headers (in lower case)."""

    async def check(self, headers: Mapping[str, str]) -> None:
        """Returns where the request is allowed. Raises Unauthenticated, Forbidden, UpstreamUnavailable."""


class Everybody:
    """Whoever reaches the gateway may ask."""

    async def check(self, headers: Mapping[str, str]) -> None:
        return


class ApiKeys:
    """Keys, which are the contents of the files of a folder: a mounted Secret.

    A request shows one as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of basic
    authentication, which is all that Label Studio can send.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._digests: list[bytes] = []
        self._read_at: float | None = None

    async def check(self, headers: Mapping[str, str]) -> None:
        if self._read_at is None or self._clock() - self._read_at >= KEYS_SECONDS:
            self._digests = await asyncio.to_thread(self._read)
            self._read_at = self._clock()
        if not self._digests:
            raise UpstreamUnavailable("the gateway knows no API key yet")
        shown = _digest(headers.get("x-api-key") or _bearer(headers) or "")
        # Every key is compared, so that the time says nothing about which one was near.
        if not sum(hmac.compare_digest(shown, digest) for digest in self._digests):
            raise Unauthenticated("no valid API key", None, "send one as Authorization: Bearer KEY or X-API-Key: KEY")

    def _read(self) -> list[bytes]:
        keys: list[str] = []
        for file in self._folder.glob("[!.]*"):
            # A key is gone meanwhile, or is no text: that no request can show.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
                keys.append(file.read_text().strip())
        return [_digest(key) for key in keys if key]


@dataclass(frozen=True, slots=True)
class _Decision:
    error: Unauthenticated | Forbidden | None
    at: float

    def fresh(self, now: float) -> bool:
        return now - self.at < (ALLOWED_SECONDS if self.error is None else DENIED_SECONDS)


class ServiceAccountTokens:
    """Tokens of the cluster: the API server says whose they are (TokenReview), and whether that subject may get the
    ModelDeployment (LocalSubjectAccessReview, which a Role can allow). Decisions are kept for a while.
    """

    def __init__(
        self, api: ApiServer, namespace: str, deployment: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._deployment = deployment
        self._clock = clock
        self._decisions: OrderedDict[bytes, _Decision] = OrderedDict()
        self._reviews: dict[bytes, asyncio.Task[_Decision]] = {}

    async def check(self, headers: Mapping[str, str]) -> None:
        token = _bearer(headers)
        if not token:
            raise Unauthenticated("no token", None, "send Authorization: Bearer $(kubectl create token ACCOUNT)")
        decision = await self._decision(token)
        if decision.error is not None:
            raise decision.error

    async def _decision(self, token: str) -> _Decision:
        key = _digest(token)
        known = self._decisions.get(key)
        if known is not None and known.fresh(self._clock()):
            self._decisions.move_to_end(key)
            return known
        if key not in self._reviews:  # requests with the same token wait for one review
            self._reviews[key] = asyncio.create_task(self._review(token))
            self._reviews[key].add_done_callback(lambda _: self._reviews.pop(key))
        try:
            decision = await asyncio.shield(self._reviews[key])
        except (ApiUnavailable, ApiRefused, TimeoutError) as error:
            if known is not None and known.error is None and self._clock() - known.at < STALE_SECONDS:
                return known
            raise UpstreamUnavailable(f"the token cannot be reviewed now: {error}") from error
        self._decisions[key] = decision
        self._decisions.move_to_end(key)
        if len(self._decisions) > MAX_TOKENS:
            self._decisions.popitem(last=False)
        return decision

    async def _review(self, token: str) -> _Decision:
        now = self._clock()
        review = await self._api.post(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}},
        )
        status = review.get("status", {})
        if not status.get("authenticated"):
            return _Decision(Unauthenticated(f"the token is not valid: {status.get('error', 'unknown')}"), now)
        user = status["user"]
        attributes = {
            "group": GROUP,
            "version": API_VERSION.rpartition("/")[2],
            "resource": "modeldeployments",
            "verb": "get",
            "namespace": self._namespace,
            "name": self._deployment,
        }
        access = await self._api.post(
            f"/apis/authorization.k8s.io/v1/namespaces/{self._namespace}/localsubjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "LocalSubjectAccessReview",
                "metadata": {"namespace": self._namespace},
                "spec": {
                    "resourceAttributes": attributes,
                    "user": user.get("username", ""),
                    **{field: user[field] for field in ("groups", "uid", "extra") if field in user},
                },
            },
        )
        if access.get("status", {}).get("allowed"):
            return _Decision(None, now)
        place = f"{self._namespace}/{self._deployment}"
        words = f"{user.get('username')} may not get modeldeployments.{GROUP} {place}"
        return _Decision(Forbidden(words, None, "bind it to a Role with this right, such as fovea-view"), now)


def _bearer(headers: Mapping[str, str]) -> str | None:
    """The token of `Authorization: Bearer`, or the password of `Authorization: Basic`."""
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return shown.strip()
        case "basic":
            with contextlib.suppress(ValueError):  # no base64, no UTF-8, or signs that are in no base64
                return base64.b64decode(shown, validate=True).decode().partition(":")[2]
    return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
