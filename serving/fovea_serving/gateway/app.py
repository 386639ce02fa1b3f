"""The routes."""

from __future__ import annotations

import time

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fovea_api.errors import FoveaError
from pydantic import JsonValue

from fovea_serving.gateway.answers import answer_json, json_response
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.problems import problem
from fovea_serving.gateway.requests import options_of, read_images, request_id_of
from fovea_serving.gateway.settings import Settings


def create_app(gateway: Gateway, settings: Settings) -> FastAPI:
    """The application that answers requests."""
    app = FastAPI(title="Fovea", docs_url=None, redoc_url=None)

    @app.post("/v1/predict")
    async def predict(request: Request) -> Response:
        """Predicts one image (the body) or several (files of a multipart form)."""
        begun = time.perf_counter()
        request_id = request_id_of(request)
        images = await read_images(request, settings.max_request_bytes, settings.max_images)
        version = gateway.routing.choose(request_id)
        options = options_of(request.query_params, version.manifest, gateway.defaults)
        answers = await gateway.predict(version, images, options)
        return json_response(answer_json(request_id, version, answers, time.perf_counter() - begun))

    add_probes(app, gateway)
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

    @app.get("/readyz")
    async def readyz() -> dict[str, JsonValue]:
        """Whether requests can be answered; 503 says why not."""
        await gateway.ready()
        return {"status": "ready"}
