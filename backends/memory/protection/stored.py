"""Protected bits of a memory: read from three copies, or from words with check bits, on chips of any kind of errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.base import Chip
from backends.memory.config import Quantization
from backends.memory.encoding import Errors, Patterns, Places, Stored, store
from backends.memory.protection.policy import Code, word

__all__ = ["Guarded", "Limited"]

_APART = 1_000_000
"""Between the seeds of a chip and of the memories of its copies and check bits; chips themselves have smaller ones."""

Masks = Mapping[str, Tensor]
"""The selected bits of each stored tensor, as int64 patterns that broadcast against it; a tensor that is missing has none."""


class Guarded:
    """``errors`` with the bits of ``masks`` protected by ``code``.

    ``tmr``: a bit is the majority of three copies; copies two and three lie in memories of their own, like the first and with as
    many errors. ``ecc``: protected bits, in order of their addresses, are the data of words whose check bits lie in a memory of
    their own; a word with one faulty cell is corrected, one with more stays as it is (a decoder may add one more error, which is
    not modelled). ``void``: no errors.
    """

    def __init__(self, errors: Errors, code: Code, masks: Masks) -> None:
        self._errors = errors
        self._code = code
        self._masks = masks

    def __call__(self, stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
        """See `backends.memory.encoding.Errors`."""
        places = self._errors(stored, read, chip)
        mask = _flat(stored, self._masks)
        if chip.bit_error_rate == 0.0 or not mask.any():
            return places
        wrong: Patterns = (read ^ stored.patterns) & mask
        left: Patterns = np.zeros_like(wrong)
        if self._code == "tmr":
            second, third = (self._wrong(stored, chip, copy) & mask for copy in (1, 2))
            np.bitwise_or(wrong & second, (wrong | second) & third, out=left)
        elif self._code != "void":
            left = self._uncorrected(wrong, mask, chip)
        np.bitwise_xor(read, wrong ^ left, out=read)
        return [slice(None)]

    def _wrong(self, stored: Stored, chip: Chip, copy: int) -> Patterns:
        read = stored.patterns.copy()
        self._errors(stored, read, Chip(chip.bit_error_rate, chip.seed + copy * _APART))
        read ^= stored.patterns
        return read

    def _uncorrected(self, wrong: Patterns, mask: Patterns, chip: Chip) -> Patterns:
        data, check = word(self._code)
        protected = _ones(mask)
        first = np.cumsum(protected) - protected
        words = -(-int(protected.sum()) // data)
        blank = store({"check": torch.zeros(words)}, Quantization())
        faults = _ones(self._wrong(blank, chip, 1) & np.uint8(2**check - 1))
        (weights,) = np.nonzero(wrong)
        places = []
        for bit in range(8 * wrong.itemsize):
            one = wrong.dtype.type(1 << bit)
            here = weights[(wrong[weights] & one) != 0]
            at = (first[here] + _ones(mask[here] & (one - wrong.dtype.type(1)))) // data
            faults += np.bincount(at, minlength=words)
            places.append((here, one, at))
        left = np.zeros_like(wrong)
        for here, one, at in places:
            left[here[faults[at] > 1]] |= one
        return left


class Limited:
    """``errors`` confined to the bits of ``masks``, to measure the effect of one channel or one bit alone."""

    def __init__(self, errors: Errors, masks: Masks) -> None:
        self._errors = errors
        self._masks = masks

    def __call__(self, stored: Stored, read: Patterns, chip: Chip) -> list[Places]:
        """See `backends.memory.encoding.Errors`."""
        self._errors(stored, read, chip)
        kept = (read ^ stored.patterns) & _flat(stored, self._masks)
        np.bitwise_xor(stored.patterns, kept, out=read)
        return [slice(None)]


def _flat(stored: Stored, masks: Masks) -> Patterns:
    """The masks of all stored tensors in the order of their patterns."""
    flat: NDArray[np.unsignedinteger] = np.zeros_like(stored.patterns)
    for name, slot in stored.slots.items():
        if name in masks:
            flat[slot.place] = masks[name].expand(slot.shape).reshape(-1).numpy().astype(flat.dtype)
    return flat


def _ones(patterns: Patterns) -> NDArray[np.int64]:
    """How many bits of each pattern are 1."""
    bits: NDArray[np.int64] = np.unpackbits(patterns.view(np.uint8).reshape(-1, patterns.itemsize), axis=1).sum(1, dtype=np.int64)
    return bits
