"""Recover the accuracy of a frozen classifier: a small network in front of its input, trained from its responses to queries."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.base import Backend, BackendInfo, Chip, InputError, TargetError
    from bbfuse import callbacks
    from bbfuse.deploy.trained import Trained
    from bbfuse.fitting import Population, fit
    from bbfuse.result import Result
    from bbfuse.session import Session

__all__ = [
    "Backend", "BackendInfo", "Chip", "InputError", "Population", "Result", "Session", "TargetError", "callbacks", "fit", "load",
]  # fmt: skip

__version__ = "0.1.0"

_PLACES = {
    "Backend": "backends.base", "BackendInfo": "backends.base", "Chip": "backends.base", "InputError": "backends.base",
    "TargetError": "backends.base", "Population": "bbfuse.fitting", "fit": "bbfuse.fitting", "Result": "bbfuse.result",
    "Session": "bbfuse.session",
}  # fmt: skip
"""Where the public names are defined; they import torch, so they are imported when they are first used."""


def load(folder: str | Path, trust: bool = False, **components: object) -> Trained:
    """The trained fuse and head of the run in ``folder``: a module with the parts ``fuse`` (images to images) and ``head``
    (logits to logits).

    With ``trust`` own components that the folder names, such as a generator ``FILE.py:attribute``, are imported. ``components``:
    those that were given as objects to `fit`, such as ``generator=make``, in another process.

    Raises:
        InputError: ``folder`` holds no finished run, it cannot be read, or it names own code and ``trust`` is false.
    """
    from bbfuse.deploy.trained import Trained

    if not components:
        return Trained.load(Path(folder), trust=trust)
    from bbfuse.fitting import given_again

    with given_again(Path(folder), "folder", components):
        return Trained.load(Path(folder), trust=trust)


def __getattr__(name: str) -> Any:
    if name == "callbacks":
        return importlib.import_module("bbfuse.callbacks")
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module bbfuse has no attribute {name}")
