"""The routes."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from fovea_api.errors import FoveaError
from pydantic import JsonValue

from fovea_serving.gateway.answers import answer_json, json_response, model_json, picture_response
from fovea_serving.gateway.bulk import predict_lines
from fovea_serving.gateway.feedback import MAX_BYTES, take_feedback
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.label_studio import add_label_studio
from fovea_serving.gateway.open_inference_http import add_open_inference
from fovea_serving.gateway.openapi import FEEDBACK, PREDICT, PREDICT_BATCH, describe_schemas
from fovea_serving.gateway.pages import add_pages
from fovea_serving.gateway.problems import SlowRequest, problem
from fovea_serving.gateway.requests import client_of, options_of, read_body, read_images, request_id_of, while_connected
from fovea_serving.gateway.settings import Settings
from fovea_serving.upstreams import UpstreamUnavailable


def create_app(gateway: Gateway, settings: Settings) -> FastAPI:
    """The application that answers requests."""
    app = FastAPI(title="Fovea", version=version("fovea"), docs_url=None, redoc_url=None)

    async def images_of(request: Request, most: int = settings.max_images) -> list[bytes]:
        await gateway.authenticator.check(request.headers)
        try:
            async with asyncio.timeout(gateway.inference.timeout_seconds):
                return await read_images(request, settings.max_request_bytes, most)
        except TimeoutError:
            limit = f"{gateway.inference.timeout_seconds:g} s"
            raise SlowRequest(f"the request's body was not there after {limit}") from None

    @app.post("/v1/predict", openapi_extra=PREDICT)
    async def predict(request: Request) -> Response:
        """Predicts one image (the body) or several (files of a multipart form)."""
        with gateway.call(request_id_of(request), client_of(request, gateway.name)) as call:
            images = await images_of(request)
            choice = partial(options_of, request.query_params)
            answered = await while_connected(request, gateway.predict(call, images, choice))
            if request.query_params.get("render", "0") in ("0", "false"):
                return json_response(answer_json(call, answered))
            return await picture_response(call, answered, images)

    @app.post("/v1/predict:batch", openapi_extra=PREDICT_BATCH)
    async def predict_batch(request: Request) -> Response:
        """Predicts many images (files of a multipart form); each is a line of the answer as soon as it is there."""
        request_id = request_id_of(request)
        images = await images_of(request, settings.max_batch_images)
        client = client_of(request, gateway.name)
        lines = predict_lines(gateway, request_id, client, images, partial(options_of, request.query_params))
        return StreamingResponse(lines, headers={"X-Request-Id": request_id}, media_type="application/x-ndjson")

    @app.post("/v1/feedback", openapi_extra=FEEDBACK)
    async def feedback(request: Request) -> Response:
        """Says what is right for a request that was answered, by its id."""
        await gateway.authenticator.check(request.headers)
        body = await read_body(request, MAX_BYTES)
        return json_response(await take_feedback(gateway.monitor, body))

    @app.get("/v1/model")
    async def model(request: Request) -> dict[str, JsonValue]:
        """The model that answers most requests: its run, task, classes and threshold."""
        await gateway.authenticator.check(request.headers)
        return model_json(gateway.routing.main.model, gateway.inference)

    add_open_inference(app, gateway, settings)
    add_label_studio(app, gateway, settings)
    add_probes(app, gateway)
    add_pages(app)
    describe_schemas(app)
    return app


def add_probes(app: FastAPI, gateway: Gateway) -> None:
    """Adds `/healthz` and `/readyz`, and errors in words."""

    @app.exception_handler(FoveaError)
    async def explain(request: Request, error: FoveaError) -> Response:
        return problem(error, request_id_of(request))

    @app.get("/healthz")
    async def healthz() -> dict[str, JsonValue]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/startz")
    async def startz() -> dict[str, JsonValue]:
        """Whether a configuration has been taken in: from then on a pod answers, be it with 503 and the reason."""
        if not gateway.configured or gateway.draining:
            raise UpstreamUnavailable("no configuration has been applied yet")
        return {"status": "started"}

    @app.get("/readyz")
    async def readyz() -> dict[str, JsonValue]:
        """Whether requests can be answered; 503 says why not."""
        await gateway.ready()
        return {"status": "ready"}
