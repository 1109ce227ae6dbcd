"""A data set from whatever the user has: arrays, tensors, data sets and loaders of PyTorch or of the library datasets, a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.base import InputError
from backends.datasets import folders
from backends.datasets.arrays import array
from backends.datasets.assembly import Part, assembled, check_rules, parts_of, read_archive
from backends.datasets.base import Dataset
from backends.datasets.form import Form
from backends.datasets.loading import load

__all__ = ["dataset"]

_PARTS = ("train", "validation", "test")


def dataset(
    data: Any, *, name: str = "data", labels: Any = None, value_range: tuple[float, float] | None = None,
    channels_last: bool | None = None, classes: int | None = None, split: tuple[float, float, float] | None = None, seed: int = 0,
) -> Dataset:  # fmt: skip
    """``data`` as a `Dataset`: checked, scaled to [-1, 1], channels first, and in three parts.

    Args:
        data: ``(inputs, labels)``, arrays, tensors or lists; inputs alone; a dictionary of ``train``, ``validation`` and
            ``test`` of any kind here, or of arrays called ``x_train`` and so on; a data set or loader of PyTorch that gives
            such pairs; a ``Dataset`` or ``DatasetDict`` of the library datasets with the columns ``image`` and ``label``; a
            `Dataset`; or a registered name, a folder of images, a hub id, or the path of a ``.npz`` file.
        name: what the data set is called in messages and files.
        labels: labels of ``data``, if these are inputs alone: whole numbers from 0 on, words, or rows with a single 1.
        value_range: the lowest and the highest value that the target takes. If not given it is 0 to 255 for uint8; [0, 1] or
            [-1, 1] for other arrays that lie in them; for tables (n, features) from the smallest to the largest value of train,
            to which the other parts are clipped. Pictures of files are given to the target in [-1, 1].
        channels_last: whether channels are the last axis. If not given it is taken so where only the last axis is 1, 3 or 4 long.
            Arrays (n, height, width) are images of one channel, sequences (n, channels, time) if this is given.
        classes: the number of classes, if labels do not show it.
        split: shares of train, validation and test for what is not given in parts, 0.6, 0.15 and 0.25 if not given.
        seed: of the division and of the order of inputs.

    Raises:
        InputError: it is no such thing; the message says what was found, and what to do.
    """
    check_rules(value_range, channels_last, classes)
    rules = {"value_range": value_range, "channels_last": channels_last, "classes": classes, "split": split}
    if isinstance(data, str | Path) and str(data).endswith(".npz"):
        return read_archive(str(data), **rules, seed=seed)
    pictures = _pictures(data)
    if isinstance(data, str | Path | Dataset) or pictures is not None:
        if labels is not None or classes is not None or split is not None:
            raise InputError("`labels`, `classes` and `split` are for arrays: a data set that has a name or pictures has its own")
        found = data if isinstance(data, Dataset) else load(str(data)) if pictures is None else folders.of(name, pictures, seed)
        if value_range is None and channels_last is None:
            return found
        low, high = value_range or (found.form.low, found.form.high)
        return dataclasses.replace(found, form=Form(low, high, bool(channels_last)))
    where = "`data`" if name == "data" else f"`data` {name}"
    return assembled(name, _parts(data, labels, where), **rules, seed=seed)  # type: ignore[arg-type]


def _pictures(data: Any) -> dict[str, Any] | None:
    """The parts of ``data`` if it is made of data sets of the library datasets, else ``None``."""
    if hasattr(data, "column_names") and hasattr(data, "features") and not isinstance(data, Mapping):
        return {"train": data}
    if isinstance(data, Mapping) and data and all(hasattr(part, "column_names") for part in data.values()):
        return dict(data)
    return None


def _parts(data: Any, labels: Any, where: str) -> dict[str, Part]:
    if labels is not None:
        return {"train": (data, labels)}
    if not isinstance(data, Mapping):
        return {"train": _pair(data, where)}
    if "train" not in data:
        return parts_of(data, where)
    unknown = [part for part in data if part not in _PARTS]
    if unknown:
        raise InputError(f"{where} must have the parts {', '.join(_PARTS)}, train at least, got {unknown[0]}: rename or drop it")
    return {part: _pair(value, where) for part, value in data.items()}


def _pair(value: Any, where: str) -> Part:
    """Inputs and labels of what stands for one part."""
    if isinstance(value, tuple):
        if len(value) != 2:
            raise InputError(
                f"{where} must be (inputs, labels), got {len(value)} entries: give inputs alone, or a dictionary of parts"
            )
        return value
    if isinstance(value, Mapping):
        return parts_of(value, where)["train"]
    if isinstance(value, torch.utils.data.DataLoader):
        inputs, labels = _columns(value, where)
        return _joined(inputs, where), None if labels is None else np.concatenate(labels)
    if isinstance(value, torch.utils.data.Dataset):
        counted = hasattr(value, "__len__") and hasattr(value, "__getitem__")
        inputs, labels = _columns((value[place] for place in range(len(value))) if counted else value, where)  # type: ignore[arg-type]
        return _joined([part[None] for part in inputs], where), None if labels is None else np.stack(labels)
    if not hasattr(value, "__len__"):
        raise InputError(
            f"{where} must be (inputs, labels), inputs alone, a dictionary of parts, a data set or loader, a name or a file, got "
            f"{type(value).__name__}"
        )
    return value, None


def _columns(items: Iterable[Any], where: str) -> tuple[list[NDArray[Any]], list[NDArray[Any]] | None]:
    """Inputs and labels of ``items``: pairs of them, or inputs alone."""
    inputs: list[NDArray[Any]] = []
    labels: list[NDArray[Any]] = []
    for item in items:
        pair = isinstance(item, tuple | list)
        if hasattr(item[0] if pair else item, "getbands"):
            raise InputError(f"{where} must give arrays or tensors, got a picture: transform pictures to tensors first")
        inputs.append(array(item[0] if pair else item, f"{where}: input {len(inputs)}"))
        if pair and len(item) > 1:
            labels.append(array(item[1], f"{where}: label {len(labels)}"))
    if not inputs:
        raise InputError(f"{where} must hold inputs, got none")
    if labels and len(labels) != len(inputs):
        raise InputError(f"{where} must give a label with every input or with none, got {len(labels)} for {len(inputs)}")
    return inputs, labels or None


def _joined(inputs: list[NDArray[Any]], where: str) -> NDArray[Any]:
    shape = inputs[0].shape[1:]
    for number, part in enumerate(inputs):
        if part.shape[1:] != shape:
            raise InputError(
                f"{where}: inputs must have the shape {shape} of the first, got {part.shape[1:]} at {number}: crop or scale them"
            )
    return np.concatenate(inputs)
