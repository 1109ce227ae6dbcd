"""Open Inference Protocol v2 (REST) as pure functions: tensors and chips to and from request and response bodies.

JSON keeps every float32 exactly: the shortest decimal form of its float64 reads back as the same number. Data may also be raw
bytes, which `backends.http.codecs.oip_binary` puts behind the JSON object.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from reprlib import repr as shown  # bounded, whatever it is of
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip, InputError, levels
from backends.http.codecs.oip_binary import packed

__all__ = ["BodySize", "body_sizes", "chip_of", "named_tensor", "request_body", "tensor_of"]


_TYPES: dict[Any, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"), "UINT8": np.dtype("u1")}
"""Supported datatypes and their raw bytes."""
_MOST_SIDES = 8
_LARGEST_SIDE = 2**63 - 1
_LARGEST_SEED = 2**64 - 1


def request_body(
    images: Tensor, chip: Chip, name: str = "images", eight_bits: bool = False, binary: bool = False
) -> dict[str, Any]:
    """An inference request for ``images`` (n, channels, height, width), the input called ``name``, the chip in its parameters.

    With ``eight_bits`` pixels are rounded to 256 levels. With ``binary`` the data are raw bytes, which `packed`
    puts behind the JSON object, and the response is requested in the same form.
    """
    parameters: dict[str, Any] = {"bit_error_rate": chip.bit_error_rate, "chip_seed": chip.seed}
    if binary:
        parameters["binary_data_output"] = True
    sent = levels(images).to(torch.uint8) if eight_bits else images
    return {"parameters": parameters, "inputs": [named_tensor(name, sent, binary)]}


def named_tensor(name: str, tensor: Tensor, binary: bool = False) -> dict[str, Any]:
    """One named FP32 or UINT8 tensor, row-major: numbers in a flat list, or with ``binary`` a view of its little-endian bytes."""
    datatype = "UINT8" if tensor.dtype == torch.uint8 else "FP32"
    flat = tensor.detach().flatten()
    data = flat.numpy().astype(_TYPES[datatype], copy=False).view(np.uint8).data if binary else flat.tolist()
    return {"name": name, "datatype": datatype, "shape": list(tensor.shape), "data": data}


@dataclass(frozen=True)
class BodySize:
    """Bytes of a body without images, and bytes of each image."""

    body: float
    image: float

    def of(self, bodies: int, images: int) -> int:
        """Bytes of ``bodies`` with ``images`` in all of them together."""
        return round(bodies * self.body + images * self.image)


def body_sizes(images: Tensor, classes: int, eight_bits: bool = False, binary: bool = False) -> tuple[BodySize, BodySize]:
    """Sizes of requests and responses as this module writes them, for a sample of ``images`` (n, channels, height, width).

    HTTP headers are not counted. Responses are assumed to hold normal numbers with all their digits; a server that writes fewer
    digits sends less.
    """
    chip = Chip(0.05, 10_000)
    logits = torch.randn((256, classes), generator=torch.Generator().manual_seed(0))

    def response(rows: Tensor) -> int:
        content = {"model_name": "digits", "outputs": [named_tensor("logits", rows, binary)]}
        return len(packed(content)[0] if binary else json.dumps(content, separators=(",", ":")))

    def request(some: Tensor) -> int:
        content = request_body(some, chip, eight_bits=eight_bits, binary=binary)
        return len(packed(content)[0] if binary else json.dumps(content))

    up, down = request(images[:0]), response(logits[:0])
    return (
        BodySize(up, (request(images) - up) / len(images)),
        BodySize(down, (response(logits) - down) / len(logits)),
    )


def tensor_of(entries: Any, kind: str) -> Tensor:
    """The only tensor in ``entries``, the ``inputs`` or ``outputs`` (``kind``) of a body, as float32; its data are numbers, flat
    or nested, or a view of raw bytes as `backends.http.codecs.oip_binary.unpacked` leaves it.

    Inputs may be UINT8 levels, which are scaled to [-1, 1].

    Raises:
        InputError: there is not exactly one tensor of such a type, or its data do not fill its shape.
    """
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise InputError(f"{kind} must be a list of one tensor")
    entry = entries[0]
    datatype, shape, data = (entry.get(key) for key in ("datatype", "shape", "data"))
    if datatype not in ("FP32", "FP64") and (datatype, kind) != ("UINT8", "inputs"):
        raise InputError(f"{kind}[0].datatype must be FP32, got {shown(datatype)}")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side <= _LARGEST_SIDE for side in shape):
        raise InputError(f"{kind}[0].shape must be a list of sizes, got {shown(shape)}")
    if len(shape) > _MOST_SIDES:
        raise InputError(f"{kind}[0].shape must have at most {_MOST_SIDES} sizes, got {len(shape)}")
    count = math.prod(shape)
    values = _from_bytes(data, datatype, count, kind) if isinstance(data, memoryview) else _from_numbers(data, kind)
    if values.numel() != count:
        raise InputError(f"{kind}[0].data must hold {count} numbers for shape {shape}, got {values.numel()}")
    return values.reshape(shape) / 127.5 - 1.0 if datatype == "UINT8" else values.reshape(shape)


def _from_numbers(data: Any, kind: str) -> Tensor:
    if not isinstance(data, list):
        raise InputError(f"{kind}[0].data must be a list of numbers, flat or nested")
    try:
        return torch.tensor(data, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{kind}[0].data must be numbers, flat or nested") from error


def _from_bytes(data: memoryview, datatype: Any, count: int, kind: str) -> Tensor:
    size = count * _TYPES[datatype].itemsize
    if data.nbytes != size:
        raise InputError(f"{kind}[0] must have {size} bytes for {count} numbers of {datatype}, got {data.nbytes}")
    # a copy: numbers in the body begin anywhere, a tensor's at a multiple of their size
    return torch.from_numpy(np.frombuffer(data, _TYPES[datatype]).astype(np.float32))


def chip_of(parameters: Any) -> Chip:
    """The chip that the ``parameters`` of a request name; `NOMINAL` if they name none.

    Raises:
        InputError: a rate outside [0, 1] or a seed that is not a non-negative integer of at most 64 bits.
    """
    if parameters is None:
        return NOMINAL
    if not isinstance(parameters, dict):
        raise InputError("parameters must be an object")
    rate, seed = parameters.get("bit_error_rate", 0.0), parameters.get("chip_seed", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise InputError(f"parameters.bit_error_rate must lie in [0, 1], got {shown(rate)}")
    if type(seed) is not int or seed > _LARGEST_SEED:
        raise InputError(f"parameters.chip_seed must be a non-negative integer of at most 64 bits, got {shown(seed)}")
    return Chip(float(rate), seed)
