"""Open Inference Protocol v2 (REST, JSON) as pure functions: tensors and chips to and from request and response bodies.

JSON carries every float32 exactly: its shortest decimal form as a float64 reads back to the same number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.interface import NOMINAL, Chip, InputError, levels

__all__ = ["chip_of", "named_tensor", "request_body", "tensor_of"]


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
