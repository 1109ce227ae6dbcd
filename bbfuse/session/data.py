"""Data given in Python in the folder of a session, so that another process can continue it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from backends.base import InputError
from backends.datasets.base import DATASETS, Dataset, Split
from backends.datasets.form import Form
from backends.files import write_torch
from backends.registry import GIVEN

__all__ = ["keep", "restore"]


def keep(folder: Path, name: str) -> None:
    """Write the data set called ``name`` to ``folder`` if it was given as an object in Python."""
    if not name.startswith(GIVEN):
        return
    data = DATASETS[name]
    assert isinstance(data, Dataset)
    write_torch(folder / "data.pt", dataclasses.asdict(data))


def restore(folder: Path, name: str) -> str:
    """The data set that `keep` wrote, by the ``name`` that it is known by again; another ``name`` is returned unchanged.

    Raises:
        InputError: it is not there.
    """
    path = folder / "data.pt"
    if not name.startswith(GIVEN):
        return name
    if not path.exists():
        raise InputError(f"`folder` {folder} lacks data.pt with the data of its session: begin a new session")
    read = torch.load(path, weights_only=True)
    parts = {part: Split(**read[part]) for part in ("train", "validation", "test")}
    return DATASETS.adopt(Dataset(**{**read, **parts, "form": Form(**read["form"])}), name)
