"""The REST application of the Open Inference Protocol v2: health, metadata and inference, JSON and binary.

Requests from unknown clients are read within `Limits`, so that memory stays bounded: bodies that arrive have their bytes; the few
that are parsed at once at most sixty times that for JSON in general, ten times for numbers in JSON, and no more for binary."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from reprlib import repr as shown  # bounded, whatever it is of

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.base import Backend, InputError
from backends.http.codecs.oip_binary import LENGTH, MEDIA_TYPE
from backends.server import schemas
from backends.server.limits import Limits, error, received, refusal
from backends.server.model import VERSION, Model
from backends.server.openapi import BYTES, OPEN, Route, complete

__all__ = ["application"]


class _Guard:
    """Refuses requests without the API key, but for those to health."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or self._admits(dict(scope["headers"])):
            await self._app(scope, receive, send)
        else:
            refusal = error(401, "this server requires its API key, as Bearer or X-API-Key", {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)

    def _admits(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, self._key)  # in constant time


def application(
    backends: Sequence[Backend], datatype: str = "FP32", limits: Limits | None = None, key: str | None = None
) -> FastAPI:
    """The REST application of ``backends``, each a model under its own name that takes images as ``datatype``.

    A backend runs one query at a time. With ``key``, every request but those to health must contain it.
    """
    limits = limits or Limits()
    models = {backend.info.name: Model(backend, datatype, limits) for backend in backends}
    app = FastAPI(
        title="bbfuse reference server", version="2", redirect_slashes=False, docs_url=None, redoc_url=None,
        description="Open Inference Protocol v2: classifiers on simulated low-voltage memory.",
    )  # fmt: skip
    workers = CapacityLimiter(len(models) + 1)  # one reads the next request while the models compute
    in_progress = 0

    def model_in(request: Request) -> Model:
        name, version = request.path_params["model"], request.path_params.get("version", VERSION)
        if name not in models:
            raise HTTPException(404, f"no model {shown(name)}; this server has {', '.join(models)}")
        if version != VERSION:
            raise HTTPException(404, f"no version {shown(version)} of {name}; this server has {VERSION}")
        return models[name]

    def server() -> JSONResponse:
        return JSONResponse({"name": "bbfuse", "version": "2", "extensions": ["binary_tensor_data"]})

    def live() -> JSONResponse:
        return JSONResponse({"live": True})

    def ready() -> JSONResponse:
        return JSONResponse({"ready": True})

    def metadata(request: Request) -> JSONResponse:
        return JSONResponse(model_in(request).metadata())

    def model_ready(request: Request) -> JSONResponse:
        return JSONResponse({"name": model_in(request).name, "ready": True})

    async def infer(request: Request) -> Response:
        nonlocal in_progress
        model = model_in(request)
        if in_progress >= limits.requests:
            return error(503, f"{limits.requests} requests are in progress", {"Retry-After": "1"})
        in_progress += 1
        try:
            body = await received(request, limits)
            return await to_thread.run_sync(model.respond, body, request.headers.get(LENGTH), limiter=workers)
        except InputError as problem:
            return refusal(problem)
        finally:
            in_progress -= 1

    get = Route(app, "GET", {200: {}})
    get("/v2", server, schemas.ServerMetadata)
    get("/v2/health/live", live, schemas.Live)
    get("/v2/health/ready", ready, schemas.Ready)
    post = Route(app, "POST", {200: {"content": {MEDIA_TYPE: BYTES}}, "5XX": {"model": schemas.Error}})
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        get(path, metadata, schemas.ModelMetadata, models)
        get(f"{path}/ready", model_ready, schemas.ModelReady, models)
        post(f"{path}/infer", infer, schemas.InferenceResponse, models)
    app.add_exception_handler(AnyHTTPException, _unknown)
    app.add_exception_handler(Exception, _fault)
    complete(app.openapi(), key is not None)
    if key is not None:
        app.add_middleware(_Guard, key=key)
    return app


async def _unknown(_: Request, problem: Exception) -> Response:
    """Requests that the framework refuses: an unknown path or method."""
    assert isinstance(problem, AnyHTTPException)
    return error(problem.status_code, str(problem.detail), dict(problem.headers or {}))


async def _fault(_: Request, problem: Exception) -> Response:
    """An unexpected error; the server writes its text to the log, not to the client."""
    return error(500, f"internal error ({type(problem).__name__})")
