"""Open Inference Protocol v2 (REST, JSON) as pure functions: tensors and chips to and from request and response bodies.

JSON carries every float32 exactly: its shortest decimal form as a float64 reads back to the same number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backends.interface import NOMINAL, Chip, InputError, levels

__all__ = ["BodySize", "body_sizes", "chip_of", "named_tensor", "request_body", "tensor_of"]


def request_body(images: Tensor, chip: Chip, name: str = "images", eight_bits: bool = False) -> dict[str, Any]:
    """An inference request for ``images`` (n, channels, height, width), the input called ``name``, the chip in its parameters.

    With ``eight_bits`` pixels are rounded to 256 levels.
    """
    sent = named_tensor(name, levels(images).to(torch.uint8)) if eight_bits else named_tensor(name, images)
    return {"parameters": {"bit_error_rate": chip.bit_error_rate, "chip_seed": chip.seed}, "inputs": [sent]}


def named_tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    """One named FP32 or UINT8 tensor, row-major and flat."""
    datatype = "UINT8" if tensor.dtype == torch.uint8 else "FP32"
    return {"name": name, "datatype": datatype, "shape": list(tensor.shape), "data": tensor.flatten().tolist()}


@dataclass(frozen=True)
class BodySize:
    """Bytes of JSON bodies: so many each, and so many for each image in them."""

    body: float
    image: float

    def of(self, bodies: int, images: int) -> int:
        """Bytes of ``bodies`` that carry ``images`` together."""
        return round(bodies * self.body + images * self.image)


def body_sizes(images: Tensor, classes: int, eight_bits: bool = False) -> tuple[BodySize, BodySize]:
    """Sizes of requests and of answers, as this module writes them, for ``images`` (n, channels, height, width) as a sample.

    Bodies alone, without HTTP headers. Answers are taken to hold normal numbers, as logits do, with all their digits; a server
    that writes fewer sends less.
    """
    chip = Chip(0.05, 10_000)
    logits = torch.randn((256, classes), generator=torch.Generator().manual_seed(0))

    def answer(rows: Tensor) -> str:
        return json.dumps({"model_name": "digits", "outputs": [named_tensor("logits", rows)]}, separators=(",", ":"))

    def request(some: Tensor) -> str:
        return json.dumps(request_body(some, chip, eight_bits=eight_bits))

    up, down = len(request(images[:0])), len(answer(logits[:0]))
    return (
        BodySize(up, (len(request(images)) - up) / len(images)),
        BodySize(down, (len(answer(logits)) - down) / len(logits)),
    )


def tensor_of(entries: Any, kind: str) -> Tensor:
    """The only tensor in ``entries``, the ``inputs`` or ``outputs`` (``kind``) of a body, as float32.

    Inputs may be UINT8, levels of pixels, which become [-1, 1].

    Raises:
        InputError: it is not exactly one tensor of such a type whose data fill its shape.
    """
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise InputError(f"{kind} must be a list of one tensor")
    entry = entries[0]
    datatype, shape, data = (entry.get(key) for key in ("datatype", "shape", "data"))
    if datatype not in ("FP32", "FP64") and (datatype, kind) != ("UINT8", "inputs"):
        raise InputError(f"{kind}[0].datatype must be FP32, got {datatype}")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise InputError(f"{kind}[0].shape must be a list of sizes, got {str(shape)[:80]}")
    try:
        values = torch.tensor(data, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{kind}[0].data must be numbers, flat or nested") from error
    count = 1
    for side in shape:
        count *= side
    if values.numel() != count:
        raise InputError(f"{kind}[0].data must hold {count} numbers for shape {shape}, got {values.numel()}")
    return values.reshape(shape) / 127.5 - 1.0 if datatype == "UINT8" else values.reshape(shape)


def chip_of(parameters: Any) -> Chip:
    """The chip that a request's ``parameters`` name; nominal voltage where they name none.

    Raises:
        InputError: a rate outside [0, 1] or a seed that is not a non-negative integer.
    """
    if parameters is None:
        return NOMINAL
    if not isinstance(parameters, dict):
        raise InputError("parameters must be an object")
    rate, seed = parameters.get("bit_error_rate", 0.0), parameters.get("chip_seed", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise InputError(f"parameters.bit_error_rate must lie in [0, 1], got {str(rate)[:80]}")
    if type(seed) is not int:
        raise InputError(f"parameters.chip_seed must be a non-negative integer, got {str(seed)[:80]}")
    return Chip(float(rate), seed)
