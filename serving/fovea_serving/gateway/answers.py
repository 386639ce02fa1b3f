"""Answers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from starlette.responses import Response

from fovea_serving.gateway.gateway import Answered
from fovea_serving.upstreams import Answer


def answer_json(request_id: str, answered: Answered, seconds: float) -> dict[str, JsonValue]:
    """The answer to `/v1/predict`: one prediction for each image, in order."""
    manifest = answered.version.model.manifest
    return {
        "requestId": request_id,
        "model": {"run": manifest.lineage.run, "digest": answered.version.model.digest, "task": manifest.task.value},
        "predictions": [prediction_json(answer, manifest.classes) for answer in answered.answers],
        "milliseconds": round(1000 * seconds, 2),
    }


def prediction_json(answer: Answer, classes: Sequence[str]) -> dict[str, JsonValue]:
    """The prediction of one image, with its size in pixels."""
    return {
        "width": answer.width,
        "height": answer.height,
        **answer.prediction.to_dict(classes, masks=True),
    }


def json_response(content: Mapping[str, JsonValue]) -> Response:
    """Compact JSON."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    headers = {"X-Request-Id": str(content["requestId"])} if "requestId" in content else None
    return Response(text, headers=headers, media_type="application/json")
