"""Recover the accuracy of a frozen classifier: a small network in front of its input, trained from its responses to queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bbfuse.deploy.trained import Trained

__all__ = ["load"]

__version__ = "0.1.0"


def load(folder: str | Path) -> Trained:
    """The trained fuse and head of the run in ``folder``: a module with the parts ``fuse`` (images to images) and ``head``
    (logits to logits).

    Raises:
        InputError: ``folder`` holds no finished run, or it cannot be read.
    """
    from bbfuse.deploy.trained import Trained  # imports torch, only when needed

    return Trained.load(Path(folder))
