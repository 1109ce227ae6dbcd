"""A server that keeps what it is sent, and responds as told, for what stands before it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from aiohttp import web
from torch import Tensor

from backends.base import Chip
from backends.http.codecs.oip_binary import LENGTH, packed, unpacked
from backends.http.codecs.oip_json import named_tensor, request_body, tensor_of

SHAPE = (1, 8, 8)
INFER = "/v2/models/digits/infer"
CHIP = Chip(0.05, 3)
INFERENCE = {**request_body(torch.zeros(1, *SHAPE), CHIP), "id": "abc", "outputs": [{"name": "logits", "parameters": {"k": 1}}]}


@contextlib.contextmanager
def running(app: web.Application) -> Iterator[str]:
    """The address of ``app``, served from a thread of its own."""
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> str:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Got:
    """A request as it reached the server."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """A server that keeps what it is sent and answers as told."""

    reply: Callable[[Got], web.Response] = lambda _: web.json_response({})
    got: list[Got] = field(default_factory=list)
    pause: float = 0.0

    def app(self) -> web.Application:
        async def handle(request: web.Request) -> web.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.got.append(Got(request.method, request.raw_path, headers, await request.read()))
            await asyncio.sleep(self.pause)
            return self.reply(self.got[-1])

        app = web.Application(client_max_size=1 << 28)
        app.router.add_route("*", "/{path:.*}", handle)
        return app


def logits_of(images: Tensor) -> Tensor:
    """A target: ten pixels."""
    return 3.0 * images.flatten(1)[:, 20:30]


def classifier(binary: bool) -> Callable[[Got], web.Response]:
    """Answers with `logits_of` the images that came."""

    def reply(got: Got) -> web.Response:
        content = unpacked(got.body, got.headers.get(LENGTH.lower()))
        output = named_tensor("logits", logits_of(tensor_of(content["inputs"], "inputs")), binary)
        answer = {"model_name": "digits", "model_version": "7", "parameters": {"x": [1]}, "outputs": [output]}
        body, length = packed({**answer, "outputs": [{**output, "parameters": {"content_type": "np"}}]})
        return web.Response(body=body, headers={LENGTH: str(length), "X-Served-By": "me"} if binary else {})

    return reply
