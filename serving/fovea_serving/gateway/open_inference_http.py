"""The Open Inference Protocol over HTTP, in JSON and with the extension for binary tensors."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fovea_api.errors import InvalidInput

from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.open_inference import (
    DTYPES,
    Tensor,
    check_model,
    chosen,
    infer,
    metadata,
    model_name,
)
from fovea_serving.gateway.requests import client_of, read_body, request_id_of, while_connected
from fovea_serving.gateway.settings import Settings

HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ["binary_tensor_data"]


def add_open_inference(app: FastAPI, gateway: Gateway, settings: Settings) -> None:
    """Adds the routes below `/v2`."""

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        """The server's name and extensions."""
        return {"name": "fovea", "version": package_version("fovea"), "extensions": EXTENSIONS}

    @app.get("/v2/health/live")
    async def live() -> Response:
        """Whether the process answers."""
        return Response()

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        """Whether requests can be answered."""
        await gateway.ready()
        return Response()

    @app.get("/v2/models/{name}/versions/{version}/ready", include_in_schema=False)
    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> Response:
        """Whether the model can be asked."""
        check_model(gateway, name)
        await gateway.ready()
        return Response()

    @app.get("/v2/models/{name}/versions/{version}", include_in_schema=False)
    @app.get("/v2/models/{name}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """Inputs and outputs of the model."""
        await gateway.authenticator.check(request.headers)
        return metadata(gateway, name)

    @app.post("/v2/models/{name}/versions/{version}/infer", include_in_schema=False)
    @app.post("/v2/models/{name}/infer")
    async def infer_model(name: str, request: Request) -> Response:
        """Predicts the images of the input `image` or `pixels`."""
        with gateway.call(request_id_of(request), client_of(request, gateway.name)) as call:
            await gateway.authenticator.check(request.headers)
            body = await read_body(request, settings.max_request_bytes)
            content, raw = _split(body, request.headers.get(HEADER_LENGTH))
            inputs = _inputs(content, raw)
            parameters: Mapping[str, Any] = content.get("parameters") or {}
            wanted: Sequence[Mapping[str, Any]] = content.get("outputs") or []
            own = {key: value for key, value in parameters.items() if key != "binary_data_output"}
            version, outputs = await while_connected(request, infer(gateway, call, name, inputs, own))
            tensors = chosen(outputs, [each["name"] for each in wanted])
            default = bool(parameters.get("binary_data_output"))
            binary = {each["name"]: (each.get("parameters") or {}).get("binary_data", default) for each in wanted}
            return _answer(
                {
                    "model_name": model_name(gateway),
                    "model_version": version.name,
                    **({"id": content["id"]} if "id" in content else {}),
                },
                tensors,
                {tensor.name: bool(binary.get(tensor.name, default)) for tensor in tensors},
            )


def _split(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON part of a body, and the binary one."""
    try:
        size = len(body) if length is None else int(length)
        content = json.loads(body[:size])
    except (ValueError, RecursionError) as error:  # the latter for very many brackets
        raise InvalidInput(f"the request is no JSON: {error}", "body", "see GET /v2/models/NAME") from error
    if not isinstance(content, dict) or not 0 <= size <= len(body):
        raise InvalidInput("the request is no JSON object", "body", "see GET /v2/models/NAME")
    return content, body[size:]


def _inputs(content: Mapping[str, Any], raw: bytes) -> list[Tensor]:
    tensors = []
    try:
        for each in content.get("inputs", ()):
            name, datatype, shape = str(each["name"]), str(each["datatype"]), [int(side) for side in each["shape"]]
            size = (each.get("parameters") or {}).get("binary_data_size")
            if size is not None:
                tensors.append(Tensor.from_bytes(name, datatype, shape, raw[: int(size)]))
                raw = raw[int(size) :]
            elif datatype == "BYTES":
                values = [base64.b64decode(text, validate=True) for text in np.ravel(each["data"]).tolist()]
                tensors.append(Tensor.of_strings(name, values, shape))
            else:
                data = np.asarray(each["data"], DTYPES[datatype]).reshape(shape)
                tensors.append(Tensor(name, data))
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        words = f"an input is wrong: {type(error).__name__}: {error}"
        raise InvalidInput(words, "inputs", "give name, shape, datatype and data; BYTES in JSON as base64") from error
    return tensors


def _answer(head: dict[str, Any], tensors: Sequence[Tensor], binary: Mapping[str, bool]) -> Response:
    described, raw = [], []
    for tensor in tensors:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.data.shape),
        }
        if binary[tensor.name]:
            raw.append(tensor.to_bytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            flat = tensor.data.ravel().tolist()
            entry["data"] = [each.decode() for each in flat] if tensor.datatype == "BYTES" else flat
        described.append(entry)
    content = head | {"outputs": described}
    if not raw:
        return JSONResponse(content)
    text = json.dumps(content).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return Response(text + b"".join(raw), headers=headers, media_type="application/octet-stream")
