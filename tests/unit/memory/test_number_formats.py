"""Powers of two and binary numbers against a search over all that can be written; settings of a memory against their limits."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import Chip, InputError
from backends.memory.config import BITS, PRESETS, Memory, Quantization
from backends.memory.number_formats import Binary, FixedPoint, PowersOfTwo


def meanings(bits: int, highest: int) -> list[float]:
    """What each pattern stands for: a sign in front of 0 or of ``2^P``, ``P`` ending in ``highest``."""
    sizes = [0.0] + [2.0**power for power in range(highest - 2 ** (bits - 1) + 2, highest + 1)]
    return sizes + [-size for size in sizes]


POWERS = [(bits, highest) for bits in (2, 3, 4, 5, 8) for highest in (-3, 0, 5)]


@pytest.mark.parametrize(("bits", "highest"), POWERS)
def test_every_pattern_is_a_sign_and_an_exponent(bits: int, highest: int) -> None:
    read = PowersOfTwo(bits, highest).decode(torch.arange(2**bits, dtype=torch.uint8))
    assert read.dtype == torch.float32
    assert read.tolist() == [float(np.float32(value)) for value in meanings(bits, highest)]


@pytest.mark.parametrize(("bits", "highest"), POWERS)
def test_the_nearest_number_is_written_and_the_larger_one_in_the_middle(bits: int, highest: int) -> None:
    values = meanings(bits, highest)
    sizes = values[: len(values) // 2]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(sizes)]
    ends = [0.0, 2.0**highest * 3, -(2.0**highest) * 9, 2.0**-300]
    tried = [s * t for t in middles[:4] + middles[-4:] for s in (1, -1, 1 - 1e-9, -1 + 1e-9, 1.1, -0.9)] + ends
    expected = [min(range(len(values)), key=lambda p: (abs(values[p] - x), -abs(values[p]))) for x in tried]
    code = PowersOfTwo(bits, highest)
    tensor = torch.tensor(tried, dtype=torch.float64)
    assert code.encode(tensor).tolist() == expected
    assert code.rounded(tensor).tolist() == [float(np.float32(values[p])) for p in expected]


def test_a_power_of_two_has_2_to_8_bits_and_ends_at_one_unless_told() -> None:
    for bits in (1, 9):
        with pytest.raises(InputError, match=f"bits of a power of two must be 2 to 8, sign and exponent, got {bits}"):
            PowersOfTwo(bits)
    assert PowersOfTwo(2).decode(torch.tensor([1, 3], dtype=torch.uint8)).tolist() == [1.0, -1.0]
    assert PowersOfTwo(8).decode(torch.tensor([127, 126], dtype=torch.uint8)).tolist() == [1.0, 0.5]


def test_a_binary_number_is_plus_one_from_zero_on() -> None:
    numbers = torch.tensor([-0.3, -1e-30, 0.0, 1e-30, 7.0])
    assert Binary().encode(numbers).tolist() == [0, 0, 1, 1, 1]
    assert Binary().decode(torch.tensor([0, 1], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
    assert Binary().bits == 1


@pytest.mark.parametrize("kind", [Quantization, Memory])
def test_a_weight_has_2_to_8_or_16_bits(kind: Any) -> None:
    for bits in range(-1, 40):
        if bits in (2, 3, 4, 5, 6, 7, 8, 16):
            assert kind(bits=bits).bits == bits
        else:
            with pytest.raises(InputError, match=f"bits` must be 2 to 8, or 16, got {bits}"):
                kind(bits=bits)
    assert BITS == (2, 3, 4, 5, 6, 7, 8, 16)


def test_the_defaults_are_those_of_neuralfuse() -> None:
    assert Quantization() == Quantization(8, True, True, True, "tensor")
    memory = Memory()
    assert (memory.quantization, memory.bits, memory.stored) == ("neuralfuse", 8, None)
    assert (memory.errors, memory.profile, memory.offset) == ("random", None, 0)
    assert {
        "neuralfuse": (Quantization(8, True, True, True, "tensor"), "weights"),
        "normal": (Quantization(8, True, True, False, "tensor"), "parameters"),
        "rquant": (Quantization(8, False, False, True, "tensor"), "parameters"),
    } == PRESETS


@pytest.mark.parametrize("one", [Quantization(), Memory(), Binary(), PowersOfTwo(5), FixedPoint.spacious(torch.ones(1))])
def test_settings_cannot_be_changed_and_can_be_keys(one: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        one.bits = 7
    assert {one: 3}[one] == 3


def test_fixed_point_codes_with_tensors_are_equal_to_themselves_alone() -> None:
    one, other = (FixedPoint.spacious(torch.ones(3)) for _ in range(2))
    assert [one] == [one]
    assert one != other


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"errors": "profile"}, "`memory.errors=profile` and `memory.profile` go together"),
        ({"profile": "chip.npz"}, "`memory.errors=profile` and `memory.profile` go together"),
        ({"offset": 1}, "`memory.offset` has no effect with `memory.errors=random`: remove it"),
        ({"offset": 5, "errors": "stuck"}, "`memory.offset` has no effect with `memory.errors=stuck`: remove it"),
        ({"offset": -1, "errors": "column"}, "`memory.offset` must be 0 or more, got -1"),
        (
            {"errors": "neuralfuse-map", "bits": 16},
            "`memory.errors=neuralfuse-map` needs codes of at most 8 bits, got `memory.bits=16`",
        ),
    ],
)
def test_a_memory_that_cannot_be_is_refused_by_value(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Memory(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"errors": "profile", "profile": "chip.npz", "offset": 3}, {"errors": "column", "offset": 1}, {"errors": "column"},
        {"errors": "neuralfuse-map", "bits": 8}, {"errors": "stuck", "bits": 16}, {"errors": "profile", "profile": "chip.npz"},
    ],
)  # fmt: skip
def test_a_memory_just_inside_of_every_rule_is_accepted(settings: dict[str, Any]) -> None:
    memory = Memory(**settings)
    assert {name: getattr(memory, name) for name in settings} == settings


@pytest.mark.parametrize("rate", [-1e-9, 1.0 + 1e-9, float("nan"), float("inf")])
def test_a_chip_with_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match=r"bit_error_rate` must lie in \[0, 1\], got"):
        Chip(rate)
    with pytest.raises(InputError, match="`chip_seed` must be a non-negative integer, got -1"):
        Chip(0.5, -1)
    assert (Chip(0.0).seed, Chip(1.0, 3).seed) == (0, 3)
