"""Makes classifiers right again when nobody may touch them: a small network in front, trained from answers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bbfuse.deploy.trained import Trained

__all__ = ["load"]

__version__ = "0.1.0"


def load(folder: str | Path) -> Trained:
    """What the run in ``folder`` was trained to: a module with the parts ``fuse`` (images to images) and ``head`` (logits to
    logits).

    Raises:
        InputError: ``folder`` holds no run that has ended, or it cannot be read.
    """
    from bbfuse.deploy.trained import Trained  # torch is imported by those who load

    return Trained.load(Path(folder))
