"""Fixed-point codes: how far off they may be, and which integers they can be."""

from __future__ import annotations

import math
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from backends.base import InputError
from backends.memory.config import BITS, Quantization
from backends.memory.encoding import store

schemes = st.builds(
    Quantization,
    st.sampled_from(BITS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["tensor", "global", "channel"]),
)
values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50)


@given(schemes, values, values)
def test_a_weight_is_off_by_half_a_step_or_with_truncation_by_less_than_one(
    scheme: Quantization, first: list[float], second: list[float]
) -> None:
    tensors = {"a": torch.tensor(first).view(1, -1), "b": torch.tensor(second)}
    stored = store(tensors, scheme)
    for name, read in stored.tensors().items():
        step, centre = stored.slots[name].code.step, stored.slots[name].code.centre
        assert read.dtype == torch.float32
        # float32 carries 24 bits of the sum of centre and code
        slack = 2e-7 * (centre.abs() + step * 2**scheme.bits)
        assert ((read - tensors[name]).abs() <= step * (0.5 if scheme.rounding else 1.0) + slack).all()
        if not scheme.rounding:
            assert ((read - centre).abs() <= (tensors[name] - centre).abs() + slack).all()


@given(schemes, values)
def test_a_code_has_exactly_its_bits_and_spans_its_range(scheme: Quantization, numbers: list[float]) -> None:
    tensor = torch.tensor([*numbers, 7e6, -7e6])
    stored = store({"a": tensor}, replace(scheme, rounding=True, ranges="tensor"))
    assert stored.patterns.dtype == (np.uint8 if scheme.bits <= 8 else np.uint16)
    assert stored.patterns.max() < 2**scheme.bits
    read = stored.tensors()["a"]
    assert read.max() == pytest.approx(7e6, rel=1e-6)
    assert read.min() == pytest.approx(-7e6, rel=1e-6)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_every_pattern_reads_as_its_own_weight_one_step_apart(bits: int, signed: bool) -> None:
    largest = 2 ** (bits - 1) - 1
    stored = store({"a": torch.linspace(-largest, largest, 2**bits)}, Quantization(bits, signed=signed))
    every = np.arange(2**bits).astype(stored.patterns.dtype)
    read = stored.tensors(every)["a"].sort().values
    lowest = -largest - 1 if signed else -largest
    assert torch.equal(read, torch.arange(lowest, lowest + 2**bits).float())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_flipped_top_bit_moves_a_weight_by_half_the_range(bits: int) -> None:
    stored = store({"a": torch.tensor([-1.0, 0.25, 1.0])}, Quantization(bits))
    top = stored.patterns.dtype.type(1 << (bits - 1))
    moved = (stored.tensors(stored.patterns ^ top)["a"] - stored.tensors()["a"]).abs()
    assert moved == pytest.approx(2 ** (bits - 1) / (2 ** (bits - 1) - 1))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_cannot_be_stored(bad: float) -> None:
    with pytest.raises(InputError, match=f"layer.weight cannot be stored: it holds {bad}"):
        store({"layer.weight": torch.tensor([0.0, bad])}, Quantization())
