"""The server's addresses, described: OpenAPI for programs, a plain page for people."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pconv_deploy.serving.fill import MEDIA_TYPES
from pconv_deploy.serving.fill_fields import FIELDS

ERRORS: Final = {
    400: "The request is malformed.",
    401: "No key, or a wrong one.",
    404: "No such engine.",
    408: "The body came too slowly.",
    413: "The body or a picture is too large.",
    415: "Another content type than the one needed.",
    422: "A picture or mask that cannot be used.",
    500: "The engine failed.",
    503: "Too many requests wait, or the engine is not warm yet; see Retry-After.",
}
_HEADERS: Final = {
    "X-Hole-Share": "Share of the photo that was filled, 0 to 1.",
    "X-Batch-Size": "Images that shared the run of the engine; 0: there was no hole.",
    "X-Note": "What looks like a mistake, percent-encoded; may come several times.",
    **{
        f"X-{stage}-Ms": f"Milliseconds: {meaning}."
        for stage, meaning in {
            "Queue": "waiting for a turn",
            "Decode": "reading the pictures",
            "Pre": "finding the hole, padding",
            "Infer": "the engine",
            "Post": "putting the result together",
            "Encode": "writing the picture",
            "Total": "all of these",
        }.items()
    },
}
_POLICY: Final = "default-src 'none'; style-src 'self'; frame-ancestors 'none'"


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document, as JSON has it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pconv-deploy",
            "version": version("pconv-deploy"),
            "description": "Fills holes in photos. A mask is drawn over the photo as viewers show "
            "it, white = to be filled; every known pixel comes back unchanged in formats without "
            "loss.",
        },
        "paths": _fill() | _infer() | _plain(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "string",
                            "description": "What was wrong, and what to do.",
                        },
                        "kind": {"type": "string", "description": "Class of the error."},
                    },
                }
            },
        },
        # Where the server has keys.
        "security": [{}, {"bearer": []}, {"header": []}],
    }


def openapi_routes() -> Sequence[BaseRoute]:
    """`/openapi.json` and `/docs`."""
    described = document()
    page = _page(described)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(described)

    async def docs(_request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def _fill() -> dict[str, Any]:
    files = {
        "image": ("The photo: PNG, JPEG, WebP, TIFF and others that `infer` takes.", "image"),
        "mask": ("The hole mask, a picture of the photo's size.", "mask"),
    }
    properties: dict[str, Any] = {
        name: {"type": "string", "format": "binary", "description": meaning}
        for name, (meaning, _) in files.items()
    }
    properties |= {
        name: {**field.schema, "description": field.meaning} for name, field in FIELDS.items()
    }
    form = {"type": "object", "required": list(files), "properties": properties}
    picture = {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()
    }
    headers = {
        name: {"schema": {"type": "string"}, "description": meaning}
        for name, meaning in _HEADERS.items()
    }
    fill = _operation(
        "Fill the hole of a photo",
        {"description": "The filled photo.", "content": picture, "headers": headers},
        parameters=[_MODEL],
        requestBody={"required": True, "content": {"multipart/form-data": {"schema": form}}},
    )
    return {"/v1/models/{model}/fill": {"post": fill}}


def _plain() -> dict[str, Any]:
    """Addresses that take nothing but the name of an engine."""
    told = {
        "/v1/models": "Which engines there are, and the server's limits",
        "/v1/examples": "Photos to try",
        "/v2": "The server's name, version and extensions",
        "/v2/health/live": "Whether the server runs",
        "/v2/health/ready": "Whether every engine is warm",
        "/v2/models/{model}": "Tensors of an engine",
        "/v2/models/{model}/ready": "Whether an engine is warm",
        "/v2/models/{model}/config": "Tensors of an engine, as Triton describes them",
        "/v2/models/{model}/stats": "Counts and durations",
        "/metrics": "Counts and durations, for Prometheus",
        "/openapi.json": "This document",
        "/docs": "This document, for people",
    }
    return {
        path: {"get": _operation(what, parameters=[_MODEL] if "{model}" in path else [])}
        for path, what in told.items()
    }


def _infer() -> dict[str, Any]:
    body = {
        "application/json": {"schema": {"type": "object"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    infer = _operation(
        "Fill the holes of tensors, or of files as BYTES, by KServe's protocol, version 2: inputs "
        "image and hole_mask, output filled",
        {"description": "The output.", "content": body},
        parameters=[_MODEL],
        requestBody={"required": True, "content": body},
    )
    return {"/v2/models/{model}/infer": {"post": infer}}


_MODEL: Final = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "Name of an engine, as /v1/models has it.",
}


def _operation(
    summary: str, answer: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    refused = {
        str(status): {"description": why, "content": {"application/json": {"schema": schema}}}
        for status, why in ERRORS.items()
    }
    needed = refused if "requestBody" in more else {}
    return {
        "summary": summary,
        **{key: value for key, value in more.items() if value},
        "responses": {"200": answer or {"description": "As it says."}} | needed,
    }


def _page(described: Mapping[str, Any]) -> str:
    """A page without scripts."""
    parts = [f"<p>{escape(described['info']['description'])}</p>"]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation['summary'])}.</p>")
            parts += _tables(operation)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>pconv-deploy: addresses</title>"
        '<link rel="stylesheet" href="page/docs.css">'
        f"<h1>pconv-deploy {escape(described['info']['version'])}</h1>{''.join(parts)}"
        '<p>For programs: <a href="openapi.json">openapi.json</a>. To paint: <a href=".">the '
        "page</a>.</p></html>"
    )


def _tables(operation: Mapping[str, Any]) -> list[str]:
    tables = []
    content = operation.get("requestBody", {}).get("content", {})
    if form := content.get("multipart/form-data"):
        rows = {
            name: f"{facts['description']} {_values(facts)}"
            for name, facts in form["schema"]["properties"].items()
        }
        tables.append(_table("Fields of the form", rows))
    if headers := operation["responses"]["200"].get("headers"):
        rows = {name: facts["description"] for name, facts in headers.items()}
        tables.append(_table("Headers of the answer", rows))
    if errors := {k: v["description"] for k, v in operation["responses"].items() if k != "200"}:
        tables.append(_table("Errors, as JSON with the key error", errors))
    return tables


def _values(facts: Mapping[str, Any]) -> str:
    if "enum" in facts:
        values = "One of " + ", ".join(facts["enum"]) + "."
    elif "minimum" in facts:
        values = f"{facts['minimum']} to {facts['maximum']}."
    else:
        return ""
    return values + (f" Default: {facts['default']}." if "default" in facts else "")


def _table(caption: str, rows: Mapping[str, str]) -> str:
    body = "".join(
        f"<tr><th scope=row><code>{escape(name)}</code></th><td>{escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{body}</tbody></table>"
