"""Independent cells: random flips and stuck cells, at a cost in proportion to the number of errors.

Every bit cell of a chip has a threshold ``u``, uniform on [0, 1), and is faulty iff ``u < p`` (Stutz et al., MLSys 2021,
section 3). Hence faults at a lower rate are a subset of those at a higher one, and a chip is the same chip whatever is stored
in it.

The thresholds are never drawn one by one. With levels ``1 = b_0 > b_1 > ... > b_L``, an independent random set ``S_k`` of cells
for each level holds a cell with probability ``q_k = 1 - (1 - b_k) / (1 - b_{k+1})``, ``q_L = b_L``, so that a cell is in any of
``S_k, S_{k+1}, ...`` with probability ``b_k``. For a rate between ``b_{k+1}`` and ``b_k`` the faulty cells are those of
``S_{k+1}, S_{k+2}, ...`` and those of ``S_k`` whose mark, uniform on [0, 1), is below ``(1 - (1 - p) / (1 - b_{k+1})) / q_k``.
The members of a set are found by geometric steps from one to the next, ``1 + floor(E / -log(1 - q))`` with ``E`` exponential,
so that they do not depend on the number of cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from backends.base import Chip
from backends.memory.encoding import Patterns, Places, Stored

__all__ = ["faulty_cells", "random_flips", "stuck_at_one", "stuck_at_zero", "stuck_cells"]

_LEVELS = [2.0 ** (-k / 2) for k in range(29)]  # below the last one, 6e-5, marks alone are cheap enough
_STEPS, _MARKS, _SIDES = range(3)
_BLOCK = 1 << 14  # these many numbers and what is made of them stay in the processor's cache


def random_flips(stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
    """Every faulty cell gives the opposite value (Stutz et al.). See `backends.memory.encoding.Errors`."""
    changed = _Changed(chip)
    for weights, mask, _ in _faults(stored, chip, values=False):
        written = stored.patterns[weights]
        wrong = written ^ read[weights]
        wrong |= mask
        read[weights] = written ^ wrong
        changed.add(weights)
    return changed.places


def stuck_cells(stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
    """Every faulty cell is stuck at 0 or 1, which are equally likely: at rate ``p`` about ``p / 2`` of the bits change.

    NeuralFuse's model (Sun et al. 2024, section 4.1 and its code) with independent cells. See `backends.memory.encoding.Errors`.
    """
    changed = _Changed(chip)
    for weights, mask, ones in _faults(stored, chip, values=True):
        read[weights] = (read[weights] & ~mask) | ones
        changed.add(weights)
    return changed.places


def stuck_at_one(stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
    """Every faulty cell reads 1: 0 -> 1 at the chip's rate, 1 -> 0 never. See `backends.memory.encoding.Errors`."""
    changed = _Changed(chip)
    for weights, mask, _ in _faults(stored, chip, values=False):
        read[weights] |= mask
        changed.add(weights)
    return changed.places


def stuck_at_zero(stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
    """Every faulty cell reads 0: 1 -> 0 at the chip's rate, 0 -> 1 never. See `backends.memory.encoding.Errors`."""
    changed = _Changed(chip)
    for weights, mask, _ in _faults(stored, chip, values=False):
        read[weights] &= ~mask
        changed.add(weights)
    return changed.places


class _Changed:
    """Where a chip was written, or everywhere, if that is quicker to copy than to remember."""

    def __init__(self, chip: Chip) -> None:
        self._few = chip.bit_error_rate < 1e-3
        self.places: list[Places] = [] if self._few else [slice(None)]

    def add(self, weights: NDArray[np.int64]) -> None:
        if self._few:
            self.places.append(weights)


def faulty_cells(chip: Chip, cells: int) -> Iterator[NDArray[np.int64]]:
    """Addresses below ``cells`` of the chip's faulty cells, ascending within a block; one may come again in a later block."""
    for addresses, _ in _members(chip, cells, values=False):
        yield addresses


def _faults(stored: Stored, chip: Chip, values: bool) -> Iterator[tuple[NDArray[np.int64], Patterns, Patterns]]:
    """Blocks of weights, the mask of their faulty bits, and with ``values`` which of these are stuck at 1.

    A weight with several faulty bits comes more than once in a block and then, all but the last of these times, again in a block
    of its own: a caller that reads and writes a block at once, where the last write counts, applies each of them in the end.
    """
    bits = stored.bits
    bit = np.array([1 << place for place in range(bits)], stored.patterns.dtype)
    shift = bits.bit_length() - 1
    for cells, high in _members(chip, stored.end, values):
        if stored.first:
            here = cells >= stored.first
            cells, high = cells[here] - stored.first, high[here]
        weights = cells >> shift if bits == 1 << shift else cells // bits  # numpy divides far slower than it shifts
        mask = bit[cells - weights * bits]
        ones = mask * high if values else mask
        while weights.size:
            yield weights, mask, ones
            again = np.flatnonzero(weights[1:] == weights[:-1])
            weights, mask, ones = weights[again], mask[again], ones[again]


def _members(chip: Chip, cells: int, values: bool) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Blocks of faulty cells and, with ``values``, which of them are stuck at 1.

    The highest level comes first, so that a cell in several of them comes last in the lowest, which every rate above includes:
    writing in this order leaves the same values there as at a lower rate.
    """
    rate = chip.bit_error_rate
    for level, upper in enumerate(_LEVELS):
        lower = _LEVELS[level + 1] if level + 1 < len(_LEVELS) else 0.0
        if rate <= lower:
            continue
        share = 1.0 - (1.0 - upper) / (1.0 - lower)
        marked_below = (1.0 - (1.0 - min(rate, upper)) / (1.0 - lower)) / share
        length = -1.0 / math.log1p(-share) if share < 1.0 else 0.0
        steps = _stream(chip.seed, level, _STEPS)
        marks = _stream(chip.seed, level, _MARKS) if marked_below < 1.0 else None
        sides = _stream(chip.seed, level, _SIDES) if values else None
        last = -1.0
        while last < cells:
            count = _drawn_at_once(share, cells - last)
            # whole numbers below 2^53, so that sums of float64 are exact
            addresses = steps.standard_exponential(count)
            addresses *= length
            np.floor(addresses, out=addresses)
            addresses += 1.0
            addresses[0] += last
            np.cumsum(addresses, out=addresses)
            last = float(addresses[-1])
            keep = addresses < cells
            if marks is not None:
                keep &= marks.random(count) < marked_below
            high = sides.random(count, np.float32) < 0.5 if sides is not None else keep
            found = addresses.astype(np.int64)
            yield (found, high) if keep.all() else (found[keep], high[keep])


def _drawn_at_once(share: float, left: float) -> int:
    """How many distances from one faulty cell to the next are drawn together: 16 and a tenth more than are expected of ``left``
    cells, at most a block. Which cells are faulty does not depend on it."""
    return min(_BLOCK, 16 + int(1.1 * share * left))


def _stream(seed: int, level: int, part: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, level, part))))
