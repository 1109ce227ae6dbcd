"""The OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from backends.http.codecs.oip_binary import LENGTH, MEDIA_TYPE
from backends.server import schemas
from backends.server.model import VERSION, Model

__all__ = ["BYTES", "OPEN", "Route", "complete"]

OPEN = {"/v2/health/live", "/v2/health/ready"}
"""Paths that need no API key."""
BYTES = {"schema": {"type": "string", "format": "binary"}}
"""The OpenAPI schema of a binary body."""


class Route:
    """Adds paths of one HTTP method, with their entries in the OpenAPI document."""

    def __init__(self, app: FastAPI, verb: str, responses: dict[int | str, dict[str, Any]]) -> None:
        self._app, self._verb, self._responses = app, verb, responses

    def __call__(self, path: str, handler: Callable[..., Any], model: type, models: Mapping[str, Model] | None = None) -> None:
        """Add ``path``: ``handler`` gives a body of the schema ``model``; the path may contain the name of one of ``models``."""
        extra: dict[str, Any] = {"parameters": []}
        if "{model}" in path:
            extra["parameters"] += [_parameter("model", "path", {"type": "string", "enum": list(models or {})})]
        if "{version}" in path:
            extra["parameters"] += [_parameter("version", "path", {"type": "string", "enum": [VERSION]})]
        if self._verb == "POST":
            examples = {name: {"value": model.example()} for name, model in (models or {}).items()}
            schema = {"$ref": "#/components/schemas/InferenceRequest"}
            extra["parameters"] += [_parameter(LENGTH, "header", {"type": "integer", "minimum": 1}, required=False)]
            content = {"application/json": {"schema": schema, "examples": examples}, MEDIA_TYPE: BYTES}
            extra["requestBody"] = {"required": True, "content": content}
        if path in OPEN:
            extra["security"] = []
        responses = {**self._responses, 200: {**self._responses[200], "model": model}, "4XX": {"model": schemas.Error}}
        self._app.add_api_route(
            path, handler, methods=[self._verb], response_model=None, responses=responses, openapi_extra=extra
        )


def _parameter(name: str, place: str, schema: dict[str, Any], required: bool = True) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def complete(document: dict[str, Any], locked: bool) -> None:
    """Add the schema of requests, and the API key, to the OpenAPI document."""
    _, requests = models_json_schema(
        [(schemas.InferenceRequest, "validation")], ref_template="#/components/schemas/{model}"
    )  # fmt: skip
    document["components"]["schemas"] |= requests["$defs"]
    if locked:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{"bearer": []}, {"key": []}]
