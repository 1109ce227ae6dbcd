"""A hostile network: a proxy that spoils a share of all requests and counts what reached it; a server that follows a script."""

from __future__ import annotations

import contextlib
import email.utils
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from backends.http.codecs.oip_binary import LENGTH, packed, unpacked

FAULTS = (
    "429 in seconds", "429 with a date", "503", "reset", "half an answer", "slow", "wrong shape", "NaN", "HTML",
    "length too long", "trickle", "length too short",
)  # fmt: skip
HTML = b"<html><body>Bad gateway, but all is well</body></html>"


class FaultyProxy(ThreadingHTTPServer):
    """In front of ``upstream``: a ``share`` of all requests, drawn by ``seed``, is answered with one of `FAULTS`, in turn.

    ``seen`` counts the images and requests of inference that reached it, ``injected`` the faults by name. Silent is silent for
    ``silence`` seconds.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str, share: float, seed: int = 0, silence: float = 1.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.share, self.silence = upstream, share, silence
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._turn = 0
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.sessions = threading.local()

    def fault(self) -> str | None:
        """The fault of the next request."""
        with self._lock:
            if self._rng.random() >= self.share:
                return None
            name = FAULTS[self._turn % len(FAULTS)]
            self._turn += 1
            self.injected[name] += 1
            return name

    def count(self, images: int) -> None:
        """An inference request with so many images has come."""
        with self._lock:
            self.seen["images"] += images
            self.seen["requests"] += 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what faults lead to."""


class Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.handle_request(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.count(unpacked(body, self.headers.get(LENGTH))["inputs"][0]["shape"][0])
        self.handle_request(body)

    def handle_request(self, body: bytes | None) -> None:
        if not hasattr(self.server.sessions, "session"):
            self.server.sessions.session = requests.Session()
        names = ("Content-Type", LENGTH)
        fault = self.server.fault()
        answer = self.server.sessions.session.request(
            self.command, self.server.upstream + self.path, data=body,
            headers={name: self.headers[name] for name in names if name in self.headers},
        )  # fmt: skip
        headers = {name: answer.headers[name] for name in names if name in answer.headers}
        self.spoil(fault, answer.status_code, headers, answer.content)

    def spoil(self, fault: str | None, status: int, headers: dict[str, str], body: bytes) -> None:
        if fault in ("wrong shape", "NaN") and self.command == "GET":
            fault = "HTML"  # metadata have no logits
        if fault == "429 in seconds":
            return self.reply(429, {"Retry-After": "1"}, b'{"error": "slow down"}')
        if fault == "429 with a date":
            return self.reply(429, {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)}, b"slow down")
        if fault == "503":
            return self.reply(503, {}, b"busy")
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        if fault == "HTML":
            return self.reply(200, {"Content-Type": "text/html"}, HTML)
        if fault == "slow":
            self.server.over.wait(self.server.silence)
            self.close_connection = True
            return None
        if fault in ("wrong shape", "NaN"):
            body, headers = spoilt(fault, body, headers)
        length = len(body) + {"length too long": 100, "length too short": -7}.get(fault or "", 0)
        sent = body[: len(body) // 2] if fault == "half an answer" else body
        self.reply(status, headers, sent, length, slowly=fault == "trickle")
        if fault in ("half an answer", "length too long"):
            self.close_connection = True
        return None

    def reply(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None, slowly: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        for at in range(0, len(body), 1 if slowly else max(len(body), 1)):
            if slowly and self.server.over.wait(self.server.silence / 20):
                return
            self.wfile.write(body[at : at + 1] if slowly else body)

    def log_message(self, *_: object) -> None: ...


def spoilt(fault: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """An answer of OIP with one number that is none, or with one row less, in the form in which it came."""
    content = unpacked(body, headers.get(LENGTH))
    (output,) = content["outputs"]
    rows, classes = output["shape"]
    binary = isinstance(output["data"], memoryview)
    width = 4 if binary else 1
    data = bytearray(output["data"]) if binary else list(output["data"])
    if fault == "wrong shape":
        output["shape"], data = [rows - 1, classes], data[: width * (rows - 1) * classes]
    else:
        data[:width] = struct.pack("<f", float("nan")) if binary else [float("nan")]  # type: ignore[call-overload]
    output["data"] = memoryview(bytes(data)) if binary else data
    output.get("parameters", {}).pop("binary_data_size", None)
    if not binary:
        return json.dumps(content).encode(), headers
    whole, length = packed(content)
    return whole, {**headers, LENGTH: str(length)}


@contextlib.contextmanager
def faulty(upstream: str, share: float, seed: int = 0, silence: float = 1.0) -> Iterator[FaultyProxy]:
    """A `FaultyProxy` that serves."""
    proxy = FaultyProxy(upstream, share, seed, silence)
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        proxy.shutdown()
        proxy.server_close()


Reply = tuple[int, bytes] | tuple[int, bytes, dict[str, str]] | Callable[[Any], tuple[Any, ...]] | None
"""Status, body and headers; or made of the request's JSON; or silence."""


@contextlib.contextmanager
def script(metadata: Any, replies: list[Reply], tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[Any]]]:
    """The address of a server that gives ``metadata`` to every GET and ``replies``, the last one for ever, to every POST.

    The list is of the requests' JSON, each with the headers under ``headers``.
    """
    got: list[Any] = []
    over, lock = threading.Event(), threading.Lock()

    class Scripted(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply(200, json.dumps(metadata).encode())

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                got.append({**request, "headers": dict(self.headers)})
                reply = replies[min(len(got), len(replies)) - 1]
            if reply is None:
                over.wait()
                self.close_connection = True
            else:
                self.reply(*(reply(request) if callable(reply) else reply))

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None: ...

    server = Server(("127.0.0.1", 0), Scripted)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", got
    finally:
        over.set()
        server.shutdown()
        server.server_close()
