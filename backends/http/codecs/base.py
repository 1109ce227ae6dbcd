"""What all protocols share: messages, pixels, and the interface `Dialect` of a protocol.

`backends.http.discovery` chooses the dialect of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from backends.base import BackendInfo, Chip, levels

__all__ = ["JSON", "Dialect", "Layout", "Message", "Pixels", "Range", "RefusedError", "at", "numbers"]

Layout = Literal["nchw", "nhwc"]
Range = Literal["signed", "unit", "levels"]
JSON = {"Content-Type": "application/json"}
"""Headers of a body in JSON."""


class RefusedError(Exception):
    """The server refused the request with a status that a retry would not change."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class Message:
    """Body and headers of a request or a response."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Pixels:
    """How the server takes images: the order of the axes and the range of the numbers."""

    layout: Layout = "nchw"
    range: Range = "signed"

    def encoded(self, images: Tensor) -> Tensor:
        """``images`` (n, channels, height, width) in [-1, 1] in the server's layout and range: float32, or uint8 levels."""
        if self.range == "levels":
            images = levels(images).to(torch.uint8)
        elif self.range == "unit":
            images = (images + 1.0) / 2.0
        return images.permute(0, 2, 3, 1) if self.layout == "nhwc" else images


class Dialect(Protocol):
    """How requests to one server and its responses look."""

    @property
    def info(self) -> BackendInfo:
        """Shapes, from the server's metadata or from the data set."""
        ...

    @property
    def path(self) -> str:
        """Where requests go, below the server's address."""
        ...

    @property
    def assumed(self) -> str | None:
        """What the metadata do not say and was assumed, in a sentence for the user."""
        ...

    @property
    def binary(self) -> bool:
        """Whether numbers are sent as raw bytes."""
        ...

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """A request for ``images`` (n, channels, height, width) on ``chip``."""
        ...

    def decode(self, response: Message) -> Tensor:
        """The logits in a response; the caller checks their shape and values.

        Raises:
            ValueError: the response holds none.
        """
        ...


def at(value: Any, steps: list[str | int] | list[str]) -> Any:
    """The element of ``value`` that the keys and indexes ``steps`` lead to.

    Raises:
        ValueError: there is none.
    """
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"there is no {step} in {str(value)[:80]}") from None
    return value


def numbers(values: Any, classes: int) -> Tensor:
    """A nested (n, classes) or flat (n * classes) list as float32."""
    try:
        tensor = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError("the response must hold numbers, flat or a row of classes for each image") from error
    return tensor.reshape(-1, classes) if tensor.ndim == 1 and not tensor.numel() % classes else tensor
