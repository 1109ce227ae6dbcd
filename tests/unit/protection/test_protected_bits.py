"""Copies, words with check bits and masks, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import NOMINAL, Chip
from backends.memory.config import Quantization
from backends.memory.encoding import Errors, Stored, store
from backends.memory.faults.independent import random_flips, stuck_at_one, stuck_cells
from backends.memory.protection.policy import Code
from backends.memory.protection.stored import Guarded, Limited

APART = 1_000_000
WORDS = {"ecc8": (8, 5), "ecc16": (16, 6), "ecc32": (32, 7), "ecc64": (64, 8)}


def written(bits: int) -> Stored:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(5, 3, 4, generator=rng),
        "b": torch.randn(21, generator=rng),
        "c": torch.randn(7, 11, generator=rng),
    }
    return store(tensors, Quantization(bits))


def masks_of(bits: int) -> dict[str, Tensor]:
    """Some channels of ``a`` have more bits than others, ``c`` has a hole in its pattern, ``b`` is not named."""
    return {
        "a": torch.tensor([(1 << bits) - 2, 0, 1 << (bits - 1), 1, (1 << bits) - 1]).view(5, 1, 1),
        "c": torch.tensor((1 << bits) - 1 - (1 << (bits - 2))),
        "elsewhere": torch.tensor(255),
    }


def flat_masks(bits: int) -> list[int]:
    found = masks_of(bits)
    return [int(found["a"][place // 12]) for place in range(60)] + [0] * 21 + [int(found["c"])] * 77


def read_by(errors: Errors, stored: Stored, chip: Chip) -> list[int]:
    read = stored.patterns.copy()
    errors(stored, read, chip)
    return [int(pattern) for pattern in read]


def guarded(errors: Errors, code: str, stored: Stored, chip: Chip) -> list[int]:
    """What a slow decoder gives, one bit after the other, lowest first."""
    right = [int(pattern) for pattern in stored.patterns]
    copies = [read_by(errors, stored, Chip(chip.bit_error_rate, chip.seed + copy * APART)) for copy in range(3)]
    bits = [(place, bit) for place, mask in enumerate(flat_masks(stored.bits)) for bit in range(stored.bits) if mask >> bit & 1]
    found = list(copies[0])

    def put(place: int, bit: int, value: int) -> None:
        found[place] = found[place] & ~(1 << bit) | value << bit

    if code in WORDS:
        data, check = WORDS[code]
        words = [bits[begin : begin + data] for begin in range(0, len(bits), data)]
        blank = store({"check": torch.zeros(len(words))}, Quantization())
        checks = read_by(errors, blank, Chip(chip.bit_error_rate, chip.seed + APART))
        for cells, extra in zip(words, checks, strict=True):
            wrong = sum((copies[0][place] ^ right[place]) >> bit & 1 for place, bit in cells)
            wrong += sum(extra >> bit & 1 for bit in range(check))
            for place, bit in cells:
                put(place, bit, (right if wrong < 2 else copies[0])[place] >> bit & 1)
        return found
    for place, bit in bits:
        votes = sum(copy[place] >> bit & 1 for copy in copies)
        put(place, bit, int(votes >= 2) if code == "tmr" else right[place] >> bit & 1)
    return found


KINDS: dict[str, Errors] = {"random": random_flips, "stuck": stuck_cells, "one": stuck_at_one}


@pytest.mark.parametrize("errors", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("code", ["tmr", *WORDS, "void"])
@pytest.mark.parametrize("bits", [3, 8, 16])
@pytest.mark.parametrize("rate", [0.01, 0.06, 0.4])
def test_protected_bits_are_what_a_slow_decoder_gives(errors: Errors, code: Code, bits: int, rate: float) -> None:
    stored = written(bits)
    before = stored.patterns.tolist()
    for seed in (3, 11):
        assert read_by(Guarded(errors, code, masks_of(bits)), stored, Chip(rate, seed)) == guarded(
            errors, code, stored, Chip(rate, seed)
        )
    assert stored.patterns.tolist() == before


def test_where_nothing_is_protected_or_wrong_only_the_places_of_the_errors_are_said() -> None:
    stored, few = written(8), Chip(9e-4, 5)
    places = random_flips(stored, stored.patterns.copy(), few)
    for nothing in ({}, {"a": torch.tensor(0)}, {"elsewhere": torch.tensor(255)}):
        found = Guarded(random_flips, "tmr", nothing)(stored, stored.patterns.copy(), few)
        assert [place.tolist() for place in found] == [place.tolist() for place in places]  # type: ignore[union-attr]
    assert Guarded(random_flips, "tmr", masks_of(8))(stored, stored.patterns.copy(), NOMINAL) == []
    assert Guarded(random_flips, "tmr", masks_of(8))(stored, stored.patterns.copy(), few) == [slice(None)]


@pytest.mark.parametrize("bits", [4, 16])
def test_limited_errors_are_those_inside_of_the_mask(bits: int) -> None:
    stored, chip = written(bits), Chip(0.3, 2)
    bare = read_by(stuck_cells, stored, chip)
    expected = [
        sum(((bare[p] if mask >> bit & 1 else int(stored.patterns[p])) >> bit & 1) << bit for bit in range(bits))
        for p, mask in enumerate(flat_masks(bits))
    ]
    read = stored.patterns.copy()
    assert Limited(stuck_cells, masks_of(bits))(stored, read, chip) == [slice(None)]
    assert read.tolist() == expected
    assert np.any(read != stored.patterns)
