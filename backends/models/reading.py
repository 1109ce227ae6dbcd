"""Reads a network from a file of another program, by the file's suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from backends.base import InputError, raised

__all__ = ["SUFFIXES", "holds_code", "read_model"]

_CODE = {".pt2": "torch.export", ".ts": "TorchScript", ".torchscript": "TorchScript"}
"""Files that hold code."""
SUFFIXES = (".onnx", *_CODE)
"""Suffixes of the files that `read_model` reads."""


def holds_code(name: str) -> bool:
    """Whether the target called ``name`` is, or has among its parts, a file with code."""
    return any(part.endswith(tuple(_CODE)) for part in name.split("+"))


def read_model(name: str, trust: bool = False) -> nn.Module:
    """The trained network in the file called ``name``: ONNX, TorchScript or torch.export.

    Raises:
        InputError: there is no such file, it is damaged, or it holds code and is not trusted. It is not opened then.
    """
    path = Path(name)
    if not path.is_file():
        raise InputError(f"`target` {name} cannot be read: there is no such file")
    if path.suffix == ".onnx":
        from backends.models.onnx_file import onnx_network

        return onnx_network(path)
    kind = _CODE[path.suffix]
    if not trust:
        raise InputError(f"`target` {name} holds code ({kind}) that would be executed: give `trust=True` if you trust its origin")
    from backends.models.torch_files import exported, scripted

    read: Callable[[Path], nn.Module] = exported if path.suffix == ".pt2" else scripted
    try:
        return read(path)
    except Exception as error:  # torch raises all kinds
        words = raised(error)
        raise InputError(f"`target` {name} cannot be read as a file of {kind}: {words}") from error
