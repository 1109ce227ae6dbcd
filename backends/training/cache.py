"""Keeps fitted networks in a cache, each file checked by its SHA-256.

The cache is the folder named by ``BBFUSE_CACHE``, or ``~/.cache/bbfuse``. A file that does not match its checksum is replaced by
a new fit; if the folder cannot be written, every process fits anew."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backends.datasets.base import Split
from backends.files import write_bytes
from backends.training.fitting import fit
from backends.training.recipe import Recipe

__all__ = ["kept"]

log = logging.getLogger(__name__)


def kept(network: nn.Module, data: Split, recipe: Recipe, name: str, device: str = "cpu", source: str | None = None) -> nn.Module:
    """``network`` fitted by `fit`, from the cache if it is there; the file name begins with ``name``.

    ``source`` is a digest of the code that defines a network from outside this package: a changed one is fitted again.
    """
    seen = hashlib.blake2b(data.images.cpu().numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest()
    # another device rounds differently
    made_by = (seen, recipe, str(network), *([] if device == "cpu" else [device]), *([] if source is None else [source]))
    digest = hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("BBFUSE_CACHE") or Path.home() / ".cache" / "bbfuse")
    path = folder / f"{name}-{digest}.pt"
    state = _read(path)
    if state is None:
        _write(path, fit(network, data, recipe, device).state_dict())
    else:
        network.load_state_dict(state)
    return network


def _read(path: Path) -> dict[str, Any] | None:
    try:
        blob, checksum = path.read_bytes(), path.with_suffix(".sha256").read_text().strip()
    except OSError:
        return None
    if hashlib.sha256(blob).hexdigest() != checksum:
        log.warning("%s does not match its checksum; fitting it again", path)
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(blob), weights_only=True)
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    blob = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the checksum goes first: a kill in between leaves a mismatch or nothing, never an unnoticed wrong file
        for destination, content in (
            (path.with_suffix(".sha256"), hashlib.sha256(blob).hexdigest().encode()), (path, blob),
        ):  # fmt: skip
            write_bytes(destination, content)
    except OSError as error:
        log.warning("the fitted network could not be cached in %s: %s", path.parent, error)
