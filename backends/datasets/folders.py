"""Data sets from folders of images and from the hub, read by the library ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import InputError, one_line
from backends.datasets.assembly import divided
from backends.datasets.base import FEWEST, Dataset, Split
from backends.datasets.drawing import drawn
from backends.datasets.pictures import levels

__all__ = ["of", "read"]

_TENTH = 10
_MODES = {1: "grey", 3: "colour"}


def read(name: str) -> Dataset:
    """The data set in the folder or with the hub id ``name``, with columns ``image`` and ``label``.

    With the splits ``train`` and ``test`` a tenth of ``train`` is kept for validation; with ``train`` alone, which is what a
    folder of class folders has, `divided` makes the others. What is kept and the order of each part are drawn at random and
    stratified: of the first n images of a part, each class has n times its share of that part, rounded down or up. The seed is
    fixed, and images are ordered by their content before they are drawn, so that the draw is the same whatever the names and
    the order of the files.

    Raises:
        InputError: there is no such data set, or it is not one of images of one size with their classes.
    """
    found = _opened(name)
    return of(name, {part: rows for part, rows in found.items() if part in ("train", "test")} or found)


def of(name: str, found: Mapping[str, Any], seed: int = 0) -> Dataset:
    """The data set called ``name`` of the splits ``found``, data sets of the library datasets; ``seed`` draws as in `read`.

    Raises:
        InputError: see `read`.
    """
    if "train" not in found:
        raise InputError(f"`data` {name} must have the splits train and test, got {', '.join(found)}")
    labels = {part: _labels(name, part, rows) for part, rows in found.items()}
    classes = _classes(name, labels["train"], labels.get("test"))
    pictures = {part: _pictures(name, part, rows) for part, rows in found.items()}
    _check_alike(name, pictures, found)
    splits = {part: Split(_tensor(pictures[part]), torch.tensor(labels[part])) for part in found}
    if set(splits) != {"train", "test"}:
        return Dataset(name, classes, *divided(f"`data` {name}", splits, classes, seed=seed))
    pool = drawn(splits["train"], seed)
    kept = len(pool) // _TENTH
    return Dataset(name, classes, drawn(pool[kept:], seed), drawn(pool[:kept], seed), drawn(splits["test"], seed))


def _opened(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"`data` {name} needs the library datasets, which is not installed: python -m pip install datasets pillow"
        ) from error
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # the library has many readers, each with errors of its own
        words = one_line(error)
        raise InputError(f"`data` {name} cannot be read as a folder or hub id: {words}") from error


def _labels(name: str, part: str, rows: Any) -> list[int]:
    if not {"image", "label"} <= set(rows.column_names):
        raise InputError(f"`data` {name} must have the columns image and label, got {', '.join(rows.column_names)}")
    labels = list(rows["label"][:])
    for place, label in enumerate(labels):
        if type(label) is not int or label < 0:
            raise InputError(
                f"`data` {name}: labels must be whole numbers from 0 on, {part} image {place} has {label!r}: give it its class, "
                "or drop it"
            )
    return labels


def _classes(name: str, train: list[int], test: list[int] | None) -> int:
    if test is not None and not test:
        raise InputError(f"`data` {name}: the split test must hold images, got none: move some of train there")
    classes = max(train, default=0) + 1
    if len(train) < max(FEWEST, classes):
        raise InputError(
            f"`data` {name}: the split train must hold {FEWEST} images or more, and one for each class, got {len(train)} with "
            f"labels up to {classes - 1}: add images, or number the classes from 0 on"
        )
    if len(set(train)) == 1:
        raise InputError(f"`data` {name}: train must hold two classes or more, got {classes - 1} alone: add images of others")
    unknown = sorted(set(test or ()) - set(train))
    if unknown:
        raise InputError(
            f"`data` {name}: classes of the split test must be in train, got {unknown[0]}, which is not: add images of it there"
        )
    return classes


def _pictures(name: str, part: str, rows: Any) -> list[NDArray[Any]]:
    pictures: list[NDArray[Any]] = []
    remaining = iter(rows)
    while len(pictures) < len(rows):
        try:
            picture = next(remaining)["image"]
        except Exception as error:  # the library has many readers, each with errors of its own
            words = one_line(error)
            raise InputError(
                f"{_which(name, part, rows, len(pictures))} must be a whole image file, got {words}: replace or remove it"
            ) from error
        try:
            pictures.append(levels(picture))
        except InputError as error:
            raise InputError(f"{_which(name, part, rows, len(pictures))} {error}") from error
    return pictures


def _check_alike(name: str, pictures: Mapping[str, list[NDArray[Any]]], found: Any) -> None:
    height, width, channels = pictures["train"][0].shape
    for part, made in pictures.items():
        for place, picture in enumerate(made):
            if picture.shape[2] != channels:
                rule, got, way_out = _MODES[channels], _MODES[picture.shape[2]], "convert all to one mode"
            elif picture.shape[:2] != (height, width):
                rule, got = f"{width}x{height}", f"{picture.shape[1]}x{picture.shape[0]}"
                way_out = "crop or scale all to one size"
            else:
                continue
            where = _which(name, part, found[part], place)
            raise InputError(f"{where} must be {rule} as train image 0 is, got {got}: {way_out}")
    brightest = max(float(picture.max()) for made in pictures.values() for picture in made)
    if brightest <= 1.0:
        raise InputError(
            f"`data` {name}: pixels must use the range from 0 to 255 (65,535 where they have 16 bits), the brightest is at "
            f"{brightest:.3g} of 255: multiply them"
        )


def _which(name: str, part: str, rows: Any, place: int) -> str:
    """How a message names an image: by its file, where it has one."""
    import datasets

    path = None
    if isinstance(rows.features["image"], datasets.Image):
        path = (rows.cast_column("image", datasets.Image(decode=False))[place]["image"] or {}).get("path")
    return f"`data` {name}: {part} image {place}{f' ({path})' if path else ''}"


def _tensor(pictures: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)
