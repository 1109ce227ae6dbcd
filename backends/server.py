"""Reference server: a target on simulated low-voltage memory behind the Open Inference Protocol v2 (REST, JSON).

``python -m backends.server --port 8080`` serves the digits target; the chip goes into a request's ``parameters`` as
``bit_error_rate`` and ``chip_seed``. Errors have the protocol's shape, ``{"error": "..."}``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from backends.flags import parse, refused
from backends.interface import Backend, InputError
from backends.memory.scheme import Memory
from backends.wire import chip_of, named_tensor, tensor_of

__all__ = ["ServerConfig", "application", "main"]

_LARGEST_BODY = 64 << 20
_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


@dataclass(frozen=True)
class ServerConfig:
    """Serve a target over the Open Inference Protocol v2."""

    target: str = "digits"
    """which target; also the model's name in the URL"""
    data: str = "digits"
    """what it is fitted on"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = 0
    """port to listen on; 0 takes a free one"""
    threads: int = 1
    """processor threads"""
    pixels: Literal["float32", "uint8"] = "float32"
    """how images come: numbers in [-1, 1], or 256 levels"""
    stop_with_stdin: bool = False
    """end when standard input is closed, as it is when the process that started this one has gone"""
    memory: Memory = field(default_factory=Memory)


def application(backend: Backend, datatype: str = "FP32") -> FastAPI:
    """The REST surface in front of ``backend``, which takes images as ``datatype``; queries are answered one at a time."""
    app = FastAPI(title="bbfuse reference server", version="2")
    name, info, lock = backend.info.name, backend.info, threading.Lock()

    def error(status: int, message: str) -> JSONResponse:
        return JSONResponse({"error": message}, status_code=status)

    def answer(body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise InputError("the body must be a JSON object")
        inputs = body.get("inputs")
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) and inputs[0].get("datatype") != datatype:
            raise InputError(f"inputs[0].datatype must be {datatype}, got {inputs[0].get('datatype')}")
        images, chip = tensor_of(body.get("inputs"), "inputs"), chip_of(body.get("parameters"))
        if images.ndim != 4 or tuple(images.shape[1:]) != info.image_shape or not len(images):
            raise InputError(
                f"inputs[0].shape must be [n, {', '.join(map(str, info.image_shape))}], n > 0, got {list(images.shape)}"
            )
        if not (images.abs() <= 1.0).all():  # also false for NaN
            raise InputError("inputs[0].data must lie in [-1, 1]")
        with lock:
            logits = backend.query(images, chip, lambda _: None)
        given = {"id": body["id"]} if isinstance(body.get("id"), str) else {}
        return {"model_name": name, **given, "outputs": [named_tensor("logits", logits)]}

    @app.get("/v2")
    def server() -> dict[str, Any]:
        return {"name": "bbfuse", "version": "2", "extensions": []}

    @app.get("/v2/health/live")
    def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v2/models/{model}", response_model=None)
    def metadata(model: str) -> dict[str, Any] | JSONResponse:
        if model != name:
            return error(404, f"no model {model}; this server has {name}")
        return {
            "name": name, "platform": "pytorch",
            "inputs": [{"name": "images", "datatype": datatype, "shape": [-1, *info.image_shape]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, info.classes]}],
        }  # fmt: skip

    @app.get("/v2/models/{model}/ready", response_model=None)
    def model_ready(model: str) -> dict[str, Any] | JSONResponse:
        return {"name": name, "ready": True} if model == name else error(404, f"no model {model}; this server has {name}")

    @app.post("/v2/models/{model}/infer", response_model=None)
    async def infer(model: str, request: Request) -> dict[str, Any] | JSONResponse:
        if model != name:
            return error(404, f"no model {model}; this server has {name}")
        received = bytearray()
        async for chunk in request.stream():
            received += chunk
            if len(received) > _LARGEST_BODY:
                return error(413, f"the body may have {_LARGEST_BODY} bytes")
        try:
            return await run_in_threadpool(lambda: answer(_parsed(bytes(received))))
        except InputError as problem:
            return error(400, str(problem))

    return app


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise InputError(f"the body is not JSON: {str(problem)[:200]}") from problem


def main() -> None:
    """Serve until told to stop; the first line on standard output is the URL."""
    try:
        config = parse(ServerConfig, "python -m backends.server", sys.argv[1:])
    except InputError as error:
        sys.exit(refused(error))
    import torch

    from backends.data import load
    from backends.local import LocalBackend
    from backends.targets.fit import fitted

    torch.set_num_threads(config.threads)
    try:
        data = load(config.data)
        backend = LocalBackend(config.target, fitted(config.target, data), data.image_shape, data.classes, config.memory)
        listener = socket.create_server((config.host, config.port))
        # accepted connections inherit it; without it every answer waits 40 ms for a delayed acknowledgement
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (InputError, OSError, OverflowError) as error:
        sys.exit(refused(InputError(f"cannot serve {config.target} on {config.host}:{config.port}: {error}")))
    if config.stop_with_stdin:
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    print(f"http://{config.host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(application(backend, _DATATYPES[config.pixels]), log_level="warning")).run(sockets=[listener])


def _stop_when_stdin_closes() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
