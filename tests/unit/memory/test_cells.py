"""Independent cells: which bits are wrong, cell by cell, from the construction that the module describes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from backends.base import NOMINAL, Chip
from backends.memory.config import Quantization
from backends.memory.encoding import Errors, Stored, store
from backends.memory.faults import independent as chips
from backends.memory.faults.independent import faulty_cells, random_flips, stuck_at_one, stuck_at_zero, stuck_cells

LEVELS = [2 ** (-k / 2) for k in range(29)]
RATES = [3e-5, 2.0**-14, 2e-4, 9.9e-4, 1e-3, 0.02, 0.25, 0.3, 0.5, 0.81, 1.0]


def stream(seed: int, level: int, part: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, level, part])))


def faults_of(chip: Chip, cells: int) -> dict[int, bool]:
    """Each faulty cell below ``cells`` and whether it is stuck at 1: the lowest level that has it decides."""
    found: dict[int, bool] = {}
    for k, upper in enumerate(LEVELS):
        lower = 0.0 if k == 28 else LEVELS[k + 1]
        if chip.bit_error_rate > lower:
            q = 1 - (1 - upper) / (1 - lower)
            limit = (1 - (1 - chip.bit_error_rate) / (1 - lower)) / q
            steps, marks, sides = (stream(chip.seed, k, part) for part in range(3))
            at = -1
            while True:
                wait = steps.standard_exponential()
                at += 1 + (0 if q == 1 else math.floor(wait / -math.log1p(-q)))
                mark, side = marks.random(), bool(sides.random(dtype=np.float32) < 0.5)
                if at >= cells:
                    break
                if mark < limit:
                    found[at] = side
    return found


def written(count: int, bits: int, first: int = 0) -> Stored:
    rng = torch.Generator().manual_seed(3)
    return replace(store({"w": torch.randn(count, generator=rng)}, Quantization(bits)), first=first)


def expected(stored: Stored, kind: str, chip: Chip) -> list[int]:
    """Bit ``j`` of number ``i`` lies in cell ``first + bits i + j``."""
    read = [int(pattern) for pattern in stored.patterns]
    for cell, high in faults_of(chip, stored.end).items():
        number, bit = divmod(cell - stored.first, stored.bits)
        if number < 0:
            continue
        value = {"random": 1 - (int(stored.patterns[number]) >> bit & 1), "stuck": int(high), "one": 1, "zero": 0}[kind]
        read[number] = read[number] & ~(1 << bit) | value << bit
    return read


KINDS: dict[str, Errors] = {"random": random_flips, "stuck": stuck_cells, "one": stuck_at_one, "zero": stuck_at_zero}


def test_the_probabilities_of_the_sets_multiply_to_the_levels() -> None:
    right = 1.0
    for k in range(28, -1, -1):
        right *= (1 - LEVELS[k]) / (1 - (LEVELS[k + 1] if k < 28 else 0.0))
        assert 1 - right == pytest.approx(LEVELS[k], rel=1e-9)


@pytest.mark.parametrize("rate", RATES)
def test_the_faulty_cells_are_those_of_the_levels_below_the_rate_and_the_marked_ones_of_the_next(rate: float) -> None:
    cells = 3001 if rate > 0.01 else 60_000
    chip = Chip(rate, 5)
    blocks = [*faulty_cells(chip, cells)]
    assert all((np.diff(block) > 0).all() for block in blocks)
    assert {int(cell) for block in blocks for cell in block} == faults_of(chip, cells).keys()


def test_a_set_of_many_cells_goes_on_over_all_blocks() -> None:
    chip, cells = Chip(0.85, 2), 20_000
    assert {int(cell) for block in faulty_cells(chip, cells) for cell in block} == faults_of(chip, cells).keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "first"), [(3, 0), (5, 7), (8, 0), (8, 43), (16, 9)])
@pytest.mark.parametrize("rate", [5e-4, 0.02, 0.3, 0.9, 1.0])
def test_every_kind_does_to_each_faulty_bit_what_its_name_says(kind: str, bits: int, first: int, rate: float) -> None:
    stored, chip = written(700 if rate < 0.01 else 101, bits, first), Chip(rate, 4)
    before = stored.patterns.tolist()
    read = stored.patterns.copy()
    places = KINDS[kind](stored, read, chip)
    assert read.tolist() == expected(stored, kind, chip)
    assert stored.patterns.tolist() == before
    touched = np.zeros(len(read), bool)
    for place in places:
        touched[place] = True
    assert touched[read != stored.patterns].all()


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_rate_of_one_in_a_thousand_on_it_is_said_that_everything_may_have_changed(kind: str) -> None:
    stored = written(3000, 8)
    assert KINDS[kind](stored, stored.patterns.copy(), Chip(1e-3, 1)) == [slice(None)]
    places = KINDS[kind](stored, stored.patterns.copy(), Chip(math.nextafter(1e-3, 0), 1))
    weights = {int(weight) for place in places for weight in place}  # type: ignore[union-attr]
    assert weights == {cell // 8 for cell in faults_of(Chip(1e-3, 1), 24_000)}
    assert KINDS[kind](stored, stored.patterns.copy(), NOMINAL) == []


def test_over_many_cells_the_count_is_binomial_and_errors_are_nested() -> None:
    """Within 5 sd of the mean for each of eleven rates: error probability below 7e-6."""
    cells, smaller = 100_000, set[int]()
    for rate in RATES:
        found = {int(cell) for block in faulty_cells(Chip(rate, 17), cells) for cell in block}
        assert abs(len(found) - cells * rate) <= 5 * math.sqrt(cells * rate * (1 - rate))
        assert smaller <= found
        smaller = found


def test_half_of_the_stuck_cells_are_stuck_at_one() -> None:
    """Within 5 sd: error probability below 6e-7."""
    sides = [side for seed in range(4) for side in faults_of(Chip(0.3, seed), 3000).values()]
    assert abs(sum(sides) - len(sides) / 2) < 2.5 * len(sides) ** 0.5


def test_so_many_distances_are_drawn_at_once_as_will_hardly_ever_be_too_few() -> None:
    for share, left, count in [(0.02, 5000.0, 16 + 110), (0.3, 7.0, 16 + 2), (0.0, 90.0, 16), (0.5, 1e6, 1 << 14)]:
        assert chips._drawn_at_once(share, left) == count
