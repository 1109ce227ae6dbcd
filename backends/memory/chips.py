"""Random bit errors: which bits of the stored codes a chip gets wrong.

Bit ``j`` of weight ``i`` is wrong iff ``u_ij < p``, with ``u`` uniform on [0, 1), drawn once per chip in the order of the
addresses (Stutz et al., MLSys 2021, section 3). Hence errors at a lower rate are a subset of those at a higher one, and a
chip is the same chip whatever is stored in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from backends.interface import Chip
from backends.memory.codes import BITS, Codes

__all__ = ["with_errors"]


def with_errors(stored: Iterable[Codes], chip: Chip) -> Iterator[Codes]:
    """What ``chip`` reads back when ``stored`` lies in it one after the other from address 0. The input is not touched."""
    cells = np.random.default_rng(chip.seed)
    for codes in stored:
        wrong = cells.random((codes.values.numel(), BITS)) < chip.bit_error_rate
        mask = torch.from_numpy(np.packbits(wrong, axis=1, bitorder="little")).view(torch.int8).view(codes.values.shape)
        yield Codes(codes.values ^ mask, codes.scale)
