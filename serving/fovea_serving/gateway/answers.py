"""Answers as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import cv2
from fovea_api.modeldeployment import Inference
from pydantic import JsonValue
from starlette.responses import Response

from fovea_serving.gateway.gateway import Answered, Call
from fovea_serving.gateway.routing import Served
from fovea_serving.pipeline import decode
from fovea_serving.upstreams import Answer, InvalidOptions

JPEG_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 90)


def answer_json(call: Call, answered: Answered) -> dict[str, JsonValue]:
    """The answer to `/v1/predict`: one prediction for each image, in order."""
    manifest = answered.version.model.manifest
    return {
        "requestId": call.request_id,
        "model": {"run": manifest.lineage.run, "digest": answered.version.model.digest, "task": manifest.task.value},
        "predictions": [prediction_json(answer, manifest.classes) for answer in answered.answers],
        "milliseconds": round(1000 * (call.seconds or 0), 2),
    }


def prediction_json(answer: Answer, classes: Sequence[str]) -> dict[str, JsonValue]:
    """The prediction of one image, with its size in pixels."""
    return {
        "width": answer.width,
        "height": answer.height,
        **answer.prediction.to_dict(classes, masks=True),
    }


def model_json(model: Served, inference: Inference) -> dict[str, JsonValue]:
    """What a client may want to know of a model."""
    manifest = model.manifest
    own = manifest.postprocessing.confidence_threshold
    return {
        "run": manifest.lineage.run,
        "digest": model.digest,
        "task": manifest.task.value,
        "architecture": manifest.architecture,
        "classes": list(manifest.classes),
        "confidenceThreshold": own if inference.confidence_threshold is None else inference.confidence_threshold,
        "input": {"width": manifest.preprocessing.size.width, "height": manifest.preprocessing.size.height},
    }


async def picture_response(call: Call, answered: Answered, images: Sequence[bytes]) -> Response:
    """The one image as JPEG with the prediction drawn on it. Raises InvalidOptions where there are several."""
    if len(images) != 1:
        raise InvalidOptions("several images cannot be one picture", "render", "send one image")
    (answer,), classes = answered.answers, answered.version.model.manifest.classes

    def draw() -> bytes:
        drawn = answer.prediction.draw(decode(images[0]), classes)
        return cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), JPEG_QUALITY)[1].tobytes()

    headers = {"X-Request-Id": call.request_id, "X-Fovea-Run": answered.version.model.manifest.lineage.run}
    return Response(await asyncio.to_thread(draw), headers=headers, media_type="image/jpeg")


def json_response(content: Mapping[str, JsonValue]) -> Response:
    """Compact JSON."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    headers = {"X-Request-Id": str(content["requestId"])} if "requestId" in content else None
    return Response(text, headers=headers, media_type="application/json")
