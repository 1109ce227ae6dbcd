"""The binary tensor extension of the Open Inference Protocol v2 as two pure functions, each the other's inverse.

A packed body is the JSON object followed by the tensors' raw bytes, row-major and little-endian, one after the other in the order
of the object's ``inputs`` or ``outputs``; the HTTP header `LENGTH` says how many bytes the object has, the parameter
``binary_data_size`` of a tensor how many are its own. Unpacked, the ``data`` of such a tensor are those bytes;
`backends.http.codecs.oip_json` interprets them.
"""

from __future__ import annotations

import json
from reprlib import repr as shown  # bounded, whatever it is of
from typing import Any

from backends.base import InputError, one_line

__all__ = ["LENGTH", "MEDIA_TYPE", "packed", "unpacked"]

LENGTH = "Inference-Header-Content-Length"
"""The HTTP header of a packed body."""
MEDIA_TYPE = "application/octet-stream"
"""The content type of a packed body."""
_SIZE = "binary_data_size"
_MOST_OBJECTS = 1000


def packed(content: dict[str, Any]) -> tuple[bytes, int]:
    """The body of a request or response whose tensors' ``data`` may be raw bytes, and the value of its header `LENGTH`.

    Tensors with ordinary ``data`` stay in the JSON object. ``content`` is not changed.
    """
    whole = dict(content)
    raw: list[memoryview] = []
    for kind in ("inputs", "outputs"):
        if content.get(kind):
            whole[kind] = [_described(entry, raw) for entry in content[kind]]
    header = json.dumps(whole, separators=(",", ":")).encode()
    return b"".join([header, *raw]), len(header)


def _described(entry: dict[str, Any], raw: list[memoryview]) -> dict[str, Any]:
    """``entry`` for the JSON object; raw bytes in it are appended to ``raw``."""
    if not isinstance(entry.get("data"), memoryview):
        return entry
    raw.append(entry["data"])
    rest = {name: value for name, value in entry.items() if name != "data"}
    return {**rest, "parameters": {**entry.get("parameters", {}), _SIZE: entry["data"].nbytes}}


def unpacked(body: bytes | bytearray, length: str | None) -> dict[str, Any]:
    """The JSON object in ``body``, whose header `LENGTH` is ``length`` (``None``: it has none and the body is JSON alone).

    The ``data`` of every tensor with a ``binary_data_size`` are a view of its bytes in ``body``; no bytes are copied.

    Raises:
        InputError: the body is not a JSON object followed by exactly the bytes that its tensors declare.
    """
    end = len(body) if length is None else _length_in(body, length)
    if body.count(b"{", 0, end) > _MOST_OBJECTS:  # an object of two bytes takes hundreds of bytes of memory
        raise InputError(f"the body has more than {_MOST_OBJECTS} objects")
    try:
        content = json.loads(body if end == len(body) else body[:end])
    except (ValueError, RecursionError) as problem:
        raise InputError(f"the body is not JSON: {one_line(problem)}") from problem
    if not isinstance(content, dict):
        raise InputError("the body must be a JSON object")
    view = memoryview(body)
    for kind in ("inputs", "outputs"):
        entries = content.get(kind)
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            parameters = entry.get("parameters") if isinstance(entry, dict) else None
            if not isinstance(parameters, dict) or _SIZE not in parameters:
                continue
            size, left = parameters[_SIZE], len(body) - end
            if type(size) is not int or not 0 <= size <= left:
                raise InputError(f"{kind}[{index}].parameters.{_SIZE} must be at most the {left} bytes left, got {shown(size)}")
            if "data" in entry:
                raise InputError(f"{kind}[{index}] must have data or {_SIZE}, it has both")
            entry["data"] = view[end : end + size]
            end += size
    if end < len(body):
        raise InputError(f"the body has {len(body) - end} bytes that no {_SIZE} declares")
    return content


def _length_in(body: bytes | bytearray, length: str) -> int:
    # int() alone would also take signs, spaces, underscores and digits of other alphabets
    value = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else -1
    if not 0 < value <= len(body):
        raise InputError(f"{LENGTH} must lie between 1 and the {len(body)} bytes of the body, got {shown(length)}")
    return value
