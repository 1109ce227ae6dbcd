"""Codes, chips and energy: exact where they can be, statistics with the error probability beside them."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from backends.interface import Chip, InputError
from backends.memory import chips
from backends.memory.chips import with_errors
from backends.memory.codes import Codes, quantize
from backends.memory.energy import saving, voltage, weight_reads
from backends.simulator import Simulator

rates = st.floats(0.0, 1.0)
seeds = st.integers(0, 2**40)


def stored(*sizes: int) -> list[Codes]:
    rng = torch.Generator().manual_seed(0)
    return [Codes(torch.randint(-128, 128, (size,), generator=rng, dtype=torch.int8), 0.5) for size in sizes]


def wrong_bits(before: Codes, after: Codes) -> np.ndarray:
    return np.unpackbits((before.values ^ after.values).numpy().view(np.uint8)[:, None], axis=1, bitorder="little")


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_rounding_is_off_by_half_a_step_at_most(values: list[float]) -> None:
    weights = torch.tensor(values)
    codes = quantize(weights)
    assert (codes.values >= -127).all()
    assert ((codes.weights() - weights).abs() <= codes.scale * (0.5 + 1e-4)).all()


def test_all_zero_weights_can_be_stored() -> None:
    assert quantize(torch.zeros(3)).weights().tolist() == [0.0, 0.0, 0.0]


@given(rates, rates, seeds)
@settings(max_examples=50)
def test_errors_at_a_lower_rate_are_among_those_at_a_higher_one(a: float, b: float, seed: int) -> None:
    low, high = sorted((a, b))
    (codes,) = stored(64)
    few, many = (wrong_bits(codes, next(with_errors([codes], Chip(rate, seed)))) for rate in (low, high))
    assert (few <= many).all()


@given(rates, seeds, st.integers(1, 63))
@settings(max_examples=50)
def test_a_chip_is_the_same_whatever_is_stored_in_it(rate: float, seed: int, cut: int) -> None:
    (whole,) = stored(64)
    parts = [Codes(whole.values[:cut], 1.0), Codes(whole.values[cut:], 1.0)]
    together = torch.cat([codes.values for codes in with_errors(parts, Chip(rate, seed))])
    assert torch.equal(together, next(with_errors([whole], Chip(rate, seed))).values)


@given(rates, seeds)
@settings(max_examples=50)
def test_flipping_twice_is_the_identity_and_the_input_is_left_alone(rate: float, seed: int) -> None:
    (codes,) = stored(32)
    before = codes.values.clone()
    once = next(with_errors([codes], Chip(rate, seed)))
    assert torch.equal(codes.values, before)
    assert torch.equal(next(with_errors([once], Chip(rate, seed))).values, before)


def wrong_cells(chip: Chip, cells: int) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *chips.wrong_cells(chip, cells)])


GRID = [1e-9, 1e-6, 1e-5, 1e-4, 1e-3, 2e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.99, 1.0]
CELLS = 1_000_003


def test_over_a_grid_of_rates_a_large_memory_is_nested_and_has_binomial_counts() -> None:
    # sixteen counts within 6 sd of their means: error probability below 4e-8
    smaller = np.empty(0, np.int64)
    for rate in GRID:
        cells = np.unique(wrong_cells(Chip(rate, 11), CELLS))
        assert cells.size == 0 or (cells[0] >= 0 and cells[-1] < CELLS)
        assert abs(cells.size - CELLS * rate) <= 6 * math.sqrt(CELLS * rate * (1 - rate))
        found = np.zeros(CELLS, bool)
        found[cells] = True
        assert found[smaller].all()
        smaller = cells


@pytest.mark.parametrize("rate", [1e-4, 0.03, 0.5, 1.0])
def test_the_first_cells_of_a_large_chip_are_those_of_a_small_one(rate: float) -> None:
    large = wrong_cells(Chip(rate, 5), CELLS)
    for small in (1, 1000, 70_000, 700_001):
        assert np.array_equal(np.unique(large[large < small]), np.unique(wrong_cells(Chip(rate, 5), small)))


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_neighbours_and_chips_are_independent(rate: float) -> None:
    # pairs that are both wrong: binomial with rate squared, within 6 sd
    def cells(seed: int) -> np.ndarray:
        found = np.zeros(CELLS, bool)
        found[wrong_cells(Chip(rate, seed), CELLS)] = True
        return found

    one, other = cells(1), cells(2)
    for first, second in [(one, other), *((one[:-lag], one[lag:]) for lag in (1, 2, 7, 8, 64))]:
        both = int((first & second).sum())
        trials = len(first)
        # lagged pairs overlap in one cell, which adds two covariances of rate^3 (1 - rate) to each variance
        sd = math.sqrt(trials * (rate**2 * (1 - rate**2) + 2 * rate**3 * (1 - rate)))
        assert abs(both - trials * rate**2) < 6 * sd


def test_rates_zero_and_one_are_legal() -> None:
    (codes,) = stored(100)
    assert torch.equal(next(with_errors([codes], Chip(0.0, 3))).values, codes.values)
    assert torch.equal(next(with_errors([codes], Chip(1.0, 3))).values, ~codes.values)


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
def test_every_bit_is_equally_likely_to_be_wrong(rate: float) -> None:
    # each of the nine counts within 6 sd of its binomial mean: error probability below 2e-8
    (codes,) = stored(40_000)
    bits = wrong_bits(codes, next(with_errors([codes], Chip(rate, 7))))
    for count, trials in [(bits.sum(), bits.size), *((column.sum(), len(column)) for column in bits.T)]:
        assert abs(int(count) - trials * rate) < 6 * math.sqrt(trials * rate * (1 - rate))


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_a_rate_outside_its_range_is_refused_by_value(rate: float) -> None:
    with pytest.raises(InputError, match=f"bit_error_rate must lie in .*, got {rate}"):
        Chip(rate)


def test_only_weights_of_convolutions_and_linear_layers_are_stored() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    simulator = Simulator(layer)
    zero = simulator.logits(torch.zeros(1, 4), Chip(1.0))
    assert torch.equal(zero[0], layer.bias)
    image = torch.rand(1, 4)
    assert not torch.equal(simulator.logits(image, Chip(0.2, 1)), simulator.logits(image, Chip(0.2, 2)))


def test_measured_points_of_the_voltage_table() -> None:
    # Stutz et al., MLSys 2021, figure 1
    assert voltage(0.0) == 1.0
    for volts, rate in [(22 / 24, 6.86646e-5), (20 / 24, 1.115e-2), (18 / 24, 0.2056)]:
        assert voltage(rate) == pytest.approx(volts, abs=1e-9)
    assert voltage(0.3) is None
    volts = voltage(0.01)
    assert volts is not None
    assert saving(volts**2, 1.0, 0.0) == pytest.approx(0.302, abs=5e-4)
    assert saving(volts**2, 1.0, 0.5) == pytest.approx(-0.198, abs=5e-4)


def test_weight_reads_count_a_filter_again_for_every_32_pixels() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))
    assert weight_reads(net, (1, 8, 8)) == (36 * 2 + 2560) / 8
