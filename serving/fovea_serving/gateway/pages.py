"""The page for people, and the description of the interface; nothing on them comes from another host."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

TYPES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_pages(app: FastAPI) -> None:
    """Adds `/` and `/docs`. They are open to everybody: what they ask for is not."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(_file("index.html"), headers=HEADERS, media_type="text/html; charset=utf-8")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in TYPES:
            raise HTTPException(404)
        return Response(_file(name), headers=HEADERS, media_type=TYPES[name])

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(describe(app.openapi()), headers=HEADERS, media_type="text/html; charset=utf-8")


def describe(schema: Mapping[str, Any]) -> str:
    """An OpenAPI document as a page that needs no script."""
    sections = "".join(
        _operation(method.upper(), path, operation)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    )
    title = html.escape(schema["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP interface</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="page/page.css"></head><body>'
        f'<header><h1>{title}</h1><p>HTTP interface; for programs: <a href="openapi.json">openapi.json</a></p></header>'
        f'<main>{sections}</main><footer><a href="./">Try an image</a></footer></body></html>'
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{html.escape(each['name'])}</code></td><td>{html.escape(each.get('description', ''))}</td></tr>"
        for each in operation.get("parameters", [])
    )
    table = f"<table><thead><tr><th>Parameter</th><th></th></tr></thead><tbody>{parameters}</tbody></table>"
    bodies = ", ".join(operation.get("requestBody", {}).get("content", {}))
    answers = "".join(
        f"<tr><td>{html.escape(code)}</td><td>{html.escape(each.get('description', ''))}</td></tr>"
        for code, each in operation.get("responses", {}).items()
    )
    return (
        f"<section><h2><code>{method} {html.escape(path)}</code></h2>"
        f"<p>{html.escape(operation.get('description', operation.get('summary', '')))}</p>"
        + (table if parameters else "")
        + (f"<p>Body: {html.escape(bodies)}</p>" if bodies else "")
        + f"<table><thead><tr><th>Status</th><th></th></tr></thead><tbody>{answers}</tbody></table></section>"
    )


def _file(name: str) -> bytes:
    return (files(__package__) / "page" / name).read_bytes()
