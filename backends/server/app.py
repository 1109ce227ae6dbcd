"""The REST surface of the Open Inference Protocol v2 in front of backends: health, metadata and inference, JSON and binary.

Every error has the protocol's shape, ``{"error": "..."}``. What a stranger sends is read within `Limits`, so that memory stays
bounded: bodies that come in have their bytes, and the few that are read at once at most sixty times that, for what a JSON body
holds as Python has it; ten times if it is numbers, and nothing more than its bytes if it is binary.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from reprlib import repr as shown  # bounded, whatever it is of
from typing import Any

import torch
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from backends.base import Backend, InputError, TargetError
from backends.http.codecs.oip_binary import LENGTH, MEDIA_TYPE, packed, unpacked
from backends.http.codecs.oip_json import chip_of, named_tensor, request_body, tensor_of
from backends.server import schemas

__all__ = ["Limits", "application", "error"]

VERSION = "1"
"""The only version of every model."""
_OPEN = {"/v2/health/live", "/v2/health/ready"}


@dataclass(frozen=True)
class Limits:
    """What the server takes; more is refused before it costs memory or time."""

    body_bytes: int = 32 << 20
    """most bytes of a request"""
    batch_size: int = 4096
    """most images of a request; the model's metadata say it as max_batch_size"""
    requests: int = 32
    """most requests under way at once; one more is told to come again"""
    seconds: float = 60.0
    """how long a request's body may take to come in"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"--limits.{name.replace('_', '-')} must be positive, got {value}")


class _Refused(InputError):
    """A request that is refused with another status than 400."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Model:
    """A backend as a model of the protocol: requests in, responses out."""

    def __init__(self, backend: Backend, datatype: str, limits: Limits) -> None:
        self.name = backend.info.name
        self._backend, self._datatype, self._limits = backend, datatype, limits
        self._lock = threading.Lock()

    def metadata(self) -> dict[str, Any]:
        info, limits = self._backend.info, self._limits
        return {
            "name": self.name, "versions": [VERSION], "platform": "pytorch",
            "inputs": [{"name": "images", "datatype": self._datatype, "shape": [-1, *info.image_shape]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, info.classes]}],
            "parameters": {"max_batch_size": limits.batch_size, "max_body_bytes": limits.body_bytes},
        }  # fmt: skip

    def example(self) -> dict[str, Any]:
        """A small request that is answered."""
        return request_body(torch.zeros(1, *self._backend.info.image_shape), chip_of(None), eight_bits=self._datatype == "UINT8")

    def respond(self, body: bytearray, length: str | None) -> Response:
        """The response to the request in ``body``, an error where there is no answer."""
        torch.get_num_threads()  # asking makes the process's number this thread's too; sums round differently with another
        try:
            return self._answer(body, length)
        except InputError as problem:  # here and not in another thread, which would keep the whole request for a while
            return _refused(problem)
        except TargetError as problem:
            return error(500, str(problem))

    def _answer(self, body: bytearray, length: str | None) -> Response:
        content = unpacked(body, length)
        images, chip, binary = self._images(content.get("inputs")), chip_of(content.get("parameters")), _wants_binary(content)
        given = content.get("id")
        if given is not None and not isinstance(given, str):
            raise InputError(f"id must be a string, got {shown(given)}")
        with self._lock:  # one question at a time: a backend has one memory
            logits = self._backend.query(images, chip, lambda _: None)
        if not torch.isfinite(logits).all():
            raise TargetError(f"{self.name} gave numbers that are not finite")
        response = {
            "model_name": self.name, "model_version": VERSION, **({} if given is None else {"id": given}),
            "outputs": [named_tensor("logits", logits, binary)],
        }  # fmt: skip
        if not binary:
            return Response(json.dumps(response, separators=(",", ":")), media_type="application/json")
        whole, header = packed(response)
        return Response(whole, headers={LENGTH: str(header)}, media_type=MEDIA_TYPE)

    def _images(self, inputs: Any) -> Tensor:
        entry = inputs[0] if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) else {}
        for key, due in ("name", "images"), ("datatype", self._datatype):
            if entry and entry.get(key) != due:
                raise InputError(f"inputs[0].{key} must be {due}, got {shown(entry.get(key))}")
        images, sides = tensor_of(inputs, "inputs"), self._backend.info.image_shape
        if images.ndim != 4 or tuple(images.shape[1:]) != sides or not len(images):
            raise InputError(f"inputs[0].shape must be [n, {', '.join(map(str, sides))}], n > 0, got {list(images.shape)}")
        if len(images) > self._limits.batch_size:
            raise _Refused(413, f"inputs[0] may have {self._limits.batch_size} images, got {len(images)}")
        low, high = images.aminmax()
        if not (low >= -1.0 and high <= 1.0):  # also true for NaN
            raise InputError("inputs[0].data must lie in [-1, 1]")
        return images


def _wants_binary(content: dict[str, Any]) -> bool:
    """Whether the answer's data are to be raw bytes: as the request says of its output, or else of all."""
    outputs = content.get("outputs")
    if outputs is not None and not (isinstance(outputs, list) and len(outputs) <= 1):
        raise InputError("outputs must be a list of at most one output")
    wanted = _switch(content, "binary_data_output", "parameters")
    for output in outputs or []:
        if not isinstance(output, dict) or output.get("name") != "logits":
            raise InputError(f"outputs[0].name must be logits, got {shown(output)}")
        chosen = _switch(output, "binary_data", "outputs[0].parameters")
        wanted = wanted if chosen is None else chosen
    return bool(wanted)


def _switch(entry: dict[str, Any], name: str, place: str) -> bool | None:
    """The parameter ``name`` of ``entry``, whose parameters stand at ``place``."""
    parameters = entry.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InputError(f"{place} must be an object, got {shown(parameters)}")
    value = (parameters or {}).get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{place}.{name} must be true or false, got {shown(value)}")
    return value


def error(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the protocol's shape."""
    return Response(json.dumps({"error": words}), status, headers, media_type="application/json")


def _refused(problem: InputError) -> Response:
    return error(problem.status if isinstance(problem, _Refused) else 400, str(problem))


class _Guard:
    """Lets in who has the key; whether the server lives and is ready anyone may ask."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN or self._admits(dict(scope["headers"])):
            await self._app(scope, receive, send)
        else:
            refusal = error(401, "this server wants its API key, as Bearer or X-API-Key", {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)

    def _admits(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, self._key)  # in constant time


def application(
    backends: Sequence[Backend], datatype: str = "FP32", limits: Limits | None = None, key: str | None = None
) -> FastAPI:
    """The REST surface in front of ``backends``, each a model by its own name, which take images as ``datatype``.

    A backend is asked one question at a time. With ``key`` everything but health is for those who send it.
    """
    limits = limits or Limits()
    models = {backend.info.name: _Model(backend, datatype, limits) for backend in backends}
    app = FastAPI(
        title="bbfuse reference server", version="2", redirect_slashes=False, docs_url=None, redoc_url=None,
        description="Open Inference Protocol v2: classifiers on simulated low-voltage memory.",
    )  # fmt: skip
    workers = CapacityLimiter(len(models) + 1)  # while one is answered the next one is read
    under_way = 0

    def model_in(request: Request) -> _Model:
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
        nonlocal under_way
        model = model_in(request)
        if under_way >= limits.requests:
            return error(503, f"{limits.requests} requests are under way", {"Retry-After": "1"})
        under_way += 1
        try:
            body = await _received(request, limits)
            return await to_thread.run_sync(model.respond, body, request.headers.get(LENGTH), limiter=workers)
        except InputError as problem:
            return _refused(problem)
        finally:
            under_way -= 1

    get = _Route(app, "GET", {200: {}})
    get("/v2", server, schemas.ServerMetadata)
    get("/v2/health/live", live, schemas.Live)
    get("/v2/health/ready", ready, schemas.Ready)
    post = _Route(app, "POST", {200: {"content": {MEDIA_TYPE: _BYTES}}, "5XX": {"model": schemas.Error}})
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        get(path, metadata, schemas.ModelMetadata, models)
        get(f"{path}/ready", model_ready, schemas.ModelReady, models)
        post(f"{path}/infer", infer, schemas.InferenceResponse, models)
    app.add_exception_handler(AnyHTTPException, _refusal)
    app.add_exception_handler(Exception, _fault)
    _complete(app.openapi(), key is not None)
    if key is not None:
        app.add_middleware(_Guard, key=key)
    return app


async def _received(request: Request, limits: Limits) -> bytearray:
    """The request's body.

    Raises:
        InputError: it is too long, too slow or broken off.
    """
    too_long = f"the body may have {limits.body_bytes} bytes"
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise _Refused(413, too_long)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise _Refused(413, too_long)
    except TimeoutError:
        raise _Refused(408, f"the body took more than {limits.seconds} s") from None
    except ClientDisconnect:
        raise InputError("the connection broke before the body's end") from None
    return body


async def _refusal(_: Request, problem: Exception) -> Response:
    """What the framework refuses: no such path, no such verb."""
    assert isinstance(problem, AnyHTTPException)
    return error(problem.status_code, str(problem.detail), dict(problem.headers or {}))


async def _fault(_: Request, problem: Exception) -> Response:
    """A bug of ours: its words are for the log, which the server writes."""
    return error(500, f"internal error ({type(problem).__name__})")


_BYTES = {"schema": {"type": "string", "format": "binary"}}


class _Route:
    """Adds paths with what the OpenAPI document says of them."""

    def __init__(self, app: FastAPI, verb: str, responses: dict[int | str, dict[str, Any]]) -> None:
        self._app, self._verb, self._responses = app, verb, responses

    def __call__(self, path: str, answer: Callable[..., Any], model: type, models: dict[str, _Model] | None = None) -> None:
        """``path``, answered by ``answer`` with a body like ``model``; it may name one of ``models``."""
        extra: dict[str, Any] = {"parameters": []}
        if "{model}" in path:
            extra["parameters"] += [_parameter("model", "path", {"type": "string", "enum": list(models or {})})]
        if "{version}" in path:
            extra["parameters"] += [_parameter("version", "path", {"type": "string", "enum": [VERSION]})]
        if self._verb == "POST":
            examples = {name: {"value": model.example()} for name, model in (models or {}).items()}
            schema = {"$ref": "#/components/schemas/InferenceRequest"}
            extra["parameters"] += [_parameter(LENGTH, "header", {"type": "integer", "minimum": 1}, required=False)]
            content = {"application/json": {"schema": schema, "examples": examples}, MEDIA_TYPE: _BYTES}
            extra["requestBody"] = {"required": True, "content": content}
        if path in _OPEN:
            extra["security"] = []
        responses = {**self._responses, 200: {**self._responses[200], "model": model}, "4XX": {"model": schemas.Error}}
        self._app.add_api_route(path, answer, methods=[self._verb], response_model=None, responses=responses, openapi_extra=extra)


def _parameter(name: str, place: str, schema: dict[str, Any], required: bool = True) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _complete(document: dict[str, Any], locked: bool) -> None:
    """Put into the OpenAPI document what no route's answer has: requests, and the key."""
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
