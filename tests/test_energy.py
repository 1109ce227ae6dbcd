"""Voltage, bit error rate and energy, and what a network costs."""

from __future__ import annotations

import pytest
from torch import nn

from backends.memory.energy import bit_error_rate, saving, voltage, weight_reads

# Stutz et al., MLSys 2021, figure 1
MEASURED = [(23 / 24, 1.90735e-6), (22 / 24, 6.86646e-5), (21 / 24, 1.29e-3), (20 / 24, 1.115e-2), (18 / 24, 0.2056)]


@pytest.mark.parametrize(("volts", "rate"), MEASURED)
def test_the_measured_points_are_met_both_ways(volts: float, rate: float) -> None:
    assert voltage(rate) == pytest.approx(volts, abs=1e-9)
    assert bit_error_rate(volts) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("rate", [3e-6, 1e-4, 0.01, 0.05, 0.2])
def test_rate_and_voltage_are_each_others_inverse(rate: float) -> None:
    volts = voltage(rate)
    assert volts is not None
    assert bit_error_rate(volts) == pytest.approx(rate, rel=1e-9)


def test_nothing_is_claimed_beyond_what_was_measured() -> None:
    assert voltage(0.0) == 1.0
    assert bit_error_rate(1.0) == 0.0
    assert voltage(0.3) is None
    assert bit_error_rate(0.7) is None


def test_savings_are_those_of_the_reference_table() -> None:
    volts = voltage(0.01)
    assert volts is not None
    assert saving(volts**2, 1.0, 0.0) == pytest.approx(0.302, abs=5e-4)
    assert saving(volts**2, 1.0, 0.5) == pytest.approx(-0.198, abs=5e-4)


def test_weight_reads_count_a_filter_again_for_every_32_pixels() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))
    assert weight_reads(net, (1, 8, 8)) == (36 * 2 + 2560) / 8
