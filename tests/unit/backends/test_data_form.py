"""The form of the user's inputs: the way in and the way out are inverse, exact for whole numbers."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from backends.base import InputError
from backends.datasets.base import Dataset, Split
from backends.datasets.form import Form


def test_the_projects_own_form_changes_no_bit() -> None:
    values = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    assert torch.equal(Form().inward(values), values)
    assert torch.equal(Form().outward(values), values)


@pytest.mark.parametrize(
    ("form", "values", "inputs"),
    [
        (Form(0.0, 255.0, integers=True), [[0, 255, 51]], [[-1.0, 1.0, -0.6]]),
        (Form(0.0, 1.0), [[0.0, 0.25, 1.0]], [[-1.0, -0.5, 1.0]]),
        (Form(-20.0, 60.0), [[-20.0, 0.0, 60.0]], [[-1.0, -0.5, 1.0]]),
    ],
)
def test_ranges(form: Form, values: list[list[float]], inputs: list[list[float]]) -> None:
    torch.testing.assert_close(form.inward(torch.tensor(values)), torch.tensor(inputs))
    torch.testing.assert_close(form.outward(torch.tensor(inputs)).double(), torch.tensor(values).double())


@given(st.integers(-1000, 1000), st.integers(1, 2000), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_whole_numbers_come_back_exactly(low: int, width: int, last: bool, seed: int) -> None:
    form = Form(low, low + width, channels_last=last, integers=True)
    values = torch.from_numpy(np.random.default_rng(seed).integers(low, low + width, (3, 4, 5, 2), endpoint=True))
    inputs = form.inward(values)
    assert (inputs.dtype, inputs.is_contiguous()) == (torch.float32, True)
    assert float(inputs.abs().max()) <= 1.0 + 1e-6
    back = form.outward(inputs)
    assert back.dtype == (torch.uint8 if low >= 0 and low + width <= 255 else torch.int64)
    assert torch.equal(back.long(), values)


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_other_numbers_come_back_to_rounding(low: float, width: float, seed: int) -> None:
    form = Form(low, low + width)
    values = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed)) * width + low
    torch.testing.assert_close(form.outward(form.inward(values)), values, rtol=1e-5, atol=1e-6 * (abs(low) + width))


def test_layouts() -> None:
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)
    last, squeezed = Form(0.0, 255.0, channels_last=True), Form(0.0, 255.0, squeezed=True)
    assert last.inward(pixels).shape == (2, 5, 3, 4)
    assert float(last.inward(pixels)[1, 4, 2, 3]) == pytest.approx(float(pixels[1, 2, 3, 4]) / 127.5 - 1.0)
    torch.testing.assert_close(last.outward(last.inward(pixels)), pixels)
    assert squeezed.inward(pixels[0]).shape == (3, 1, 4, 5)
    torch.testing.assert_close(squeezed.outward(squeezed.inward(pixels[0])), pixels[0])


def test_values_that_a_fuse_pushed_out_of_range_do_not_wrap_around() -> None:
    assert Form(0, 255, integers=True).outward(torch.tensor([[-1.1, 1.2, 0.0]])).tolist() == [[0, 255, 128]]


def test_gradients_pass_where_nothing_is_rounded() -> None:
    inputs = torch.zeros(2, 1, 3, 3, requires_grad=True)
    Form(0.0, 1.0, squeezed=True).outward(inputs).sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, torch.full_like(inputs, 0.5))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"low": 1.0, "high": 1.0}, r"`value_range` must be two finite numbers, the lower one first, got \(1.0, 1.0\)"),
        ({"high": float("inf")}, "finite"),
        ({"low": float("nan")}, "finite"),
        ({"low": 0.5, "high": 3.0, "integers": True}, "two whole numbers"),
        ({"channels_last": True, "squeezed": True}, "`channels_last` must be false"),
    ],
)
def test_forms_that_cannot_be(settings: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Form(**settings)  # type: ignore[arg-type]


def test_a_data_set_keeps_its_form() -> None:
    part = Split(torch.zeros(20, 1, 2, 2), torch.arange(20) % 2)
    data = Dataset("some", 2, part, part, part, Form(0.0, 1.0))
    assert data.owned(10).form == data.on("cpu").form == Form(0.0, 1.0)
    assert Dataset("some", 2, part, part, part).form == Form()


def test_eight_bits_are_the_whole_numbers_from_0_to_255() -> None:
    assert Form(0, 255, integers=True).eight_bits
    for other in (Form(0, 255), Form(0, 254, integers=True), Form(1, 255, integers=True), Form()):
        assert not other.eight_bits
