"""Fixed-point codes against a reference in whole numbers, pattern by pattern."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.base import InputError
from backends.memory.config import PRESETS, Quantization
from backends.memory.encoding import Reading, Stored, store, store_by_codes
from backends.memory.number_formats import Binary, Code, FixedPoint, PowersOfTwo, integers

BITS = [2, 3, 4, 5, 6, 7, 8, 16]
TINY = 1.1754943508222875e-38  # smallest normal float32
WEIGHTS = [-1.37, -0.61, -0.083, 0.0, 0.29, 0.5, 0.913, 1.1, 2.19]
RANGES = {"symmetric": (-2.19, 2.19), "asymmetric": (-1.37, 2.19)}

presets = pytest.mark.parametrize("preset", ["neuralfuse", "normal", "rquant"])
widths = pytest.mark.parametrize("bits", BITS)


def reference(weight: float, low: float, high: float, bits: int, rounded: bool, signed: bool) -> int:
    """The pattern of ``weight``: ``w = c + s q`` with ``|q| <= Q`` (Stutz et al. 2021, Eq. 1)."""
    largest = 2 ** (bits - 1) - 1
    centre, half = (low + high) / 2, (high - low) / 2
    exact = (weight - centre) / (half / largest)
    code = round(exact) if rounded else int(exact)
    code = sorted((-largest, code, largest))[1]
    return code % 2**bits if signed else code + largest


def meaning(pattern: int, low: float, high: float, bits: int, signed: bool) -> float:
    largest = 2 ** (bits - 1) - 1
    code = (pattern if pattern <= largest else pattern - 2**bits) if signed else pattern - largest
    return (low + high) / 2 + code * (high - low) / 2 / largest


SCHEMES = {"neuralfuse": ("symmetric", True, True), "normal": ("symmetric", False, True), "rquant": ("asymmetric", True, False)}


@presets
@widths
def test_each_preset_writes_the_patterns_of_its_formula(preset: str, bits: int) -> None:
    kind, rounded, signed = SCHEMES[preset]
    scheme = replace(PRESETS[preset][0], bits=bits)
    tensor = torch.tensor(WEIGHTS, dtype=torch.float64)
    stored = store({"w": tensor}, scheme)
    expected = [reference(weight, *RANGES[kind], bits, rounded, signed) for weight in WEIGHTS]
    assert stored.patterns.tolist() == expected
    assert stored.patterns.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert stored.bits == bits


@presets
@widths
def test_each_preset_reads_every_pattern_as_its_formula_says(preset: str, bits: int) -> None:
    kind, _, signed = SCHEMES[preset]
    scheme = replace(PRESETS[preset][0], bits=bits)
    low, high = (torch.tensor(end, dtype=torch.float64) for end in RANGES[kind])
    code = FixedPoint.between(low, high, scheme)
    every = torch.arange(2**bits, dtype=torch.int32).to(torch.uint16 if bits == 16 else torch.uint8)
    chosen = (
        every if bits < 16 else torch.tensor([0, 1, 2, 254, 32766, 32767, 32768, 32769, 40000, 65534, 65535]).to(torch.uint16)
    )
    read = code.decode(chosen)
    assert read.dtype == torch.float32
    expected = [meaning(int(pattern), *RANGES[kind], bits, signed) for pattern in chosen.tolist()]
    assert read.tolist() == pytest.approx(expected, rel=3e-7, abs=3e-7)
    assert code.bits == bits


@pytest.mark.parametrize("rounding", [True, False])
def test_halves_go_to_the_even_code_and_truncation_goes_towards_zero(rounding: bool) -> None:
    weights = [-7.0, -6.5, -5.5, -2.7, -1.5, -0.5, -0.3, 0.3, 0.5, 1.5, 2.5, 2.7, 5.5, 7.0]  # steps of exactly 1
    stored = store({"w": torch.tensor(weights)}, Quantization(4, rounding=rounding))
    rounded = [-7, -6, -6, -3, -2, 0, 0, 0, 0, 2, 2, 3, 6, 7]
    cut = [-7, -6, -5, -2, -1, 0, 0, 0, 0, 1, 2, 2, 5, 7]
    assert stored.integers().tolist() == (rounded if rounding else cut)


@widths
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_lies_outside_of_the_range_is_clipped_to_its_ends(bits: int, signed: bool, symmetric: bool) -> None:
    scheme = Quantization(bits, symmetric=symmetric, signed=signed)
    code = FixedPoint.between(torch.tensor(-3.0), torch.tensor(5.0), scheme)
    low, high = (-5.0, 5.0) if symmetric else (-3.0, 5.0)
    written = code.encode(torch.tensor([low - 90.0, low - 1.0, high + 1.0, high + 90.0]))
    largest = 2 ** (bits - 1) - 1
    assert written.tolist() == ([largest + 2] * 2 + [largest] * 2 if signed else [0, 0, 2 * largest, 2 * largest])
    assert code.decode(written.to(torch.uint8 if bits <= 8 else torch.uint16)).tolist() == pytest.approx([low, low, high, high])


@pytest.mark.parametrize(("low", "high", "half"), [(-3.0, 5.0, 5.0), (-7.0, 5.0, 7.0), (2.0, 5.0, 5.0), (-9.0, -4.0, 9.0)])
def test_a_symmetric_range_reaches_to_the_larger_end_an_asymmetric_one_from_end_to_end(
    low: float, high: float, half: float
) -> None:
    ends = torch.tensor(low).double(), torch.tensor(high).double()
    even, odd = (FixedPoint.between(*ends, Quantization(5, symmetric=symmetric)) for symmetric in (True, False))
    assert (even.step.item(), even.centre.item()) == (pytest.approx(half / 15, rel=1e-12), 0.0)
    assert (odd.step.item(), odd.centre.item()) == (pytest.approx((high - low) / 30, rel=1e-12), (low + high) / 2)


def test_a_range_without_width_has_the_smallest_step_of_float32() -> None:
    for symmetric in (True, False):
        code = FixedPoint.between(torch.tensor(0.0), torch.tensor(0.0), Quantization(symmetric=symmetric))
        assert code.step.item() == TINY
    assert store({"w": torch.full((3,), 0.7)}, Quantization(symmetric=False)).tensors()["w"].tolist() == pytest.approx([0.7] * 3)


def test_spacious_codes_are_symmetric_with_room_of_a_factor_of_two_for_each_spare_bit() -> None:
    tensor = torch.tensor([[0.7, -1.3], [0.2, 0.9]])
    assert FixedPoint.spacious(tensor).step.item() == pytest.approx(1.3 / 127)
    assert FixedPoint.spacious(tensor, 5, 3).step.item() == pytest.approx(1.3 * 8 / 15)
    assert FixedPoint.spacious(tensor, 5, 3).quantization == Quantization(5)
    assert FixedPoint.spacious(tensor, 16, 1).step.item() == pytest.approx(1.3 * 2 / 32767)


TENSORS = {
    "a": torch.tensor([[[1.0], [-0.5]], [[-8.0], [6.0]], [[0.25], [0.75]]]),
    "b": torch.tensor([-16.0, 3.0]), "c": torch.tensor(0.4)
}  # fmt: skip
STEPS: dict[str, dict[str, list[float]]] = {
    "tensor": {"a": [8.0] * 6, "b": [16.0] * 2, "c": [0.4]},
    "global": {"a": [16.0] * 6, "b": [16.0] * 2, "c": [16.0]},
    "channel": {"a": [1.0, 1.0, 8.0, 8.0, 0.75, 0.75], "b": [16.0] * 2, "c": [0.4]},
}
MIDDLES: dict[str, list[float]] = {"tensor": [-1.0, -6.5, 0.4], "global": [-5.0] * 3, "channel": [0.25, -1.0, 0.5, -6.5, 0.4]}


@pytest.mark.parametrize("ranges", STEPS)
def test_a_range_is_that_of_a_tensor_of_all_or_of_each_index_of_the_first_axis(ranges: Any) -> None:
    stored = store(TENSORS, Quantization(6, ranges=ranges))
    assert stored.steps.dtype == np.float32
    assert stored.steps.tolist() == pytest.approx([half / 31 for found in STEPS[ranges].values() for half in found])
    odd = store(TENSORS, Quantization(6, ranges=ranges, symmetric=False))
    middles = torch.cat([slot.code.centre.flatten() for slot in odd.slots.values()])  # type: ignore[attr-defined]
    assert middles.tolist() == pytest.approx(MIDDLES[ranges])


@widths
@pytest.mark.parametrize("signed", [True, False])
def test_codes_and_patterns_are_each_others_inverse(bits: int, signed: bool) -> None:
    stored = store({"w": torch.linspace(-1, 1, 41)}, Quantization(bits, signed=signed))
    largest = 2 ** (bits - 1) - 1
    some = np.array(sorted({-largest, -largest // 2, -1, 0, 1, largest // 3, largest}))
    patterns = stored.encoded(some)
    assert patterns.dtype == stored.patterns.dtype
    assert patterns.tolist() == [int(code) % 2**bits if signed else int(code) + largest for code in some]
    assert stored.integers(patterns).tolist() == some.tolist()
    found = integers(torch.from_numpy(patterns), stored.quantization)
    assert found.dtype == torch.float32
    assert found.tolist() == some.tolist()


def test_tensors_lie_one_after_the_other_in_cells_of_their_width() -> None:
    stored = store(TENSORS, Quantization(5))
    assert stored.places == [slice(0, 6), slice(6, 8), slice(8, 9)]
    assert (stored.first, stored.end) == (0, 45)
    assert replace(stored, first=7).end == 52
    read = stored.tensors()
    assert {name: tensor.shape for name, tensor in read.items()} == {name: tensor.shape for name, tensor in TENSORS.items()}
    assert read["a"].flatten().tolist() == pytest.approx([round(w * 15 / 8) * 8 / 15 for w in TENSORS["a"].flatten().tolist()])
    changed = stored.patterns.copy()
    changed[6] = 3
    assert stored.tensors(changed)["b"].tolist() == pytest.approx([3 * 16 / 15, 3 * 16 / 15])


def test_formats_of_their_own_share_banks_by_width_from_the_first_cell_on() -> None:
    tensors = {
        "a": torch.ones(2, 3),
        "b": torch.tensor([-1.0, 4.0]),
        "c": torch.tensor([-1.0, 1.0, 1.0, -1.0]),
        "d": torch.ones(5),
    }
    codes: dict[str, Code] = {
        "a": PowersOfTwo(5), "b": FixedPoint.spacious(tensors["b"], 16), "c": Binary(), "d": PowersOfTwo(5, 3)
    }  # fmt: skip
    banks = store_by_codes(tensors, codes, 11)
    assert [(bank.bits, list(bank.slots), bank.first, bank.end) for bank in banks] == [
        (5, ["a", "d"], 11, 66), (16, ["b"], 66, 98), (1, ["c"], 98, 102),
    ]  # fmt: skip
    assert banks[0].patterns.tolist() == [15] * 6 + [12] * 5
    assert banks[1].patterns.tolist() == [65536 - 8192, 32767]
    assert banks[2].patterns.tolist() == [0, 1, 1, 0]
    assert [bank.patterns.dtype for bank in banks] == [np.uint8, np.uint16, np.uint8]
    assert store_by_codes(tensors, codes)[0].first == 0


class Wide:
    """A code of any width that writes zeros."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def encode(self, tensor: Tensor) -> Tensor:
        return torch.zeros(tensor.shape, dtype=torch.int64)

    def decode(self, patterns: Tensor) -> Tensor:
        return patterns.float()


@pytest.mark.parametrize(("bits", "kind"), [(0, None), (1, np.uint8), (8, np.uint8), (9, np.uint16), (16, np.uint16), (17, None)])
def test_a_code_of_ones_own_has_1_to_16_bits_in_the_smallest_container(bits: int, kind: type | None) -> None:
    if kind is None:
        with pytest.raises(InputError, match=f"a code must have 1 to 16 bits, got {bits}"):
            store_by_codes({"a": torch.ones(3)}, {"a": Wide(bits)})
    else:
        assert store_by_codes({"a": torch.ones(3)}, {"a": Wide(bits)})[0].patterns.dtype == kind


def test_only_fixed_point_codes_of_one_kind_have_steps() -> None:
    same: dict[str, Code] = {"a": FixedPoint.spacious(torch.ones(1), 5), "b": FixedPoint.spacious(3 * torch.ones(1), 5)}
    (bank,) = store_by_codes({"a": torch.ones(2), "b": torch.ones(1)}, same)
    assert bank.steps.tolist() == pytest.approx([1 / 15, 1 / 15, 3 / 15])
    assert bank.quantization == Quantization(5)
    cut = FixedPoint.between(torch.tensor(-1.0), torch.tensor(1.0), Quantization(5, rounding=False))
    for other in (PowersOfTwo(5), cut):
        (mixed,) = store_by_codes({"a": torch.ones(2), "b": torch.ones(1)}, {**same, "b": other})
        for ask in (lambda bank: bank.steps, lambda bank: bank.quantization, Stored.integers):
            with pytest.raises(InputError, match="a, b must be stored as fixed-point codes of one kind, and are not"):
                ask(mixed)


def test_what_is_stored_cannot_be_exchanged() -> None:
    stored = store(TENSORS, Quantization())
    for one in (stored, stored.slots["a"]):
        with pytest.raises(FrozenInstanceError):
            one.start = 3  # type: ignore[union-attr, misc]


def test_nothing_and_what_is_not_finite_cannot_be_stored() -> None:
    with pytest.raises(InputError, match="there is nothing to store"):
        store({}, Quantization())
    with pytest.raises(InputError, match="b cannot be stored: it holds -inf"):
        store({"a": torch.ones(2), "b": torch.tensor([3.0, -torch.inf, torch.nan])}, Quantization())


def test_every_chip_is_read_from_what_was_written_even_after_one_that_failed() -> None:
    stored = store({"w": torch.linspace(-1, 1, 9)}, Quantization())
    before = stored.patterns.tolist()

    def errors(_: Stored, read: np.ndarray, place: Any) -> list[Any]:
        read[place] ^= 5
        if place == 8:
            read[:] = 0
            raise KeyError(place)
        return [np.array([place])]

    reading = Reading(stored, errors)  # type: ignore[arg-type]
    for place in (2, 6):
        assert reading.on(place).tolist() == [old ^ 5 if at == place else old for at, old in enumerate(before)]  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        reading.on(8)  # type: ignore[arg-type]
    assert reading.on(3).tolist() == [old ^ 5 if at == 3 else old for at, old in enumerate(before)]  # type: ignore[arg-type]
    assert stored.patterns.tolist() == before
