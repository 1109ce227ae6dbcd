"""A fitted target in one file: weights, what network they are for, how they were made, and a checksum over all of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.base import InputError

__all__ = ["SUFFIX", "Checkpoint", "read", "write"]

SUFFIX = ".pt"
"""What the name of a checkpoint ends with; a target that is called otherwise is an architecture."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    architecture: str
    """a name of `backends.targets.networks.TARGETS`"""
    image_shape: tuple[int, int, int]
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
    """Put ``checkpoint`` at ``path``, all of it or nothing.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            torch.save({**vars(checkpoint), "sha256": checkpoint.sha256}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def read(path: Path) -> Checkpoint:
    """What `write` has put at ``path``.

    Raises:
        InputError: it is no such file, or not as it was written.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        checksum = held.pop("sha256")
        checkpoint = Checkpoint(**held)
        intact = checkpoint.sha256 == checksum
    except OSError as error:
        raise InputError(f"--target {path} cannot be read: {error}") from error
    except Exception as error:  # whatever a spoilt file makes of the reader
        raise InputError(f"--target {path} is not a file of python -m backends.targets.fit, or spoilt") from error
    if not intact:
        raise InputError(f"--target {path} does not match its checksum: it is spoilt, fit it again")
    return checkpoint
