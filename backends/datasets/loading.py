"""Loads a data set by its name."""

from __future__ import annotations

import functools
from pathlib import Path

from backends.base import InputError
from backends.datasets import folders
from backends.datasets.assembly import read_archive
from backends.datasets.base import DATASETS, Dataset
from backends.registry import GIVEN

__all__ = ["load"]


def load(name: str) -> Dataset:
    """The data set called ``name``: a registered name, ``module:attribute``, ``FILE.py:attribute``, a folder, a hub id, or a file
    ``.npz``.

    Raises:
        InputError: there is no such data set, or it is not one of inputs of one size with their classes.
    """
    return _loaded(name) if name.startswith(GIVEN) else _kept(name)


@functools.lru_cache(maxsize=2)
def _kept(name: str) -> Dataset:
    return _loaded(name)


def _loaded(name: str) -> Dataset:
    if name not in DATASETS and name.endswith(".npz"):
        return read_archive(name)
    if name not in DATASETS and (Path(name).is_dir() or ("/" in name and ":" not in name)):
        return folders.read(name)
    if name not in DATASETS and ":" not in name:
        names = ", ".join(DATASETS)
        raise InputError(f"`data` must be {names}, module:attribute, FILE.npz, a folder, or a hub id OWNER/NAME, got {name}")
    found = DATASETS[name]
    data = found if isinstance(found, Dataset) else found()
    if not isinstance(data, Dataset):
        raise InputError(f"`data` {name} must give a backends.datasets.base.Dataset, got {type(data).__name__}")
    return data
