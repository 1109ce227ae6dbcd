"""A trained fuse in front of an inference server: ``python -m bbfuse.serve --run FOLDER --upstream URL``.

A proxy of the Open Inference Protocol v2 (REST, JSON and binary tensors). In inference requests to one model the images go
through the fuse, and in the responses the logits go through the head, as with `bbfuse.load`. Everything else (other models,
health, metadata, headers, parameters and errors) is passed on unchanged. A request that cannot be read as one tensor of images
is refused with an error of the protocol's form, so that the target is never used without its fuse.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
import numpy as np
import orjson
import torch
from aiohttp import web
from multidict import CIMultiDict
from torch import Tensor
from yarl import URL

from backends.base import InputError, one_line
from backends.http.codecs.base import Layout, Pixels
from backends.http.codecs.oip_binary import LENGTH, packed, unpacked
from backends.http.codecs.oip_json import tensor_of
from bbfuse.deploy.trained import Trained
from bbfuse.heads.base import Head

__all__ = ["application", "corrected", "fused"]

_LARGEST_BODY = 64 << 20
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/[^/]+)?/infer")
_PLACE = secrets.token_hex()
"""Placeholder for the numbers of a tensor; random, so that no request contains it."""
_TYPES = {"FP32": "<f4", "FP64": "<f8", "UINT8": "u1"}
# headers of one connection (RFC 9110, 7.6.1), and headers of a body that no longer apply
_OF_THE_HOP = {"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
               "transfer-encoding", "upgrade"}  # fmt: skip
_OF_THE_REQUEST = {"host", "expect", "content-length", "content-encoding"}  # bodies arrive here decoded

T = TypeVar("T")


def fused(trained: Trained, body: bytes, length: str | None) -> tuple[bytes, int, int]:
    """A request's ``body`` with the fuse applied to its images, the length of the JSON object in it, and the number of images.

    ``length`` is the header of a packed body, as `unpacked` takes it. Images keep datatype, layout and range;
    UINT8 images are rounded.

    Raises:
        InputError: it is not a request with one tensor of images that the fuse takes.
    """
    content = unpacked(body, length)
    images = tensor_of(content.get("inputs"), "inputs")
    (entry,) = content["inputs"]
    pixels = _pixels(trained, images, entry["datatype"] == "UINT8")
    images = images.permute(0, 3, 1, 2) if pixels.layout == "nhwc" else images
    images = images * 2.0 - 1.0 if pixels.range == "unit" else images
    if not (images.abs() <= 1.0).all():  # also false for NaN
        raise InputError(f"inputs[0].data must lie in [{'0' if pixels.range == 'unit' else '-1'}, 1]")
    made = _replaced(entry, pixels.encoded(trained.fuse(images)))
    if isinstance(made["data"], memoryview):
        return *packed({**content, "inputs": [made]}), len(images)
    # writing thousands of pixels as decimals takes most of the time: use the faster writer, which gives the same digits
    data = orjson.dumps(np.asarray(made["data"]), option=orjson.OPT_SERIALIZE_NUMPY)
    whole = packed({**content, "inputs": [{**made, "data": _PLACE}]})[0].replace(f'"{_PLACE}"'.encode(), data, 1)
    return whole, len(whole), len(images)


def _pixels(trained: Trained, images: Tensor, eight_bits: bool) -> Pixels:
    """Layout and range of ``images``: as the run declares them for its server, or recognised by their shape."""
    remote, sides = trained.config.remote, list(trained.fuse.image_shape)
    shapes: dict[Layout, list[int]] = {"nchw": sides, "nhwc": [*sides[1:], sides[0]]} if len(sides) == 3 else {"nchw": sides}
    for layout, shape in shapes.items():
        if layout == (remote.layout or layout) and list(images.shape[1:]) == shape and len(images):
            return Pixels(layout, "levels" if eight_bits else remote.range or "signed")
    expected = ", ".join(map(str, shapes[remote.layout or "nchw"]))
    raise InputError(f"inputs[0].shape must be [n, {expected}], n > 0, got {list(images.shape)}")


def corrected(trained: Trained, body: bytes, length: str | None, images: int) -> tuple[bytes, int]:
    """The ``body`` of a response to ``images`` images with the head applied to its logits, and the length of its JSON object.

    Raises:
        InputError: it is not a response with one tensor of logits, or the head has not been calibrated.
    """
    content = unpacked(body, length)
    logits = tensor_of(content.get("outputs"), "outputs")
    if tuple(logits.shape) != (images, trained.classes):
        raise InputError(f"outputs[0].shape must be {[images, trained.classes]}, got {list(logits.shape)}")
    (entry,) = content["outputs"]
    content["outputs"] = [_replaced(entry, trained.head(logits))]
    return packed(content)


def _replaced(entry: dict[str, Any], tensor: Tensor) -> dict[str, Any]:
    """The tensor ``entry`` of a body with the numbers of ``tensor``, in the same encoding."""
    flat = tensor.flatten().numpy().astype(_TYPES[entry["datatype"]])
    return {**entry, "data": flat.view(np.uint8).data if isinstance(entry["data"], memoryview) else flat.tolist()}


def application(
    trained: Trained, upstream: str, model: str, timeout: float, tls: ssl.SSLContext | None = None
) -> web.Application:
    """The proxy in front of ``upstream``, which applies ``trained`` to the requests and responses of ``model``.

    Raises:
        InputError: ``upstream`` is not the address of a server.
    """
    try:
        parts = urlsplit(upstream)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        named = parts.username is not None
    except ValueError:
        whole, named = False, False
    if named:
        raise InputError("--upstream must not hold a name or password: send them in a header, which is passed on")
    if not whole:
        raise InputError(f"--upstream must be an address such as http://127.0.0.1:8080, got {upstream}")
    proxy = _Proxy(trained, upstream.rstrip("/"), model, timeout, tls)
    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    app.cleanup_ctx.append(proxy.opened)
    return app


class _Proxy:
    def __init__(self, trained: Trained, upstream: str, model: str, timeout: float, tls: ssl.SSLContext | None) -> None:
        self._trained = trained
        self._upstream = upstream
        self._model = model
        self._timeout = timeout
        self._tls = tls
        self._session: aiohttp.ClientSession
        # one computation at a time, outside the event loop, which handles other requests meanwhile; the initializer makes the
        # thread use the process's number of CPU threads, on which the last bit of a sum depends
        self._pool = ThreadPoolExecutor(1, initializer=torch.get_num_threads)

    async def opened(self, _: web.Application) -> AsyncIterator[None]:
        """The connections to the server, as long as the application lives."""
        # uvicorn closes idle connections after 5 seconds: close them earlier
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0, ssl=self._tls or True)
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=self._timeout),
        ) as self._session:  # fmt: skip
            yield
        self._pool.shutdown()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass the request on, through the fuse and the head if it is an inference request to the model."""
        if not request.raw_path.startswith("/"):
            return _error(400, "the request's target must be a path")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"the body may have {_LARGEST_BODY} bytes")
        headers = _passed_on(request.headers, _OF_THE_REQUEST)
        # normalised as servers may do it, so that no spelling of the path bypasses the fuse
        path = posixpath.normpath("/" + unquote(request.raw_path.split("?")[0]).lstrip("/"))
        found = _INFER.fullmatch(path)
        try:
            if request.method == "POST" and found and found[1] == self._model:
                return await self._infer(request, headers, body)
            return await self._pass(request, headers, body)
        except TimeoutError:
            return _error(504, f"{self._upstream} sent no response within {self._timeout:g} seconds")
        except aiohttp.ClientError as error:
            return _error(502, f"{self._upstream} cannot be reached: {one_line(error) or type(error).__name__}")

    def _forward(self, request: web.Request, headers: CIMultiDict[str], body: bytes) -> Any:
        url = URL(self._upstream + request.raw_path, encoded=True)
        return self._session.request(request.method, url, headers=headers, data=body or None, allow_redirects=False)

    async def _pass(self, request: web.Request, headers: CIMultiDict[str], body: bytes) -> web.StreamResponse:
        async with self._forward(request, headers, body) as upstream:
            response = web.StreamResponse(
                status=upstream.status, reason=upstream.reason, headers=_passed_on(upstream.headers, set())
            )  # fmt: skip
            await response.prepare(request)
            try:
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
            except (aiohttp.ClientError, TimeoutError):
                # too late for another status: the client's response is cut off as well
                if request.transport is not None:
                    request.transport.abort()
            else:
                await response.write_eof()
            return response

    async def _infer(self, request: web.Request, headers: CIMultiDict[str], body: bytes) -> web.Response:
        try:
            body, length, images = await self._computed(fused, self._trained, body, headers.get(LENGTH))
        except InputError as error:
            return _error(400, str(error))
        if LENGTH in headers:
            headers[LENGTH] = str(length)
        headers["Accept-Encoding"] = "identity"  # the response is read here
        async with self._forward(request, headers, body) as upstream:
            content, given = await upstream.read(), _passed_on(upstream.headers, {"content-length"})
        # the head none changes nothing
        if upstream.status == 200 and type(self._trained.head) is not Head:
            try:
                content, length = await self._computed(corrected, self._trained, content, given.get(LENGTH), images)
            except InputError as error:
                return _error(502, f"{self._upstream} responded with something else than logits: {error}")
            if LENGTH in given:
                given[LENGTH] = str(length)
        return web.Response(status=upstream.status, reason=upstream.reason, headers=given, body=content)

    async def _computed(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _passed_on(headers: Mapping[str, str], dropped: set[str]) -> CIMultiDict[str]:
    """``headers`` without ``dropped`` and those of one connection alone."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_THE_HOP | dropped | named)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
