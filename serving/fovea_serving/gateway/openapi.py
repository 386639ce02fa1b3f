"""What the routes say of themselves in OpenAPI: their bodies are raw bytes, which no Python type describes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_FILES = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
    }
}
_IMAGE = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
_CONFIDENCE = "Smallest score of an object; by default the model's own."
_TILE = "Side of the tiles in pixels that a large image is cut into, with a fifth of overlap."
_CHOICES = [
    _parameter("confidence", _CONFIDENCE, {"type": "number", "minimum": 0, "maximum": 1}),
    _parameter("classes", "Names of the classes that are reported, separated by commas.", {"type": "string"}),
    _parameter("tile", _TILE, {"type": "integer", "minimum": 32}),
]
_PICTURE = _parameter("render", "1: the answer is the image with the predictions drawn on it.", {"type": "integer"})
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSALS = {
    str(code): {"description": words, "content": _PROBLEM}
    for code, words in {
        400: "A parameter is wrong.",
        401: "No valid key or token.",
        403: "Whose token it is may not get this ModelDeployment.",
        413: "The body, the image or the number of images is too large.",
        415: "The body is no image of a known format.",
        422: "The image is broken.",
        429: "More is asked than can be answered in time; see Retry-After.",
        503: "No version of the model can answer; see Retry-After.",
        504: "The answer was not there in time.",
    }.items()
}

PREDICT = {
    "parameters": [*_CHOICES, _PICTURE],
    "requestBody": {"required": True, "content": _IMAGE | _FILES},
    "responses": {
        "200": {
            "description": "Predictions in the order of the images. Boxes are [left, top, right, bottom] in pixels of "
            "the upright image; masks are COCO run-length encodings.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Predictions"}}},
        },
        **_REFUSALS,
    },
}
PREDICT_BATCH = {
    "parameters": _CHOICES,
    "requestBody": {"required": True, "content": _FILES},
    "responses": {
        "200": {
            "description": "A line of JSON for each image as soon as it is done, with its index, from 0, and the "
            "prediction or an error.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
        **_REFUSALS,
    },
}
_ANSWER_REFUSALS = {code: _REFUSALS[code] for code in ("400", "401", "403", "413", "503")}
FEEDBACK = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Feedback"}}},
    },
    "responses": {
        "200": {
            "description": "Whether the answer was right, and whether it was counted: each request is counted once, a "
            "later label takes the place of the earlier one.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FeedbackResult"}}},
        },
        "404": {"description": "No answer is kept under this id.", "content": _PROBLEM},
        "409": {"description": "The deployment takes no feedback.", "content": _PROBLEM},
        **_ANSWER_REFUSALS,
    },
}
_BOX = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
_MASK = {
    "type": "object",
    "properties": {"size": {"type": "array", "items": {"type": "integer"}}, "counts": {"type": "string"}},
}
_LABEL: dict[str, Any] = {
    "class": {"type": "string", "description": "The class of the image."},
    "objects": {
        "type": "array",
        "description": "All objects of the image.",
        "items": {"type": "object", "properties": {"class": {"type": "string"}, "box": _BOX, "mask": _MASK}},
    },
    "classes": {
        "type": "array",
        "description": "The pixels of each class.",
        "items": {"type": "object", "properties": {"class": {"type": "string"}, "mask": _MASK}},
    },
}
SCHEMAS: dict[str, Any] = {
    "Feedback": {
        "type": "object",
        "required": ["requestId"],
        "properties": {
            "requestId": {"type": "string"},
            "wrong": {"type": "boolean", "description": "Whether the answer was wrong, where no more is known."},
            **_LABEL,
            "images": {
                "type": "array",
                "description": "For a request of several images: a label for each.",
                "items": {"type": "object", "properties": _LABEL},
            },
        },
    },
    "FeedbackResult": {
        "type": "object",
        "properties": {
            "requestId": {"type": "string"},
            "run": {"type": "string"},
            "right": {"type": "boolean"},
            "counted": {"type": "boolean"},
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "requestId": {"type": "string"},
        },
    },
    "Predictions": {
        "type": "object",
        "properties": {
            "requestId": {"type": "string"},
            "model": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("run", "digest", "task")},
            },
            "milliseconds": {"type": "number"},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "width": {"type": "integer"},
                        "height": {"type": "integer"},
                        "objects": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "class": {"type": "string"},
                                    "score": {"type": "number"},
                                    "box": _BOX,
                                    "pixels": {"type": "integer"},
                                    "mask": _MASK,
                                },
                            },
                        },
                        "classes": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "class": {"type": "string"},
                                    "score": {"type": "number"},
                                    "pixels": {"type": "integer"},
                                    "mask": _MASK,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def describe_schemas(app: FastAPI) -> None:
    """Adds the schemas that the descriptions of the routes refer to."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
