"""The benchmark of chips: what the peers' ways read back, and ratios of times and bytes of toy measurements."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import NOMINAL, Chip
from backends.memory.config import Quantization
from backends.memory.encoding import store
from backends.memory.faults.independent import random_flips
from experiments.benchmarks import injection
from tests.helpers.studies.toys import cells, headers

SIZES = (700, 1900)


def stored() -> Any:
    rng = torch.Generator().manual_seed(3)
    return store({name: torch.randn(size, generator=rng) for name, size in zip("ab", SIZES, strict=True)}, Quantization())


def test_the_setting_is_the_stated_one() -> None:
    assert injection.RATES == (0.0001, 0.001, 0.01)
    assert (injection.REPEATS, injection.SHAPE, injection.BITS) == (9, (3, 32, 32), 8)
    assert (injection.MAP_ROWS, injection.MAP_COLUMNS) == (8192, 128)
    assert list(injection.METHODS) == ["ours", "uniform", "map", "our map"]


def test_a_uniform_number_for_every_bit_flips_those_below_the_rate() -> None:
    bank = stored()
    found = injection.uniform(bank)(0.125, 5)
    drawn = torch.rand((2600, 8), generator=torch.Generator().manual_seed(5)).numpy() < 0.125
    assert np.array_equal(np.unpackbits(found ^ bank.patterns, bitorder="little").reshape(2600, 8), drawn)


def test_our_way_is_that_of_random_flips() -> None:
    bank = stored()
    expected = bank.patterns.copy()
    random_flips(bank, expected, Chip(0.1, 5))
    assert np.array_equal(injection.ours(bank)(0.1, 5), expected)


def test_a_map_of_stuck_cells_is_laid_over_every_tensor_from_its_first_weight_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns, rate, seed = 10, 16, 0.25, 8
    monkeypatch.setattr(injection, "MAP_ROWS", rows)
    monkeypatch.setattr(injection, "MAP_COLUMNS", columns)
    bank = stored()
    assert [place.stop - place.start for place in bank.places] == list(SIZES)
    found = np.unpackbits(injection.stuck_map(bank)(rate, seed), bitorder="little").reshape(-1, 8)
    written = np.unpackbits(bank.patterns, bitorder="little").reshape(-1, 8)
    draws, kinds = (np.random.RandomState(s).random_sample((rows, columns)) for s in (seed, seed + 1))
    # a row of sixteen cells holds two weights; two columns of weights repeat themselves across
    faulty, one = (cell.reshape(rows, 2, 8) for cell in (draws < rate, kinds < 0.5))
    start = 0
    for size in SIZES:
        for weight in range(size):
            row, column = weight // 4 % rows, weight % 2
            wanted = np.where(faulty[row, column], one[row, column], written[start + weight])
            assert np.array_equal(found[start + weight], wanted)
        start += size


def test_rows_have_medians_bytes_a_weight_and_how_many_times_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = stored()
    asked: list[Any] = []
    times = {"ours": 0.5, "uniform": 4.0, "map": 3.0, "our map": 0.25}

    def method(name: str) -> Any:
        return lambda given: lambda rate, seed: asked.append((name, given is bank, rate, seed))

    def median(works: Any, repeats: int) -> dict[str, float]:
        for work in works.values():
            work(7)
        assert repeats == 6
        return {name: seconds * (1 + asked[-1][2]) for name, seconds in times.items()}

    def peak(work: Any) -> float:
        work()
        return 2600.0 * (3 + len(asked[-1][0]))

    monkeypatch.setattr(injection, "METHODS", {name: method(name) for name in times})
    monkeypatch.setattr(injection, "Simulator", lambda network: SimpleNamespace(stored=bank))
    monkeypatch.setattr(injection.networks, "build", lambda name, shape: (name, shape))
    monkeypatch.setattr(injection, "median_seconds", median)
    monkeypatch.setattr(injection, "peak_bytes", peak)
    monkeypatch.setattr(injection, "_query_overhead", lambda simulator, repeats: {"overhead": repeats})
    monkeypatch.setattr(injection, "_batched", lambda repeats: [{"batched": repeats}, {}])
    rows = injection.measure(6)
    assert rows[12:] == [{"overhead": 6}, {"batched": 6}, {}]
    for row, (rate, name) in zip(rows, ((rate, name) for rate in (1e-4, 1e-3, 1e-2) for name in times), strict=False):
        assert (row["rate"], row["method"]) == (rate, name)
        assert row["seconds"] == pytest.approx(times[name] * (1 + rate))
        assert row["extra_bytes_per_weight"] == 3 + len(name)
        assert row["speedup"] == pytest.approx({"ours": 1, "uniform": 8, "map": 6, "our map": 0.5}[name])
    assert asked[:8] == [*((name, True, 1e-4, 7) for name in times), *((name, True, 1e-4, 0) for name in times)]


def test_a_fresh_chip_costs_what_it_adds_to_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def median(works: Any, repeats: int) -> dict[str, float]:
        for work in works.values():
            work(3)
        return {"clean": 0.5, "fresh": 0.625 + repeats}

    simulator = SimpleNamespace(logits=lambda images, chip: asked.append((tuple(images.shape), chip, torch.is_grad_enabled())))
    monkeypatch.setattr(injection, "median_seconds", median)
    row = injection._query_overhead(simulator, 2)  # type: ignore[arg-type]
    assert row == {"rate": 0.01, "method": "query_overhead", "seconds": 0.5, "overhead": 4.25}
    assert asked == [((128, 3, 32, 32), NOMINAL, False), ((128, 3, 32, 32), Chip(0.01, 3), False)]


def test_sixteen_chips_in_one_pass_are_compared_with_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Simulated:
        def __init__(self, network: Any) -> None:
            assert network == ("digits", (1, 8, 8))

        def logits_of_all(self, images: Any, chips: Any) -> None:
            asked.append((tuple(images.shape), tuple(chips)))

        def logits(self, images: Any, chip: Any) -> None:
            asked.append((tuple(images.shape), chip))

    def median(works: Any, repeats: int) -> dict[str, float]:
        assert repeats == 20
        assert not torch.is_grad_enabled()
        for work in works.values():
            work(0)
        return {"batched": 0.25, "single": 0.5 * len(asked)}

    monkeypatch.setattr(injection, "Simulator", Simulated)
    monkeypatch.setattr(injection.networks, "build", lambda name, shape: (name, shape))
    monkeypatch.setattr(injection, "median_seconds", median)
    rows = injection._batched(5)
    chips = tuple(Chip(0.01, seed) for seed in range(16))
    assert asked == [
        step for count in (16, 360) for step in (((count, 1, 8, 8), chips), *(((count, 1, 8, 8), chip) for chip in chips))
    ]  # fmt: skip
    assert [row["speedup"] for row in rows] == [34.0, 68.0]
    assert [(row["rate"], row["method"], row["seconds"]) for row in rows] == [
        (0.01, f"16 chips in one pass, {count} images", 0.25) for count in (16, 360)
    ]


def test_the_table_shows_milliseconds_and_what_is_said_below() -> None:
    table = injection._table([
        {"rate": 1e-3, "method": "map", "seconds": 0.1234, "extra_bytes_per_weight": 2.345, "speedup": 6.78},
        {"rate": 1e-2, "method": "query_overhead", "seconds": 2.345, "overhead": 0.1234},
        {"rate": 1e-2, "method": "16 chips", "seconds": 0.5, "speedup": 3.21},
    ])  # fmt: skip
    assert headers(table) == ["bit error rate", "method", "ms", "extra bytes a weight", "times ours"]
    assert cells(table) == [["0.001", "map", "123.4", "2.35", "6.8"]]
    assert table.caption == (
        "a fresh chip adds 12.3 % to a query of 128 images, 2.35 s\n16 chips: 3.2 times as fast as chip by chip"
    )


def test_what_is_measured_is_nine_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injection, "measure", lambda repeats: [repeats])
    assert injection.RESULT.compute() == ({"network": "resnet18", "rates": (1e-4, 1e-3, 1e-2), "repeats": 9, "threads": 1}, [9])
