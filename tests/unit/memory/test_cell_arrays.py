"""Cells in rows and columns: NeuralFuse's map, bit lines and measured chips, cell by cell."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backends.base import NOMINAL, Chip, InputError
from backends.memory.config import Quantization
from backends.memory.encoding import Errors, Stored, store
from backends.memory.faults.arrays import COLUMNS, ROWS, Columns, Profile, neuralfuse_map

Array = NDArray[Any]


def written(*counts: int, bits: int, first: int = 0) -> Stored:
    rng = torch.Generator().manual_seed(3)
    tensors = {str(place): torch.randn(count, generator=rng) for place, count in enumerate(counts)}
    return replace(store(tensors, Quantization(bits)), first=first)


def read_by(errors: Errors, stored: Stored, chip: Chip) -> list[int]:
    read = stored.patterns.copy()
    assert errors(stored, read, chip) == [slice(None)]
    return [int(pattern) for pattern in read]


def overlaid(pattern: int, to_one: list[bool], to_zero: list[bool]) -> int:
    """``pattern`` read from cells that fail as these say, lowest bit first."""
    bits = [pattern >> place & 1 for place in range(len(to_one))]
    return sum(
        (one if bit == 0 else not zero) << place for place, (bit, one, zero) in enumerate(zip(bits, to_one, to_zero, strict=True))
    )


@pytest.mark.parametrize("bits", [2, 3, 5, 7, 8])
def test_neuralfuses_map_holds_n_squared_weights_in_each_row_of_every_tensor(bits: int) -> None:
    n, chip = 128 // bits, Chip(0.3, 40)
    counts = (n * n + 2 * n + 3, 5, 2 * n * n + 1)
    stored = written(*counts, bits=bits)
    faulty = np.random.RandomState(40).rand(8192, 128) < 0.3
    at_one = np.random.RandomState(41).rand(8192, 128) < 0.5
    expected, place = [], 0
    for count in counts:
        for weight in range(count):
            row, column = weight // n // n, weight % n * bits
            broken, high = faulty[row, column : column + bits], at_one[row, column : column + bits]
            expected.append(overlaid(int(stored.patterns[place]), (broken & high).tolist(), (broken & ~high).tolist()))
            place += 1
    assert read_by(neuralfuse_map, stored, chip) == expected


def test_neuralfuses_map_begins_again_behind_its_last_row() -> None:
    turn = 8192 * 16 * 16
    stored = replace(store({"w": torch.zeros(turn + 600)}, Quantization()))
    read = stored.patterns.copy()
    neuralfuse_map(stored, read, Chip(0.4, 7))
    assert read[turn:].tolist() == read[:600].tolist()
    last = (np.random.RandomState(7).rand(8192, 128)[-1] < 0.4) & (np.random.RandomState(8).rand(8192, 128)[-1] < 0.5)
    assert read[turn - 256 : turn - 240].tolist() == np.packbits(last, bitorder="little").tolist()


def rates_of_columns(rate: float, deviations: Array) -> list[float]:
    """``Phi((t - sqrt(h) x) / sqrt(1 - h))`` with the ``t`` that makes their mean the rate, by bisection."""
    phi = NormalDist().cdf

    def at(t: float) -> list[float]:
        return [phi((t - 0.7**0.5 * x) / 0.3**0.5) for x in deviations]

    low, high = -40.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) < 128 * rate else (low, middle)
    return at(low)


@pytest.mark.parametrize("rate", [1e-4, 0.0386, 0.2, 0.93])
@pytest.mark.parametrize("seed", [0, 9])
def test_bit_lines_have_the_rates_of_the_quantile_equation(rate: float, seed: int) -> None:
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, 8192, 128))))
    rates = rates_of_columns(rate, rng.standard_normal(128))
    assert sum(rates) / 128 == pytest.approx(rate, rel=1e-9)
    faulty = rng.random((8192, 128)) < np.array(rates)
    up = rng.random((8192, 128)) < 0.8
    to_one, to_zero = Columns.faults(Chip(rate, seed))
    assert np.array_equal(to_one, faulty & up)
    assert np.array_equal(to_zero, faulty & ~up)
    # 6 sd of a binomial: error probability below 2e-9
    cells = 8192 * 128
    assert abs(int(faulty.sum()) - cells * rate) < 6 * math.sqrt(cells * rate * (1 - rate))


def test_bit_lines_without_errors_and_with_nothing_else() -> None:
    assert not np.any(Columns.faults(NOMINAL))
    to_one, to_zero = Columns.faults(Chip(1.0, 3))
    assert (to_one ^ to_zero).all()
    assert (ROWS, COLUMNS) == (8192, 128)


@pytest.mark.parametrize(
    ("offset", "first"), [(0, 0), (777, 0), (0, 35), (8192 * 128 - 100, 21), (8192 * 128 - 50, 8192 * 128 + 3)]
)
@pytest.mark.parametrize("bits", [3, 8])
def test_bits_lie_in_the_cells_behind_the_offset_row_after_row(offset: int, first: int, bits: int) -> None:
    stored, chip = written(70, bits=bits, first=first), Chip(0.4, 6)
    to_one, to_zero = (side.reshape(-1) for side in Columns.faults(chip))
    expected = []
    for number, pattern in enumerate(stored.patterns.tolist()):
        cells = [(offset + first + bits * number + place) % (8192 * 128) for place in range(bits)]
        expected.append(overlaid(pattern, to_one[cells].tolist(), to_zero[cells].tolist()))
    assert read_by(Columns(offset) if offset else Columns(), stored, chip) == expected


def save(path: Path, **changed: Any) -> Path:
    rng = np.random.default_rng(1)
    arrays = {"rate": [0.01, 0.2], "to_one": rng.random((2, 3, 5)), "to_zero": rng.random((2, 3, 5)), **changed}
    np.savez(path / "chip.npz", **{name: np.asarray(value) for name, value in arrays.items() if value is not None})
    return path / "chip.npz"


@pytest.mark.parametrize("bits", [2, 3, 5, 7, 8, 16])
@pytest.mark.parametrize(("offset", "first"), [(0, 0), (4, 0), (0, 11), (23, 31)])
@pytest.mark.parametrize("point", [0, 1])
def test_a_profile_is_drawn_once_a_seed_and_used_again_and_again(
    tmp_path: Path, bits: int, offset: int, first: int, point: int
) -> None:
    path = save(tmp_path)
    chip, stored = Chip([0.01, 0.2][point], 12), written(41, 9, bits=bits, first=first)
    with np.load(path) as file:
        u = np.random.Generator(np.random.SFC64(np.random.SeedSequence(12))).random((3, 5))
        to_one, to_zero = ((u < file[name][point]).reshape(-1) for name in ("to_one", "to_zero"))
    expected = []
    for number, pattern in enumerate(stored.patterns.tolist()):
        cells = [(offset + first + bits * number + place) % 15 for place in range(bits)]
        expected.append(overlaid(pattern, to_one[cells].tolist(), to_zero[cells].tolist()))
    assert read_by(Profile(path, offset), stored, chip) == expected


def test_a_persistent_fault_is_on_every_seed_and_a_cell_without_probability_never_fails(tmp_path: Path) -> None:
    to_one = np.array([[[1, 0, 1]]])
    profile = Profile(save(tmp_path, rate=[1], to_one=to_one, to_zero=1 - to_one))
    stored = written(20, bits=3)
    for seed in range(5):
        assert read_by(profile, stored, Chip(1.0, seed)) == [0b101] * 20
    assert profile(stored, stored.patterns.copy(), NOMINAL) == []


def test_an_operating_point_is_met_within_a_millionth(tmp_path: Path) -> None:
    profile = Profile(save(tmp_path))
    assert [profile.point(0.01), profile.point(0.2)] == [0, 1]
    assert profile.point(0.2 * (1 + 0.9e-6)) == profile.point(0.2 * (1 - 0.9e-6)) == 1
    for rate in (0.2 * (1 + 1.2e-6), 0.2 * (1 - 1.2e-6), 0.1):
        with pytest.raises(InputError, match=rf"bit_error_rate` must be one of .*chip.npz's 0.01, 0.2, got {rate:g}"):
            profile.point(rate)
    with pytest.raises(InputError, match="bit_error_rate` must be one of"):
        profile(written(3, bits=8), written(3, bits=8).patterns, Chip(0.1))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"to_one": np.full((2, 3, 5), 1.0 + 1e-9)}, r"to_one must lie in \[0, 1\], got 1.00"),
        ({"to_zero": np.full((2, 3, 5), -1e-9)}, r"to_zero must lie in \[0, 1\], got -1e-09"),
        ({"to_zero": np.full((2, 3, 5), np.nan)}, r"to_zero must lie in \[0, 1\], got nan"),
        ({"rate": [0.1, 1.1]}, r"rate must lie in \[0, 1\], got 1.1"),
        ({"rate": [0.2, 0.1]}, r"ascending rates above 0, got \[0.2, 0.1\]"),
        ({"rate": [0.2, 0.2]}, r"ascending rates above 0, got \[0.2, 0.2\]"),
        ({"rate": [0.0, 0.2]}, r"ascending rates above 0, got \[0.0, 0.2\]"),
        ({"rate": 0.2}, r"ascending rates above 0, got 0.2"),
        ({"rate": []}, r"ascending rates above 0, got \[\]"),
        ({"rate": [[0.1], [0.2]]}, r"ascending rates above 0, got \[\[0.1\], \[0.2\]\]"),
        ({"to_zero": np.zeros((2, 5, 3))}, r"to_zero must have the shape \(2, rows, columns\) of to_one, got \(2, 5, 3\)"),
        ({"to_one": np.zeros((2, 15))}, r"to_one must have the shape \(2, rows, columns\) of to_one, got \(2, 15\)"),
        ({"to_one": np.zeros((3, 3, 5))}, r"to_one must have the shape \(2, rows, columns\) of to_one, got \(3, 3, 5\)"),
        ({"to_one": np.zeros((2, 0, 5))}, r"to_one must have the shape \(2, rows, columns\) of to_one, got \(2, 0, 5\)"),
        ({"to_one": np.zeros((2, 3, 5), bool)}, "to_one must be numbers, got bool"),
        ({"to_one": [["a"]]}, "to_one must be numbers, got <U1"),
        ({"to_zero": None}, "is no chip profile with arrays rate, to_one and to_zero: .*to_zero"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_value(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Profile(save(tmp_path, **changed))


def test_a_profile_at_the_ends_of_every_range_is_accepted(tmp_path: Path) -> None:
    whole = np.array([[[0, 1]], [[1, 0]]], np.uint8)
    profile = Profile(save(tmp_path, rate=[1e-9, 1.0], to_one=whole, to_zero=whole.astype(np.int64)))
    assert [profile.point(1e-9), profile.point(1.0)] == [0, 1]


def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("nonsense")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "one.npy", "missing.npz"):
        with pytest.raises(InputError, match=f"{name} is no chip profile with arrays rate, to_one and to_zero"):
            Profile(tmp_path / name)
