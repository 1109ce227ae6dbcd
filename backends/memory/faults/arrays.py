"""Chips whose cells are not alike: one array of 8192 x 128 cells, used again and again by weights that it cannot hold at once.

A cell may be faulty in two ways: holding 0 it reads 1, or holding 1 it reads 0.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from backends.base import Chip, InputError
from backends.memory.encoding import Patterns, Places, Stored

__all__ = ["Columns", "Profile", "neuralfuse_map"]

ROWS, COLUMNS = 8192, 128
_TO_ONE = 0.8
_COLUMN_SHARE = 0.7

Cells = NDArray[np.bool_]


def neuralfuse_map(stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
    """The stuck-at map of NeuralFuse's code: its numbers, its layout and its repetitions.

    Of 8192 x 128 cells those are faulty where numpy's legacy generator with ``chip.seed`` is below the rate, and stuck at 1
    where the one with ``chip.seed + 1`` is below 1/2, else at 0. A row holds ``n = 128 // bits`` weights. Every tensor begins in
    the first row, and every row is repeated ``n`` times, so that ``n^2`` weights in succession share the cells of ``n``.
    """
    bits = stored.bits
    weights = COLUMNS // bits
    # rows that no tensor reaches come last and need not be drawn
    rows = min(ROWS, math.ceil(max(place.stop - place.start for place in stored.places) / weights**2))
    faulty = np.random.RandomState(chip.seed).random_sample((rows, COLUMNS)) < chip.bit_error_rate
    high = np.random.RandomState(chip.seed + 1).random_sample((rows, COLUMNS)) < 0.5
    ones, zeros = (
        np.repeat(_packed((faulty & kind)[:, : weights * bits], bits).reshape(rows, 1, weights), weights, axis=1).reshape(-1)
        for kind in (high, ~high)
    )
    for place in stored.places:
        _laid_over(read[place], ones, zeros)
    return [slice(None)]


class Columns:
    """Faults along bit lines, as on the profiled chips 2 and 3 of Stutz et al. 2021.

    Cell ``i`` of column ``c`` is faulty iff ``sqrt(h) x_c + sqrt(1 - h) e_i < t``, with ``x`` and ``e`` standard normal and
    ``t`` such that the columns' rates ``Phi((t - sqrt(h) x_c) / sqrt(1 - h))`` have the mean ``p`` exactly: monotone in ``p``,
    rates 0 and 1 included. ``h = 0.7`` is fitted to a segment of chip 2, 256 rows with 3.9 % faulty cells: the worst 4, 8 and 13
    of its 128 columns hold 41, 64 and 80 % of the faults, and 87 columns have none (here on average 44, 65 and 79 %, and 76
    columns). Four faults in five read 1 for 0, about as on both chips. Which of them change a bit depends on what is stored.
    """

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset

    def __call__(self, stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
        """See `backends.memory.encoding.Errors`."""
        return _wrapped(stored, read, *self.faults(chip), self._offset)

    @staticmethod
    def faults(chip: Chip) -> tuple[Cells, Cells]:
        """Cells (8192, 128) that read 1 for 0, and those that read 0 for 1."""
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence((chip.seed, ROWS, COLUMNS))))
        deviation = rng.standard_normal(COLUMNS) * _COLUMN_SHARE**0.5
        spread = (1.0 - _COLUMN_SHARE) ** 0.5
        rate = chip.bit_error_rate
        rates = np.full(COLUMNS, rate)
        if 0.0 < rate < 1.0:
            from scipy.optimize import brentq  # half a second: only for chips of this kind

            limit = brentq(lambda t: ndtr((t - deviation) / spread).mean() - rate, *_bracket(rate, deviation, spread), xtol=1e-13)
            rates = ndtr((limit - deviation) / spread)
        faulty = rng.random((ROWS, COLUMNS)) < rates
        to_one = rng.random((ROWS, COLUMNS)) < _TO_ONE
        return faulty & to_one, faulty & ~to_one


def _bracket(rate: float, deviation: NDArray[np.float64], spread: float) -> tuple[float, float]:
    return float(deviation.min() + spread * ndtri(rate)), float(deviation.max() + spread * ndtri(rate))


class Profile:
    """A measured chip, from an ``.npz`` with the probabilities that a cell fails at each of its operating points.

    ``rate`` (k,): the bit error rates of the operating points, ascending, in (0, 1]; ``to_one`` and ``to_zero`` (k, rows,
    columns): the probabilities, in [0, 1], that a cell reads 1 for 0 and 0 for 1. A probability of 1 is a fault that is always
    there (persistent); any other is a transient one, and the chip's seed decides once for all reads, as for one load of the
    weights: cell ``i`` fails iff ``u_i``, uniform, is below its probability. The first stored bit lies in cell ``offset``, the
    next ones follow row after row, and beyond the last cell comes the first again.
    """

    def __init__(self, path: str | Path, offset: int = 0) -> None:
        """Read and check the file.

        Raises:
            InputError: it cannot be read, lacks an array, or has a wrong shape or number.
        """
        self._offset = offset
        self._path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name]) for name in ("rate", "to_one", "to_zero")}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, AttributeError, TypeError) as error:
            raise InputError(f"{path} is no chip profile with arrays rate, to_one and to_zero: {error}") from error
        for name, values in arrays.items():
            if values.dtype.kind not in "fiu":
                raise InputError(f"{path}: {name} must be numbers, got {values.dtype}")
            wrong = values[~((values >= 0) & (values <= 1))]
            if wrong.size:
                raise InputError(f"{path}: {name} must lie in [0, 1], got {wrong.flat[0]}")
        self._rates, self._to_one, self._to_zero = arrays.values()
        points = len(self._rates) if self._rates.ndim == 1 else 0
        if not points or not (np.diff(self._rates, prepend=0.0) > 0).all():
            raise InputError(f"{path}: rate must be a list of ascending rates above 0, got {self._rates.tolist()}")
        for name in ("to_one", "to_zero"):
            shape = arrays[name].shape
            if len(shape) != 3 or shape[0] != points or not arrays[name].size or shape != arrays["to_one"].shape:
                raise InputError(f"{path}: {name} must have the shape ({points}, rows, columns) of to_one, got {shape}")

    def point(self, bit_error_rate: float) -> int:
        """The operating point with that rate.

        Raises:
            InputError: there is none.
        """
        (found,) = np.nonzero(np.isclose(self._rates, bit_error_rate, rtol=1e-6, atol=0.0))
        if not found.size:
            raise InputError(
                f"`bit_error_rate` must be one of {self._path}'s {', '.join(f'{rate:g}' for rate in self._rates)}, "
                f"got {bit_error_rate:g}"
            )
        return int(found[0])

    def __call__(self, stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
        """See `backends.memory.encoding.Errors`; rates are those of the operating points, and 0."""
        if chip.bit_error_rate == 0.0:
            return []
        point = self.point(chip.bit_error_rate)
        draw = np.random.Generator(np.random.SFC64(np.random.SeedSequence(chip.seed))).random(self._to_one.shape[1:])
        return _wrapped(stored, read, draw < self._to_one[point], draw < self._to_zero[point], self._offset)


def _wrapped(stored: Stored, read: Patterns, to_one: Cells, to_zero: Cells, offset: int) -> list[Places]:
    """Read through an array of cells, row after row from cell ``offset`` on, as often as it takes."""
    bits = stored.bits
    # the pattern of weights repeats after so many passes over the array
    passes = bits // np.gcd(bits, to_one.size)
    ones, zeros = (
        _packed(np.tile(np.roll(cells.reshape(-1), -(offset + stored.first) % cells.size), passes), bits)
        for cells in (to_one, to_zero)
    )
    _laid_over(read, ones, zeros)
    return [slice(None)]


def _packed(cells: Cells, bits: int) -> Patterns:
    """Cells in order of their addresses as patterns of ``bits`` bits, lowest first."""
    weights = cells.reshape(-1, bits)
    if bits == 8:
        return np.packbits(weights, axis=1, bitorder="little").reshape(-1)
    kind = np.uint8 if bits <= 8 else np.uint16
    places = np.array([1 << place for place in range(bits)], kind)
    patterns: Patterns = (weights * places).sum(1, dtype=kind)
    return patterns


def _laid_over(read: Patterns, ones: Patterns, zeros: Patterns) -> None:
    """Turn 0s in ``ones`` and 1s in ``zeros``, in place, the masks repeated from the first weight of ``read`` to its last."""
    whole = len(read) // len(ones) * len(ones)
    rows, rest = read[:whole].reshape(-1, len(ones)), read[whole:]
    for part, one, zero in ((rows, ones, zeros), (rest, ones[: len(rest)], zeros[: len(rest)])):
        np.bitwise_xor(part, (part & zero) | (~part & one), out=part)
