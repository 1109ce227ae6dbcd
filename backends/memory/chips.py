"""Random bit errors: which bits of the stored codes a chip gets wrong.

Every bit cell of a chip has a threshold ``u``, uniform on [0, 1), and is wrong iff ``u < p`` (Stutz et al., MLSys 2021,
section 3). Hence errors at a lower rate are a subset of those at a higher one, and a chip is the same chip whatever is stored
in it.

The thresholds are never drawn one by one: the work is proportional to the number of errors. With levels
``1 = b_0 > b_1 > ... > b_L``, an independent random set ``S_k`` of cells for each level holds a cell with probability
``q_k = 1 - (1 - b_k) / (1 - b_{k+1})``, ``q_L = b_L``, so that a cell is in any of ``S_k, S_{k+1}, ...`` with probability
``b_k``. For a rate between ``b_{k+1}`` and ``b_k`` the wrong cells are those of ``S_{k+1}, S_{k+2}, ...`` and those of ``S_k``
whose mark, uniform on [0, 1), is below ``(1 - (1 - p) / (1 - b_{k+1})) / q_k``. The members of a set are found by geometric
steps from one to the next, ``1 + floor(E / -log(1 - q))`` with ``E`` exponential, so that they do not depend on how many cells
are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from backends.interface import Chip
from backends.memory.codes import BITS, Codes

__all__ = ["with_errors", "wrong_cells"]

_LEVELS = [2.0 ** (-k / 2) for k in range(55)]
_BLOCK = 1 << 16
_BIT = np.array([1 << bit for bit in range(BITS)], np.uint8)


def with_errors(stored: Iterable[Codes], chip: Chip) -> Iterator[Codes]:
    """What ``chip`` reads back when ``stored`` lies in it one after the other from address 0. The input is not touched."""
    tensors = list(stored)
    read = np.zeros(sum(codes.values.numel() for codes in tensors), np.uint8)
    for cells in wrong_cells(chip, read.size * BITS):
        np.bitwise_or.at(read, cells // BITS, _BIT[cells % BITS])
    start = 0
    for codes in tensors:
        part = read[start : start + codes.values.numel()]
        # the mask becomes what is read, so that a chip takes one byte a weight and no more
        np.bitwise_xor(codes.values.numpy().view(np.uint8).reshape(-1), part, out=part)
        yield Codes(torch.from_numpy(part.view(np.int8)).view(codes.values.shape), codes.scale)
        start += part.size


def wrong_cells(chip: Chip, cells: int) -> Iterator[NDArray[np.int64]]:
    """Addresses below ``cells`` of the bits that ``chip`` gets wrong, in blocks, in no order; one may come more than once."""
    rate = chip.bit_error_rate
    for level, upper in enumerate(_LEVELS):
        lower = _LEVELS[level + 1] if level + 1 < len(_LEVELS) else 0.0
        if rate > lower:
            share = 1.0 - (1.0 - upper) / (1.0 - lower)
            marked_below = (1.0 - (1.0 - min(rate, upper)) / (1.0 - lower)) / share
            yield from _members(chip.seed, level, share, cells, marked_below)


def _members(seed: int, level: int, share: float, cells: int, marked_below: float) -> Iterator[NDArray[np.int64]]:
    """The members of one level's set with marks below ``marked_below``, block by block."""
    steps, marks = (np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, level, part)))) for part in (0, 1))
    length = -1.0 / math.log1p(-share) if share < 1.0 else 0.0
    last = -1
    while last < cells:
        count = min(_BLOCK, 16 + int(1.1 * share * (cells - last)))
        # the largest step is far beyond any memory and is cut there, so that the sum cannot overflow
        gaps = np.minimum(steps.standard_exponential(count) * length, 2.0**46).astype(np.int64) + 1
        addresses = last + np.cumsum(gaps)
        last = int(addresses[-1])
        keep = addresses < cells
        if marked_below < 1.0:
            keep &= marks.random(count) < marked_below
        yield addresses[keep]
