"""Arrays of the user's as inputs and labels: what they may be, their range and layout, their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import InputError, one_line
from backends.datasets.form import Form

__all__ = ["array", "inputs", "labels"]

_CHANNELS = (1, 3, 4)
_SMALLEST_SIDE = 8
_LONGEST = 4
_SLACK = 1e-5


def array(values: Any, what: str) -> NDArray[Any]:
    """``values``, an array, a tensor or lists of these, as one array; ``what`` names it in a message.

    Raises:
        InputError: they are of several sizes, or no array.
    """
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            values = torch.stack(list(values))
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        words = one_line(error, 160)
        raise InputError(f"{what} must be one array, all of one size, got {words}: crop or scale them") from error


def inputs(
    where: str, parts: Mapping[str, NDArray[Any]], value_range: tuple[float, float] | None, channels_last: bool | None
) -> tuple[dict[str, Tensor], Form]:
    """The inputs of each part, float32 (n, *shape) in [-1, 1], and the form they were in. ``where`` begins each message.

    Raises:
        InputError: they are empty, not finite numbers or not alike, or their range is unknown or wider than ``value_range``.
    """
    first = parts["train"]
    for part, found in parts.items():
        _check(f"{where}: inputs of {part}", found, first)
    form = _form(where, parts, value_range, channels_last)
    for part, found in parts.items() if value_range is not None else ():
        slack = _SLACK * (form.high - form.low)
        if found.min() < form.low - slack or found.max() > form.high + slack:
            raise InputError(
                f"{where}: inputs of {part} must lie in `value_range` ({form.low:g}, {form.high:g}), got {found.min():g} to "
                f"{found.max():g}: give the range that the target takes, or clip them"
            )
    made = {part: torch.from_numpy(np.ascontiguousarray(found, np.float32)) for part, found in parts.items()}
    return {part: form.inward(values).clamp_(-1.0, 1.0) for part, values in made.items()}, form


def _check(what: str, found: NDArray[Any], first: NDArray[Any]) -> None:
    if found.dtype.kind not in "buif":
        raise InputError(f"{what} must be numbers of one size, got an array of type {found.dtype}: convert, crop or scale them")
    if found.ndim < 2 or 0 in found.shape:
        raise InputError(f"{what} must have an axis of inputs and one or more of values, none of them empty, got {found.shape}")
    if found.shape[1:] != first.shape[1:]:
        raise InputError(
            f"{what} must have the shape {first.shape[1:]} as those of train, got {found.shape[1:]}: crop or scale them"
        )
    if found.dtype.kind != first.dtype.kind:
        raise InputError(f"{what} must be of type {first.dtype} as those of train, got {found.dtype}: convert them")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        wrong = np.argwhere(~np.isfinite(found))
        raise InputError(
            f"{what} must be finite, got {len(wrong)} values that are not, the first in input {wrong[0][0]}: replace them"
        )


def _form(where: str, parts: Mapping[str, NDArray[Any]], given: tuple[float, float] | None, last: bool | None) -> Form:
    train = parts["train"]
    sides = train.shape[1:]
    image = len(sides) == 2 and min(sides) >= _SMALLEST_SIDE and max(sides) <= _LONGEST * min(sides)
    squeezed = image and last is None
    if last is None:
        last = len(sides) == 3 and sides[-1] in _CHANNELS and sides[0] not in _CHANNELS
    low, high = _range(where, parts) if given is None else given
    return Form(float(low), float(high), last and len(sides) > 1, train.dtype.kind in "bui", squeezed)


def _range(where: str, parts: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    train = parts["train"]
    if train.dtype == np.uint8:
        return 0.0, 255.0
    if train.dtype == np.bool_:
        return 0.0, 1.0
    if train.ndim == 2:
        low, high = float(train.min()), float(train.max())
        if low == high:
            raise InputError(f"{where}: inputs must differ, got {low:g} everywhere: give others, or `value_range`")
        return low, high
    low, high = min(float(found.min()) for found in parts.values()), max(float(found.max()) for found in parts.values())
    if train.dtype.kind == "f" and low >= -1.0 and high <= 1.0:
        return (0.0 if low >= 0.0 else -1.0), 1.0
    raise InputError(
        f"{where}: the range of inputs of type {train.dtype} is not known, they go from {low:g} to {high:g}: give "
        "`value_range=(low, high)`, what the target takes at least and at most"
    )


def labels(
    where: str, parts: Mapping[str, Any], sizes: Mapping[str, int], classes: int | None
) -> tuple[dict[str, Tensor], int, tuple[str, ...]]:
    """The labels (n,) of each part as int64, the number of classes, and the names of these if labels are words.

    ``parts`` holds whole numbers, words, or rows with a single 1; ``sizes`` is the number of inputs. Without any labels all are
    -1, and classes are 0 if not given.

    Raises:
        InputError: labels are missing for some inputs, are none of these, or name one class alone.
    """
    missing = [part for part, given in parts.items() if given is None]
    if len(missing) == len(parts):
        return {part: torch.full((size,), -1) for part, size in sizes.items()}, classes or 0, ()
    if missing:
        raise InputError(f"{where}: labels must be given for all parts or for none, got none for {missing[0]}: add or drop them")
    found = {part: _flat(f"{where}: labels of {part}", given, sizes[part]) for part, given in parts.items()}
    names: tuple[str, ...] = ()
    if any(values.dtype.kind == "U" for values, _ in found.values()):
        names = tuple(sorted({str(name) for values, _ in found.values() for name in values}))
        found = {part: (np.searchsorted(names, values.astype(str)), 0) for part, (values, _) in found.items()}
    largest = max(int(values.max()) for values, _ in found.values())
    number = classes or max(largest + 1, *(columns for _, columns in found.values()))
    if largest >= number:
        raise InputError(
            f"{where}: labels must lie in [0, {number}), got {largest}: number the classes from 0 on, or set `classes`"
        )
    if len(set(found["train"][0].tolist())) == 1:
        only = found["train"][0][0]
        raise InputError(
            f"{where}: labels must be of two classes or more, got {names[only] if names else only} alone: add others"
        )
    return {part: torch.from_numpy(values.astype(np.int64)) for part, (values, _) in found.items()}, number, names


def _flat(what: str, given: Any, size: int) -> tuple[NDArray[Any], int]:
    """Labels (n,) and the number of columns if they were rows with a single 1, else 0."""
    found, columns = array(given, what), 0
    if found.dtype.kind == "S" or (found.dtype.kind == "O" and all(isinstance(name, str) for name in found.flat)):
        found = found.astype(str)
    if found.dtype.kind not in "buifU":
        raise InputError(f"{what} must be whole numbers or words, got an array of type {found.dtype}")
    if found.ndim == 0 or len(found) != size:
        raise InputError(
            f"{what} must be one for each input, got {found.size if found.ndim == 0 else len(found)} for {size} inputs"
        )
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim == 2 and found.dtype.kind != "U":
        if not (np.isin(found, (0, 1)).all() and (found.sum(1) == 1).all()):
            raise InputError(f"{what} must be rows with a single 1, got other rows: give whole numbers, as of argmax(1)")
        found, columns = found.argmax(1), found.shape[1]
    if found.ndim != 1:
        raise InputError(f"{what} must have the shape ({size},) or ({size}, classes), got {found.shape}")
    if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found == np.round(found)).all()):
        raise InputError(f"{what} must be whole numbers, got {found[~(found == np.round(found)) | ~np.isfinite(found)][0]:g}")
    if found.dtype.kind != "U" and found.min() < 0:
        raise InputError(f"{what} must be whole numbers from 0 on, got {found.min():g}: number the classes from 0 on")
    return (found if found.dtype.kind == "U" else found.astype(np.int64)), columns
