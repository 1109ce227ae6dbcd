"""Reference server: targets on simulated low-voltage memory behind the Open Inference Protocol v2 (REST, JSON and binary).

``python -m backends.server --port 8080`` serves the target digits; the ``parameters`` of a request name the chip by
``bit_error_rate`` and ``chip_seed``. Errors have the shape ``{"error": "..."}``; ``/openapi.json`` describes the rest.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backends.base import Backend, InputError
from backends.files import short_name
from backends.flags import parse, refused
from backends.memory.config import Memory
from backends.server.app import application
from backends.server.limits import Limits, error

__all__ = ["Connection", "ServerConfig", "listening", "main", "serve"]

_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}
_MOST_HEADER_BYTES = 64 << 10


@dataclass(frozen=True)
class ServerConfig:
    """Serve targets over the Open Inference Protocol v2."""

    target: tuple[str, ...] = ("digits",)
    """targets: names, FILE.py:attribute, files of backends.targets.fit, ONNX, TorchScript and torch.export files; the models in
    the URL have these names, without folders and suffixes"""
    data: tuple[str, ...] = ("digits",)
    """data sets that they are fitted to: one for all or one for each"""
    trust: bool = False
    """execute code that comes with files: TorchScript and torch.export"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = 0
    """port to listen on; 0 takes a free one"""
    threads: int = 1
    """processor threads"""
    pixels: Literal["float32", "uint8"] = "float32"
    """format of images: numbers in [-1, 1], or 256 levels"""
    api_key_env: str | None = None
    """environment variable that holds an API key; requests must contain it, as Bearer or X-API-Key, but for those to health"""
    stop_with_stdin: bool = False
    """end when standard input is closed, as it is when the parent process ends"""
    limits: Limits = field(default_factory=Limits)
    memory: Memory = field(default_factory=Memory)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the first line on standard output is the URL.

    Without ``arguments`` those of the process are taken.
    """
    try:
        config = parse(ServerConfig, "python -m backends.server", sys.argv[1:] if arguments is None else arguments)
        key = _key(config.api_key_env)
    except InputError as problem:
        sys.exit(refused(problem))
    import torch

    torch.set_num_threads(config.threads)
    try:
        served = application(_opened(config), _DATATYPES[config.pixels], config.limits, key)
        listener = listening(config.host, config.port)
    except (InputError, OSError, OverflowError) as problem:
        names = ", ".join(config.target)
        sys.exit(refused(InputError(f"cannot serve {names} on {config.host}:{config.port}: {problem}")))
    if config.stop_with_stdin:
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    print(f"http://{config.host}:{listener.getsockname()[1]}", flush=True)
    serve(served, listener)


def listening(host: str, port: int) -> socket.socket:
    """A socket at that address; at a free port if ``port`` is 0."""
    listener = socket.create_server((host, port))
    # accepted connections inherit it; without it every response waits 40 ms for a delayed acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve at ``listener`` until SIGTERM or SIGINT."""
    uvicorn.Server(uvicorn.Config(app, http=Connection, ws="none", log_level="warning")).run(sockets=[listener])


def _key(variable: str | None) -> str | None:
    """The key in that environment variable; it is never printed."""
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InputError(f"`api_key_env` {variable} must name an environment variable that holds a key of plain characters")
    return key


def _opened(config: ServerConfig) -> Sequence[Backend]:
    from backends.datasets.loading import load
    from backends.simulated import SimulatedBackend
    from backends.targets.fit import fitted

    models = [short_name(target) for target in config.target]
    if not models or len(set(models)) < len(models):
        raise InputError("`target` must name each target once")
    if len(config.data) not in (1, len(config.target)):
        raise InputError(f"`data` must be one for all or one for each of {len(config.target)} targets, got {len(config.data)}")
    backends = []
    names = config.data * (len(models) // len(config.data))
    for model, target, name in zip(models, config.target, names, strict=True):
        data = load(name)
        network = fitted(target, data, trust=config.trust)
        backends.append(SimulatedBackend(model, network, data.image_shape, data.classes, config.memory))
    return backends


class Connection(HttpToolsProtocol):
    """HTTP with bounded headers, whose own errors have the shape of the protocol."""

    _head: int | None = 0
    """Bytes of headers so far; ``None`` once they are complete."""

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        super().data_received(data)
        if self._head is not None and self.parser is not None:
            self._head += len(data)
            if self._head > _MOST_HEADER_BYTES and not self.transport.is_closing():
                self._refuse(431, f"headers may have {_MOST_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The body, if any, comes next."""
        self._head = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """The bytes are not HTTP."""
        self._refuse(400, msg)

    def _refuse(self, status: int, words: str) -> None:
        response = error(status, words, {"Connection": "close"})
        lines = [f"HTTP/1.1 {status} Refused".encode(), *(name + b": " + value for name, value in response.raw_headers)]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()


def _stop_when_stdin_closes() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
