"""What a request and an answer look like, without a network: images and a chip to a message, a message to logits.

One `Dialect` for each of: the Open Inference Protocol v2 in JSON and with binary tensors, TensorFlow Serving's REST form, and any
other JSON by a template and a path. `backends.http.discovery` chooses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import quote

import torch
from torch import Tensor

from backends.base import BackendInfo, Chip, levels
from backends.http.oip import BodySize, body_sizes, request_body, tensor_of
from backends.http.oip_binary import LENGTH, MEDIA_TYPE, packed, unpacked

__all__ = ["Dialect", "Mapped", "Message", "OpenInference", "Pixels", "RefusedError", "TensorFlow", "at", "model_path", "sizes"]

Layout = Literal["nchw", "nhwc"]
Range = Literal["signed", "unit", "levels"]
_JSON = {"Content-Type": "application/json"}


class RefusedError(Exception):
    """The server answered, with another status than 200 that is not worth asking again."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class Message:
    """Body and headers of a request or an answer."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Pixels:
    """How the server takes images."""

    layout: Layout = "nchw"
    range: Range = "signed"

    def sent(self, images: Tensor) -> Tensor:
        """``images`` (n, channels, height, width) in [-1, 1] as float32 in the server's range or uint8 levels, in its layout."""
        if self.range == "levels":
            images = levels(images).to(torch.uint8)
        elif self.range == "unit":
            images = (images + 1.0) / 2.0
        return images.permute(0, 2, 3, 1) if self.layout == "nhwc" else images


class Dialect(Protocol):
    """A server's way to be asked."""

    @property
    def info(self) -> BackendInfo:
        """Shapes, as the server or the data set has them."""
        ...

    @property
    def path(self) -> str:
        """Where requests go, below the server's address."""
        ...

    @property
    def assumed(self) -> str | None:
        """What the server does not say of itself and is taken for granted, in a sentence for the user."""
        ...

    @property
    def binary(self) -> bool:
        """Whether numbers travel as raw bytes."""
        ...

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """A request for ``images`` (n, channels, height, width) on ``chip``."""
        ...

    def decode(self, answer: Message) -> Tensor:
        """The logits in an answer, of whatever shape and value it has.

        Raises:
            ValueError: it holds none.
        """
        ...


@dataclass(frozen=True)
class OpenInference:
    """Open Inference Protocol v2: the chip in the parameters, numbers in JSON or with ``binary`` as raw bytes."""

    info: BackendInfo
    pixels: Pixels = Pixels()
    input: str = "images"
    binary: bool = False
    assumed: str | None = None

    @property
    def path(self) -> str:
        """See `Dialect`."""
        return f"{model_path(self.info.name)}/infer"

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """See `Dialect`."""
        # the pixels are as they are to be already, levels among them
        content = request_body(self.pixels.sent(images), chip, self.input, binary=self.binary)
        if not self.binary:
            return Message(json.dumps(content).encode(), _JSON)
        body, length = packed(content)
        return Message(body, {"Content-Type": MEDIA_TYPE, LENGTH: str(length)})

    def decode(self, answer: Message) -> Tensor:
        """See `Dialect`; numbers may come in either form, whatever was asked for."""
        return tensor_of(unpacked(answer.body, answer.headers.get(LENGTH)).get("outputs"), "outputs")


@dataclass(frozen=True)
class TensorFlow:
    """TensorFlow Serving's REST form, ``instances`` to ``predictions``; it has no place for a chip."""

    info: BackendInfo
    pixels: Pixels = Pixels()
    assumed: str | None = None
    binary: bool = field(default=False, init=False)

    @property
    def path(self) -> str:
        """See `Dialect`."""
        return f"/v1/models/{quote(self.info.name, safe='')}:predict"

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """See `Dialect`."""
        return Message(json.dumps({"instances": self.pixels.sent(images).tolist()}).encode(), _JSON)

    def decode(self, answer: Message) -> Tensor:
        """See `Dialect`."""
        return _numbers(at(json.loads(answer.body), ["predictions"]), self.info.classes)


@dataclass(frozen=True)
class Mapped:
    """Any other JSON: a template with places for images and chip, and the path of the logits in an answer."""

    info: BackendInfo
    pixels: Pixels
    template: Any
    steps: list[str | int]
    assumed: str | None = None
    path: str = field(default="", init=False)
    binary: bool = field(default=False, init=False)

    def encode(self, images: Tensor, chip: Chip) -> Message:
        """See `Dialect`."""
        values = {
            "{images}": self.pixels.sent(images).tolist(), "{bit_error_rate}": chip.bit_error_rate, "{chip_seed}": chip.seed
        }  # fmt: skip
        return Message(json.dumps(_filled(self.template, values)).encode(), _JSON)

    def decode(self, answer: Message) -> Tensor:
        """See `Dialect`."""
        return _numbers(at(json.loads(answer.body), self.steps), self.info.classes)


def sizes(dialect: Dialect, images: Tensor) -> tuple[BodySize, BodySize]:
    """Sizes of requests and responses, with ``images`` (n, channels, height, width) as a sample; see `body_sizes`."""
    chip = Chip(0.05, 10_000)
    alone, whole = (len(dialect.encode(some, chip).body) for some in (images[:0], images))
    _, down = body_sizes(images[:1], dialect.info.classes, binary=dialect.binary)
    return BodySize(alone, (whole - alone) / len(images)), down


def model_path(model: str) -> str:
    """Where the Open Inference Protocol has a model."""
    return f"/v2/models/{quote(model, safe='')}"


def _filled(template: Any, values: dict[str, Any]) -> Any:
    if isinstance(template, dict):
        return {key: _filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    return values.get(template, template) if isinstance(template, str) else template


def at(value: Any, steps: list[str | int] | list[str]) -> Any:
    """What lies in ``value`` behind keys and places, one after the other; a ValueError where nothing does."""
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"there is no {step} in {str(value)[:80]}") from None
    return value


def _numbers(values: Any, classes: int) -> Tensor:
    """A nested (n, classes) or flat (n * classes) list as float32."""
    try:
        tensor = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError("the answer must be numbers, flat or a row of classes for each image") from error
    return tensor.reshape(-1, classes) if tensor.ndim == 1 and not tensor.numel() % classes else tensor
