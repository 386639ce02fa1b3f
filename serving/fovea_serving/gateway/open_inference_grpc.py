"""The Open Inference Protocol over gRPC. The messages are those that tritonclient brings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from importlib.metadata import version as package_version
from typing import Any

import grpc
import numpy as np
from fovea_api.errors import FoveaError
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as services

from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.open_inference import Tensor, check_model, chosen, infer, metadata, model_name
from fovea_serving.gateway.problems import status_of
from fovea_serving.gateway.requests import clean_request_id, digest_of
from fovea_serving.gateway.settings import Settings
from fovea_serving.upstreams import UpstreamUnavailable

CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""By the status of HTTP; other 4xx are INVALID_ARGUMENT, the rest is INTERNAL."""

Method = Callable[[Any, Any, Any], Awaitable[Any]]


def grpc_server(gateway: Gateway, settings: Settings) -> grpc.aio.Server:
    """A server that listens on `settings.grpc_port` once it is started; messages may be as large as bodies of HTTP."""
    limits = [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 1),
    ]
    server = grpc.aio.server(options=limits)
    services.add_GRPCInferenceServiceServicer_to_server(_Service(gateway), server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    server.add_insecure_port(f"{host}:{settings.grpc_port}")
    return server


def _explained(method: Method) -> Method:
    """Errors as gRPC states them."""

    @wraps(method)
    async def wrapped(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except FoveaError as error:
            status = status_of(error).value
            code = CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL)
            await context.abort(code, str(error))

    return wrapped


class _Service(services.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=await self._ready())

    @_explained
    async def ModelReady(self, request: Any, context: Any) -> Any:
        check_model(self._gateway, request.name)
        return pb.ModelReadyResponse(ready=await self._ready())

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="fovea", version=package_version("fovea"))

    @_explained
    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        await self._gateway.authenticator.check(_headers(context))
        return pb.ModelMetadataResponse(**metadata(self._gateway, request.name))

    @_explained
    async def ModelInfer(self, request: Any, context: Any) -> Any:
        with self._gateway.call(clean_request_id(request.id), _client(context, self._gateway.name)) as call:
            await self._gateway.authenticator.check(_headers(context))
            parameters = {key: _value(value) for key, value in request.parameters.items()}
            version, outputs = await infer(self._gateway, call, request.model_name, _inputs(request), parameters)
            tensors = chosen(outputs, [each.name for each in request.outputs])
            response = pb.ModelInferResponse(
                model_name=model_name(self._gateway), model_version=version.name, id=request.id
            )
            for tensor in tensors:
                response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
                response.raw_output_contents.append(tensor.to_bytes())
            return response

    async def _ready(self) -> bool:
        try:
            await self._gateway.ready()
        except UpstreamUnavailable:
            return False
        return True


def _inputs(request: Any) -> list[Tensor]:
    tensors = []
    for index, each in enumerate(request.inputs):
        if index < len(request.raw_input_contents):
            raw = request.raw_input_contents[index]
            tensors.append(Tensor.from_bytes(each.name, each.datatype, each.shape, raw))
        elif each.datatype == "BYTES":
            tensors.append(Tensor.of_strings(each.name, list(each.contents.bytes_contents), each.shape))
        else:
            raw = np.asarray(each.contents.uint_contents, np.uint8).tobytes()
            tensors.append(Tensor.from_bytes(each.name, each.datatype, each.shape, raw))
    return tensors


def _headers(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _client(context: Any, deployment: str) -> str:
    """A digest of who asks. gRPC names a peer `ipv4:10.1.2.3:4711`, with another port on each connection."""
    return digest_of(_headers(context), context.peer().rpartition(":")[0], deployment)


def _value(parameter: Any) -> object:
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))
