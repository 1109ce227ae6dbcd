"""From arrays in one to three parts to a data set: checks them, and makes the parts that are not given."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.base import InputError, one_line
from backends.datasets.arrays import array, inputs, labels
from backends.datasets.base import FEWEST, Dataset, Split
from backends.datasets.drawing import drawn

__all__ = ["Part", "assembled", "check_rules", "divided", "parts_of", "read_archive"]

Part = tuple[Any, Any]
"""Inputs and labels of one part; ``None`` for labels that are not known."""

_PAIRS = (("images", "labels"), ("inputs", "labels"), ("x", "y"), ("data", "target"), ("image", "label"))
_PARTS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
_SETTINGS = ("value_range", "channels_last", "classes")
_SHARES = (0.6, 0.15, 0.25)


def assembled(
    name: str, parts: Mapping[str, Part], *, value_range: tuple[float, float] | None = None, channels_last: bool | None = None,
    classes: int | None = None, split: tuple[float, float, float] | None = None, seed: int = 0,
) -> Dataset:  # fmt: skip
    """The data set called ``name`` of ``parts``: train, and validation and test or what is made of train in place of them.

    The arguments are those of `backends.datasets.given.dataset`.

    Raises:
        InputError: these cannot be inputs, labels or parts.
    """
    check_rules(value_range, channels_last, classes)
    where = "`data`" if name == "data" else f"`data` {name}"
    arrays = {part: array(given[0], f"{where}: inputs of {part}") for part, given in parts.items()}
    tensors, form = inputs(where, arrays, value_range, channels_last)
    sizes = {part: len(values) for part, values in tensors.items()}
    numbers, found, names = labels(where, {part: given[1] for part, given in parts.items()}, sizes, classes)
    splits = divided(where, {part: Split(tensors[part], numbers[part]) for part in parts}, found, split, seed)
    return Dataset(name, found, *splits, form, names)


def check_rules(value_range: object = None, channels_last: object = None, classes: object = None) -> None:
    """Refuse what is of another type than these settings of `assembled` are.

    Raises:
        InputError: a setting is.
    """
    if value_range is not None and not _are_numbers(value_range, 2):
        raise InputError(f"`value_range` must be two numbers (low, high), got {value_range}")
    if channels_last is not None and not isinstance(channels_last, int | np.bool_):
        raise InputError(f"`channels_last` must be True or False, or None to recognise it, got {channels_last}")
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, Integral) or classes < 2):
        raise InputError(f"`classes` must be a whole number of 2 or more, got {classes}")


def _are_numbers(given: Any, count: int) -> bool:
    found = np.array(given, dtype=object)
    return found.shape == (count,) and all(isinstance(number, Real) for number in found)


def divided(
    where: str, parts: Mapping[str, Split], classes: int, split: tuple[float, float, float] | None = None, seed: int = 0
) -> tuple[Split, Split, Split]:
    """Train, validation and test, each in a random order that is stratified by class, as `drawn` makes it with ``seed``.

    What ``parts`` does not hold is drawn from train: a quarter of all for test, a fifth of the rest for validation, or as
    ``split``, the shares of train, validation and test, has it. The order of the inputs makes no difference.

    Raises:
        InputError: a part is too small, or lacks a class; or ``split`` is no division.
    """
    shares = _SHARES if split is None else split
    if not _are_numbers(shares, 3) or not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1.0) > 1e-6:
        raise InputError(f"`split` must be three shares for train, validation and test that add up to 1, got {shares}")
    pool, made = _drawn(parts["train"], seed), dict(parts)
    if "test" not in made:
        held = max(1, round(len(pool) * shares[2]))
        made["test"], pool = pool[:held], pool[held:]
    if "validation" not in made:
        kept = max(1, round(len(pool) * shares[1] / (shares[0] + shares[1])))
        made["validation"], pool = pool[:kept], pool[kept:]
    least, owned = max(FEWEST, classes), len(pool) + len(made["validation"])
    if owned < least or not len(pool):
        raise InputError(
            f"{where} must hold {least} inputs or more for train and validation, and others for test, got {owned} and "
            f"{len(made['test'])}: add inputs"
        )
    known = set(pool.labels.tolist())
    for part in ("validation", "test"):
        unknown = sorted(set(made[part].labels.tolist()) - known)
        if unknown:
            raise InputError(
                f"{where}: classes of {part} must be in train, got {unknown[0]}, which is not: add inputs of it there"
            )
    return _drawn(pool, seed), _drawn(made["validation"], seed), _drawn(made["test"], seed)


def _drawn(part: Split, seed: int) -> Split:
    order = drawn(Split(part.images, part.labels.clamp(min=0)), seed)
    return order if (part.labels >= 0).all() else Split(order.images, torch.full_like(order.labels, -1))


def parts_of(found: Mapping[str, Any], where: str) -> dict[str, Part]:
    """The parts in a dictionary of arrays: ``images`` and ``labels``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``.

    Also ``inputs`` and ``labels``, ``x`` and ``y``, ``data`` and ``target``. Labels may be missing.

    Raises:
        InputError: it holds none of these.
    """
    for x, y in _PAIRS:
        several = {
            part: (found[f"{x}_{word}"], found.get(f"{y}_{word}"))
            for part, words in _PARTS.items() for word in words if f"{x}_{word}" in found
        }  # fmt: skip
        if "train" in several:
            return several
    for x, y in sorted(_PAIRS, key=lambda pair: pair[1] not in found):
        if x in found:
            return {"train": (found[x], found.get(y))}
    names = ", ".join(map(str, found)) or "nothing"
    raise InputError(f"{where} must hold images and labels, x and y, or x_train, y_train, x_test and y_test, got {names}")


def read_archive(path: str, **settings: Any) -> Dataset:
    """The data set in the file ``path`` with the suffix ``.npz``, arrays as `parts_of` names them.

    It may also hold ``value_range``, ``channels_last`` and ``classes``; ``settings``, those of `assembled`, go first. Nothing
    in the file is executed.

    Raises:
        InputError: it cannot be read, or holds no such arrays.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            found: dict[str, Any] = {key: archive[key] for key in archive.files}
    except Exception as error:  # a file of unknown content may raise anything
        words = one_line(error, 160)
        raise InputError(
            f"`data` {path} must be a .npz file of arrays of numbers or words, as of numpy.savez, got {words}"
        ) from error
    held = {key: found.pop(key).tolist() for key in _SETTINGS if key in found}
    given = {key: value for key, value in settings.items() if value is not None}
    return assembled(path, parts_of(found, f"`data` {path}"), **{**held, **given})
