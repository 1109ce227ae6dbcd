"""A fitted target in one file: weights, architecture, settings of the fit, and a checksum over all of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.base import InputError
from backends.files import write_torch

__all__ = ["SUFFIX", "Checkpoint", "read", "write"]

SUFFIX = ".pt"
"""The names of checkpoints end with this; a target of another name is an architecture."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file."""

    architecture: str
    """a name in `backends.targets.base.TARGETS`"""
    image_shape: tuple[int, ...]
    classes: int
    config: dict[str, Any]
    """data, recipe and hardening, as plain values"""
    validation_accuracy: float
    """at nominal voltage, as stored where codes were trained, a fraction of the validation images"""
    weights: dict[str, Tensor]
    """the network's state_dict, on the CPU"""

    @property
    def sha256(self) -> str:
        """SHA-256 over everything else, the weights byte by byte."""
        digest = hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode())
        for name, tensor in self.weights.items():
            digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _plain(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "weights"}


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``, all of it or nothing.

    Raises:
        InputError: ``path`` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_torch(path, {**vars(checkpoint), "sha256": checkpoint.sha256}, sync=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def read(path: Path) -> Checkpoint:
    """The checkpoint that `write` wrote to ``path``.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        checksum = held.pop("sha256")
        checkpoint = Checkpoint(**held)
        intact = checkpoint.sha256 == checksum
    except OSError as error:
        raise InputError(f"`target` {path} cannot be read: {error}") from error
    except Exception as error:  # a damaged file makes the reader raise all kinds
        raise InputError(f"`target` {path} is damaged, or no file of python -m backends.targets.fit: fit it again") from error
    if not intact:
        raise InputError(f"`target` {path} does not match its checksum: it is damaged, fit it again")
    return checkpoint
