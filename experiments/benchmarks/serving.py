"""Servers for a benchmark, each in a process of its own on loopback."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from backends.base import Access, Backend, BackendInfo, Chip, Sending
from backends.server.app import application
from backends.server.command import listening, serve

__all__ = ["SERVER_MS", "SlowServer", "Timed", "answering", "serve_slow", "served"]

_CLASSES = 10
SERVER_MS = 50


class Timed:
    """A target that takes a fixed time for a batch and returns the first ten pixels of each image."""

    def __init__(self, shape: tuple[int, int, int], milliseconds: int) -> None:
        self.info = BackendInfo("timed", Access.LOGITS, shape, _CLASSES)
        self._seconds = milliseconds / 1000

    def query(self, images: Tensor, chip: Chip, sending: Sending) -> Tensor:
        """See `backends.base.Backend`."""
        sending(len(images))
        time.sleep(self._seconds)
        return images.flatten(1)[:, :_CLASSES].contiguous()

    def close(self) -> None:
        """Nothing is held open."""


def answering(backend: Backend) -> AbstractContextManager[str]:
    """The address of our server for ``backend``; it serves as long as the context is open."""
    return served(_serve_backend, backend)


@contextmanager
def served(server: Callable[..., None], *about: Any) -> Iterator[str]:
    """The address that ``server(connection, *about)`` sends by its connection; it serves as long as the context is open."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server, args=(theirs, *about), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve_backend(address: Connection, backend: Backend) -> None:
    torch.set_num_threads(1)
    listener = listening("127.0.0.1", 0)
    address.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
    serve(application([backend]), listener)


class SlowServer(BaseHTTPRequestHandler):
    """Responds with the first ten pixels of each image, 50 ms after the request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Metadata."""
        self._reply({
            "name": "slow", "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, _CLASSES]}],
        })  # fmt: skip

    def do_POST(self) -> None:
        """An inference."""
        (given,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        time.sleep(SERVER_MS / 1000)
        logits = torch.tensor(given["data"]).view(given["shape"][0], -1)[:, :_CLASSES]
        self._reply({"outputs": [
            {"name": "logits", "datatype": "FP32", "shape": list(logits.shape), "data": logits.flatten().tolist()}
        ]})  # fmt: skip

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


def serve_slow(address: Connection) -> None:
    """Serve `SlowServer` on a free port; its address is sent by ``address``."""
    torch.set_num_threads(1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowServer)
    server.daemon_threads = True
    address.send(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()
