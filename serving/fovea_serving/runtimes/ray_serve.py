"""A model version as an application of Ray Serve: the whole way from image bytes to predictions, in its replicas.

    applications:
    - name: r-0123456789
      route_prefix: /r-0123456789
      import_path: fovea_serving.runtimes.ray_serve:app
      args: {bundle: "s3://…", precision: INT8}
      deployments:
      - {name: Model, user_config: {confidenceThreshold: 0.4, batching: {maxSize: 8}}}   # spec.inference

Each version is an application of its own, so that one comes or goes without the others' replicas. Changed `args` start
its replicas anew, a changed `user_config` none: it reaches those that run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import ray
from fovea_api.common import BundleUri
from fovea_api.common import Model as ApiModel
from fovea_api.errors import FoveaError, InvalidManifest, Recoverable
from fovea_api.modeldeployment import Inference
from pydantic import JsonValue, ValidationError
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.bundle import Bundle
from fovea_serving.fetch import fetch_bundle
from fovea_serving.gateway.problems import problem
from fovea_serving.golden import GoldenImage
from fovea_serving.predictor import Predictor
from fovea_serving.upstreams.base import PredictOptions, UpstreamFailed
from fovea_serving.upstreams.local import LocalUpstream
from fovea_serving.upstreams.wire import CONTENT_TYPE, read_request, write_answers

MAX_BATCH = 1024
"""The largest `batching.maxSize`; which one counts, `reconfigure` says."""
GOLDEN_SECONDS = 60.0
"""Between two looks at the golden image; that a replica's process has died is noticed by Ray itself, at each check."""

STORE_SECONDS, PAUSE_SECONDS = 60, 5
"""How long a store that does not answer is waited for, before that is an error; and between two attempts."""

log = logging.getLogger(__name__)


class ApplicationArgs(ApiModel):
    """What an application is made of."""

    bundle: BundleUri
    """Where the bundle lies."""
    precision: Literal["FP32", "INT8"] | None = None
    """Which exported form is served. Absent: the bundle's own choice."""
    store_credentials: str | None = None
    """Folder of a mounted Secret with the store's credentials. Absent: the environment's."""
    public_key: str | None = None
    """File with the public key of whoever must have signed the bundle. Absent: it need not be signed."""


class Model:
    """A replica: one loaded model."""

    def __init__(self, args: ApplicationArgs) -> None:
        """Loads the bundle. Raises FoveaError, which the application's status shows."""
        with TemporaryDirectory(prefix="fovea-bundle-") as folder:
            bundle = _fetch(args, Path(folder))
            self._threads = _threads()
            stated = bundle.golden(args.precision)
            self._predictor = Predictor.from_bundle(
                bundle, precision=args.precision, threads=self._threads, max_batch=MAX_BATCH
            )
        self._classes = bundle.manifest.classes
        self._inference = Inference()
        self._upstream = LocalUpstream(self._predictor, self._inference.batching, self._threads)
        self._golden = GoldenImage(stated)
        self._next_look = 0.0

    async def reconfigure(self, user_config: Mapping[str, JsonValue]) -> None:
        """Goes by another `spec.inference`; requests under way end by the one before. Raises ValidationError."""
        before, self._inference = self._inference, Inference.model_validate(user_config)
        if self._inference.batching != before.batching:
            old = self._upstream
            self._upstream = LocalUpstream(self._predictor, self._inference.batching, self._threads)
            await old.close()

    async def check_health(self) -> None:
        """Ray replaces a replica that does not answer, or whose golden image gets another answer than the known one."""
        if time.monotonic() >= self._next_look:
            await self._golden.check(self._upstream)
            self._next_look = time.monotonic() + GOLDEN_SECONDS

    async def __call__(self, request: Request) -> Response:
        """Answers the gateway in the format of `upstreams.wire`, and whoever posts one image in JSON."""
        body = await request.body()
        try:
            if request.headers.get("content-type") == CONTENT_TYPE:
                images, options = read_request(body)
                if options.confidence is None:
                    options = replace(options, confidence=self._inference.confidence_threshold)
                answers = await self._upstream.predict(images, options)
                return Response(write_answers(answers), media_type=CONTENT_TYPE)
            inference = self._inference
            options = PredictOptions(inference.confidence_threshold, max_detections=inference.max_detections)
            (answer,) = await self._upstream.predict([body], options)
            return JSONResponse(answer.prediction.to_dict(self._classes, masks=True))
        except FoveaError as error:
            failure = error
        except Exception as error:  # else Ray answers as if the replica had died, and the request was asked again
            log.exception("the request failed")
            failure = UpstreamFailed(f"{type(error).__name__}: {error}")
        return problem(failure, request.headers.get("x-request-id", ""))


def app(args: Mapping[str, JsonValue]) -> serve.Application:
    """What `import_path` names, with the application's `args`. Raises InvalidManifest."""
    try:
        parsed = ApplicationArgs.model_validate(args)
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "args") from error
    deployment = serve.deployment(
        name="Model",
        max_ongoing_requests=64,  # more than a batch, so that the next one fills while one runs; the gateway limits
        health_check_period_s=5,  # a process that died is noticed by the next check, and replaced
        graceful_shutdown_timeout_s=30,
        logging_config={"enable_access_log": False},  # the gateway counts and logs requests
    )(Model)
    return deployment.bind(parsed)


def _fetch(args: ApplicationArgs, folder: Path) -> Bundle:
    """The bundle; a store that is away is waited for, since Ray gives an application up after three failures."""
    key = Path(args.public_key) if args.public_key is not None else None
    for _ in range(STORE_SECONDS // PAUSE_SECONDS):
        try:
            return fetch_bundle(args.bundle, folder, args.store_credentials, key)
        except Recoverable as error:
            log.warning("waiting for the bundle: %s", error)
            time.sleep(PAUSE_SECONDS)
    return fetch_bundle(args.bundle, folder, args.store_credentials, key)


def _threads() -> int:
    """As many as Ray has given the replica CPUs, so that replicas on one node do not crowd each other out."""
    assigned = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    return max(1, min(int(assigned) or usable_cpus(), usable_cpus()))
