"""Requests within limits: their bodies, and the responses to those that are refused.

Every error has the shape of the protocol, ``{"error": "..."}``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from backends.base import InputError

__all__ = ["Limits", "RefusedRequestError", "error", "received", "refusal"]


@dataclass(frozen=True)
class Limits:
    """Limits on requests; a request beyond them is refused before it costs memory or time."""

    body_bytes: int = 32 << 20
    """largest body of a request, in bytes"""
    batch_size: int = 4096
    """images in a request at most; the metadata of the model name it as max_batch_size"""
    requests: int = 32
    """requests at the same time at most; a further one gets status 503 with Retry-After"""
    seconds: float = 60.0
    """time in which the body of a request must arrive"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"`limits.{name}` must be greater than 0, got {value}")


class RefusedRequestError(InputError):
    """A request that is refused with a status other than 400."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def error(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    """An error response in the shape of the protocol."""
    return Response(json.dumps({"error": words}), status, headers, media_type="application/json")


def refusal(problem: InputError) -> Response:
    """The response to a request that is refused."""
    return error(problem.status if isinstance(problem, RefusedRequestError) else 400, str(problem))


async def received(request: Request, limits: Limits) -> bytearray:
    """The body of the request.

    Raises:
        InputError: it is too long, too slow or incomplete.
    """
    too_long = f"the body may have {limits.body_bytes} bytes"
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise RefusedRequestError(413, too_long)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise RefusedRequestError(413, too_long)
    except TimeoutError:
        raise RefusedRequestError(408, f"the body took more than {limits.seconds} s") from None
    except ClientDisconnect:
        raise InputError("the connection broke before the end of the body") from None
    return body
