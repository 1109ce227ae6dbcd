"""Chips within their range, what a method needs and a backend grants, and pixels as whole numbers."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from backends.base import NOMINAL, Access, BackendInfo, Chip, InputError, levels, one_line, raised
from tests.helpers.documents.pages import ROOT

TINY = 5e-324


@pytest.mark.parametrize("rate", [0.0, TINY, 0.37, math.nextafter(1.0, 0.0), 1.0])
def test_a_rate_from_0_to_1_is_one(rate: float) -> None:
    assert Chip(rate, 3).bit_error_rate == rate


@pytest.mark.parametrize("rate", [-TINY, -0.5, math.nextafter(1.0, 2.0), 1.5, math.nan, math.inf, -math.inf])
def test_a_rate_outside_of_0_and_1_is_refused(rate: float) -> None:
    with pytest.raises(InputError) as error:
        Chip(rate)
    assert str(error.value) == f"`bit_error_rate` must lie in [0, 1], got {rate}"


def test_a_chips_number_is_not_negative() -> None:
    assert [Chip(0.1, seed).seed for seed in (0, 1, 2**63)] == [0, 1, 2**63]
    with pytest.raises(InputError) as error:
        Chip(0.1, -1)
    assert str(error.value) == "`chip_seed` must be a non-negative integer, got -1"


def test_a_chip_is_the_first_one_if_not_said_and_equal_by_its_numbers() -> None:
    assert Chip(0.3) == Chip(0.3, 0) != Chip(0.3, 1)
    assert Chip(0.0, 0) == NOMINAL
    assert len({Chip(0.3, 5), Chip(0.3, 5), Chip(0.2, 5)}) == 2


def test_gradients_include_answers() -> None:
    assert (Access.LOGITS.value, Access.GRADIENTS.value) == (1, 2)
    assert Access.LOGITS < Access.GRADIENTS


@pytest.mark.parametrize("kind", ["chip", "info"])
def test_what_is_said_once_is_not_changed(kind: str) -> None:
    thing = Chip(0.3) if kind == "chip" else BackendInfo("a", Access.LOGITS, (3, 4, 5), 7)
    field = dataclasses.fields(thing)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, field, 0.2)
    assert not hasattr(thing, "__dict__")


def test_a_target_takes_all_pixels_and_any_number_of_images_if_not_said() -> None:
    info = BackendInfo("a", Access.LOGITS, (3, 4, 5), 7)
    assert (info.eight_bits, info.limit) == (False, None)


def test_levels_are_the_nearest_of_256() -> None:
    pixels = torch.arange(256) / 255 * 2 - 1
    torch.testing.assert_close(levels(pixels), torch.arange(256.0), rtol=0, atol=0)
    torch.testing.assert_close(levels(pixels + 0.9 / 255), torch.arange(256.0), rtol=0, atol=0)
    torch.testing.assert_close(levels(pixels - 0.9 / 255), torch.arange(256.0), rtol=0, atol=0)
    assert levels(torch.tensor([-1.0, -0.5, 0.1, 0.7, 1.0])).tolist() == [0, 64, 140, 217, 255]


def test_a_target_of_eight_bits_sees_the_nearest_level_and_others_what_was_sent() -> None:
    images = torch.tensor([-1.0, -0.731, 0.1, 0.6, 1.0])
    seen = BackendInfo("a", Access.LOGITS, (3, 4, 5), 7, eight_bits=True).seen(images)
    torch.testing.assert_close(seen, torch.tensor([0.0, 34.0, 140.0, 204.0, 255.0]) / 255 * 2 - 1)
    assert BackendInfo("a", Access.LOGITS, (3, 4, 5), 7).seen(images) is images


def test_what_a_backend_is_is_known_without_torch() -> None:
    code = "import sys, backends.base; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_errors_of_others_are_told_in_one_line() -> None:
    assert one_line(ValueError(" one\n\ttwo  three ")) == "one two three"
    assert one_line(ValueError("x" * 201)) == "x" * 200
    assert one_line("a b c", 3) == "a b"
    assert raised(KeyError("no\nsuch")) == r"KeyError: 'no\nsuch'"
    assert raised(ValueError("y " * 150)) == ("ValueError: " + "y " * 150)[:200]
