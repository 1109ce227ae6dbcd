"""Formats of a network's own: codes as properties, banks as one memory, and layers that speak for themselves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from backends.base import NOMINAL, Chip, InputError
from backends.memory.config import Memory, Quantization
from backends.memory.encoding import Errors, Reading, store, store_by_codes
from backends.memory.faults import independent as chips
from backends.memory.faults.arrays import Columns
from backends.memory.number_formats import Binary, Code, FixedPoint, PowersOfTwo
from backends.memory.simulator import Simulator

FORMATS: list[Code] = [
    Binary(), *(PowersOfTwo(bits, highest) for bits in (2, 4, 5, 8) for highest in (-3, 0, 4)),
    *(FixedPoint.spacious(torch.tensor([-0.7, 0.3]), bits, spare) for bits in (4, 8, 16) for spare in (0, 2)),
    FixedPoint.between(torch.tensor(-0.2), torch.tensor(1.3), Quantization(5, symmetric=False, signed=False)),
]  # fmt: skip


def every_pattern(code: Code) -> Tensor:
    return torch.arange(2**code.bits, dtype=torch.uint8 if code.bits <= 8 else torch.int32).to(
        torch.uint8 if code.bits <= 8 else torch.uint16
    )


@pytest.mark.parametrize("code", FORMATS, ids=str)
def test_every_pattern_stands_for_a_number_that_is_stored_as_itself(code: Code) -> None:
    numbers = code.decode(every_pattern(code))
    assert numbers.dtype == torch.float32
    assert numbers.isfinite().all()
    written = code.encode(numbers)
    assert ((written >= 0) & (written < 2**code.bits)).all()
    again = code.decode(written.to(every_pattern(code).dtype))
    if isinstance(code, FixedPoint):  # a wrong bit may give a code one step beyond the range, which is never written
        beyond = numbers.abs() > numbers.abs().sort().values[-2]
        numbers, again = numbers[~beyond], again[~beyond]
    assert torch.equal(again, numbers)


@pytest.mark.parametrize("code", FORMATS, ids=str)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20))
def test_what_is_written_is_the_nearest_number_that_can_be(code: Code, numbers: list[float]) -> None:
    tensor = torch.tensor(numbers)
    kind = every_pattern(code).dtype
    read = code.decode(code.encode(tensor).to(kind)).double()
    possible = code.decode(code.encode(code.decode(every_pattern(code))).to(kind)).double()
    nearest = (tensor.double()[:, None] - possible).abs().amin(1)
    assert ((read - tensor.double()).abs() <= nearest * (1 + 1e-6) + 1e-7).all()


def test_powers_of_two_have_a_sign_and_an_exponent_and_know_zero() -> None:
    shift = PowersOfTwo(5)
    read = shift.decode(torch.arange(32, dtype=torch.uint8))
    assert read[:16].tolist() == [0.0, *(2.0**exponent for exponent in range(-14, 1))]
    assert torch.equal(read[16:], -read[:16])
    assert PowersOfTwo(4, 5).decode(torch.tensor([1, 7], dtype=torch.uint8)).tolist() == [0.5, 32.0]
    # the middle between two powers is 3/4 of the larger one
    assert shift.rounded(torch.tensor([0.374, 0.376, 0.0, -3.0])).tolist() == [0.25, 0.5, 0.0, -1.0]


def test_spare_bits_are_room_above_the_largest_number() -> None:
    tensor = torch.tensor([0.5, -1.0])
    for spare in range(3):
        code = FixedPoint.spacious(tensor, 8, spare)
        assert code.decode(code.encode(tensor).to(torch.uint8)) == pytest.approx(tensor, abs=2**spare / 127)
        assert code.decode(torch.tensor([127], dtype=torch.uint8)).item() == pytest.approx(2**spare)


class Half(nn.Module):
    """Two tensors of its own that are stored, one that is not, and a linear layer in which it has the word."""

    def __init__(self) -> None:
        super().__init__()
        self.signs = nn.Parameter(torch.randn(40, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("powers", torch.randn(30, generator=torch.Generator().manual_seed(1)))
        self.register_buffer("safe", torch.ones(3))
        self.inner = nn.Linear(2, 3)

    def codes(self) -> Mapping[str, Code]:
        return {"signs": Binary(), "powers": PowersOfTwo(5), "inner.bias": Binary()}

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.inner(images.flatten(1)[:, :2]) * self.safe * self.signs.mean() + self.get_buffer("powers").mean()
        return answers


@pytest.fixture
def mixed() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(Half(), nn.Linear(3, 3, bias=False))


def test_a_layer_that_speaks_is_stored_as_it_says_and_the_rest_as_ever(mixed: nn.Module) -> None:
    simulator = Simulator(mixed)
    assert [(bank.bits, set(bank.slots)) for bank in simulator.banks] == [
        (8, {"1.weight"}), (1, {"0.signs", "0.inner.bias"}), (5, {"0.powers"}),
    ]  # fmt: skip
    assert [(bank.first, bank.end) for bank in simulator.banks] == [(0, 72), (72, 115), (115, 265)]
    weights = simulator.weights(NOMINAL)
    assert torch.equal(weights["0.signs"], torch.where(mixed[0].signs >= 0, 1.0, -1.0))  # type: ignore[index, union-attr]
    assert torch.equal(weights["0.powers"], PowersOfTwo(5).rounded(mixed[0].powers))  # type: ignore[arg-type, index, union-attr]
    whole = nn.Sequential(nn.Linear(3, 3))
    assert [bank.bits for bank in Simulator(whole, Memory(bits=4)).banks] == [4]


@pytest.mark.parametrize("memory", [Memory("rquant"), Memory(errors="stuck"), Memory(errors="column"), Memory(bits=4)])
def test_what_is_read_depends_on_the_chip_alone_in_any_order(mixed: nn.Module, memory: Memory) -> None:
    images = torch.linspace(-1, 1, 8).view(2, 1, 2, 2)
    several = [NOMINAL, Chip(0.1, 1), Chip(0.3, 2), Chip(1.0, 3)]
    answers = [Simulator(mixed, memory).logits(images, chip) for chip in several]
    simulator = Simulator(mixed, memory)
    for chip, answer in [*reversed(list(zip(several, answers, strict=True)))] * 2:
        assert torch.equal(simulator.logits(images, chip), answer)
    together = simulator.logits_of_all(images, several)
    assert together == pytest.approx(torch.stack(answers), abs=1e-5)


KINDS: list[Errors] = [chips.random_flips, chips.stuck_cells, chips.stuck_at_one, chips.stuck_at_zero]


def read_in_parts_and_whole(errors: Errors, numbers: int, chip: Chip) -> list[list[int]]:
    tensors = {"a": torch.linspace(-1, 1, numbers + 1), "b": torch.linspace(2, -1, 33)}
    codes: dict[str, Code] = {name: FixedPoint.spacious(tensor, 7) for name, tensor in tensors.items()}
    (whole,) = store_by_codes(tensors, codes)
    (first,) = store_by_codes({"a": tensors["a"]}, codes)
    (second,) = store_by_codes({"b": tensors["b"]}, codes, first.end)
    parts = [Reading(bank, errors).on(chip) for bank in (first, second)]
    return [np.concatenate(parts).tolist(), Reading(whole, errors).on(chip).tolist()]


@pytest.mark.parametrize("errors", KINDS, ids=["random", "stuck", "to one", "to zero"])
@given(st.integers(0, 40), st.floats(0, 1), st.integers(0, 99))
def test_two_banks_of_one_width_read_as_one_bank_that_holds_both(errors: Errors, numbers: int, rate: float, seed: int) -> None:
    parts, whole = read_in_parts_and_whole(errors, numbers, Chip(rate, seed))
    assert parts == whole


def test_so_they_do_in_an_array_with_bit_lines() -> None:
    parts, whole = read_in_parts_and_whole(Columns(3), 17, Chip(0.3, 5))
    assert parts == whole


@given(st.floats(0, 1), st.integers(0, 99), st.sampled_from([1, 4, 8]))
def test_one_sided_errors_are_the_two_halves_of_the_random_ones(rate: float, seed: int, bits: int) -> None:
    code = Binary() if bits == 1 else FixedPoint.spacious(torch.ones(1), bits)
    (stored,) = store_by_codes({"a": torch.linspace(-1, 1, 200)}, {"a": code})
    flipped, ones, zeros = (
        Reading(stored, kind).on(Chip(rate, seed)).copy()
        for kind in (chips.random_flips, chips.stuck_at_one, chips.stuck_at_zero)
    )
    assert not (stored.patterns & ~ones).any()
    assert not (zeros & ~stored.patterns).any()
    assert np.array_equal((stored.patterns ^ ones) | (stored.patterns ^ zeros), stored.patterns ^ flipped)


def test_a_buffer_that_is_none_and_a_width_that_cannot_be_are_refused() -> None:
    class Wrong(Half):
        def codes(self) -> Mapping[str, Code]:
            return {"nothing": Binary()}

    with pytest.raises(InputError, match=r"codes\(\) must name parameters and buffers, and nothing is none of Wrong"):
        Simulator(Wrong())
    with pytest.raises(InputError, match="a code must have 1 to 16 bits, got 17"):
        store_by_codes({"a": torch.ones(1)}, {"a": Binary(17)})
    with pytest.raises(InputError, match="bits of a power of two must be 2 to 8, sign and exponent, got 9"):
        PowersOfTwo(9)
    with pytest.raises(InputError, match="a cannot be stored: it holds nan"):
        store_by_codes({"a": torch.tensor([float("nan")])}, {"a": Binary()})


def test_the_memorys_own_format_is_one_of_them() -> None:
    tensor = torch.linspace(-1, 2, 50)
    for scheme in (Quantization(), Quantization(6, symmetric=False, signed=False)):
        code = FixedPoint.between(*tensor.double().aminmax(), scheme)
        assert np.array_equal(store({"a": tensor}, scheme).patterns, store_by_codes({"a": tensor}, {"a": code})[0].patterns)
