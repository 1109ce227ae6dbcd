"""Medians of turns, most bytes held, and the tables of benchmarks of toy times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import NOMINAL, Chip
from backends.datasets.base import Split
from backends.memory.config import Quantization
from backends.training.hardening import Hardening
from backends.training.recipe import LARGE_RECIPE, RECIPE, Recipe
from experiments.benchmarks import hardening, proxy, remote, serving, timing, training
from tests.helpers.studies.toys import cells, headers


def test_a_work_s_time_is_the_median_of_its_turns_without_the_first() -> None:
    now = [100.0]
    lasts = {"a": [50.0, 3.0, 9.0, 1.0, 4.0], "b": [7.0, 2.0, 2.5, 8.0, 6.0]}
    turns: list[tuple[str, int]] = []

    def work(name: str) -> Callable[[int], None]:
        def done(turn: int) -> None:
            turns.append((name, turn))
            now[0] += lasts[name][turn]

        return done

    found = timing.median_seconds({name: work(name) for name in lasts}, 4, lambda: now[0])
    assert found == {"a": 3.5, "b": 4.25}
    assert turns == [(name, turn) for turn in range(5) for name in ("a", "b")]


def test_the_benchmark_of_fitting_has_the_stated_settings() -> None:
    scheme = Quantization(symmetric=False, signed=False)
    assert {
        "plain": None, "rquant": Hardening(scheme, clip=0.1),
        "randbet": Hardening(scheme, clip=0.1, rate=0.01, start=float("inf")),
    } == hardening.METHODS  # fmt: skip
    large = Recipe(10_000, weight_decay=0.05, shift=4, mirror=True, each=True)
    assert hardening.TARGETS["resnet8-gn"] == large
    assert (hardening.TARGETS["resnet8-bn"], hardening.TARGETS["digits-gn"]) == (LARGE_RECIPE, RECIPE)
    assert (hardening.STEPS, hardening.TURNS) == (6, 7)


def test_a_step_of_fitting_is_a_sixth_of_its_time_and_compared_with_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[Split, Recipe]] = []

    def median(works: Any, repeats: int, clock: Any) -> dict[str, float]:
        assert (repeats, clock) == (7, time.process_time)
        for work in works.values():
            work(0)
        return {"plain": 0.3, "rquant": 0.45, "randbet": 0.66}

    monkeypatch.setattr(hardening, "median_seconds", median)
    monkeypatch.setattr(hardening, "fit", lambda network, data, recipe: fits.append((data, recipe)))
    rows = hardening._rows("digits-gn", Recipe(4))
    assert [(row["target"], row["method"]) for row in rows] == [("digits-gn", name) for name in ("plain", "rquant", "randbet")]
    assert [row["ms_per_step"] for row in rows] == pytest.approx([50.0, 75.0, 110.0])
    assert [row["ratio"] for row in rows] == pytest.approx([1.0, 1.5, 2.2])
    assert [recipe for _, recipe in fits] == [Recipe(4, hardening=said) for said in hardening.METHODS.values()]
    rng = torch.Generator().manual_seed(0)
    images = torch.rand((1000, 1, 8, 8), generator=rng)
    assert torch.allclose(fits[0][0].images, 2 * images - 1)
    assert torch.equal(fits[0][0].labels, torch.randint(10, (1000,), generator=rng))
    assert cells(hardening._table(rows)) == [
        ["digits-gn", "plain", "50.0", "1.00"], ["digits-gn", "rquant", "75.0", "1.50"],
        ["digits-gn", "randbet", "110.0", "2.20"],
    ]  # fmt: skip


def test_all_targets_are_fitted_for_six_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(hardening, "_rows", lambda target, recipe: [(target, recipe.steps, recipe.weight_decay)])
    settings, rows = hardening.RESULT.compute()
    assert rows == [("digits-gn", 6, 0.01), ("resnet8-bn", 6, 0.05), ("resnet8-gn", 6, 0.05)]
    assert (settings, threads) == ({"steps": 6, "turns": 7, "batch": 128}, [1])


def test_the_table_of_speeds_relates_each_to_the_local_target_and_to_json() -> None:
    speeds = {("1x8x8", 0): (1000.0, 125.0, 760.0), ("3x32x32", 20): (4000.0, 80.0, 300.0)}
    rows = [
        {"shape": shape, "target_ms": ms, "mode": mode, "images_per_second": speed}
        for (shape, ms), found in speeds.items() for mode, speed in zip(("local", "json", "binary"), found, strict=True)
    ]  # fmt: skip
    assert cells(remote._table(rows)) == [
        ["1x8x8", "0", "local", "1,000", "100%", "8.0"], ["1x8x8", "0", "json", "125", "12%", "1.0"],
        ["1x8x8", "0", "binary", "760", "76%", "6.1"], ["3x32x32", "20", "local", "4,000", "100%", "50.0"],
        ["3x32x32", "20", "json", "80", "2%", "1.0"], ["3x32x32", "20", "binary", "300", "8%", "3.8"],
    ]  # fmt: skip


def test_a_timed_target_waits_and_answers_with_the_first_ten_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    sent: list[int] = []
    target = serving.Timed((2, 3, 4), 35)
    images = torch.arange(72.0).view(3, 2, 3, 4)
    answers = target.query(images, NOMINAL, sent.append)
    assert torch.equal(answers, images.view(3, 24)[:, :10])
    assert (slept, sent) == ([0.035], [3])
    assert (target.info.image_shape, target.info.classes) == ((2, 3, 4), 10)


def test_the_times_of_a_proxy_are_shown_to_a_hundredth() -> None:
    row = {
        "shape": "1x8x8", "mode": "json", "generator": "MLP", "direct_ms": 1.234, "proxy_ms": 3.456, "fuse_ms": 0.111,
        "added_ms": 2.111,
    }  # fmt: skip
    table = proxy._table([row])
    assert headers(table)[3:] == ["direct, ms", "through the proxy", "fuse alone", "added"]
    assert cells(table) == [["1x8x8", "json", "MLP", "1.23", "3.46", "0.11", "2.11"]]


TIMES = {"chip": (0.9, 0.004, 0.007, 0.003), "fuse": (0.5, 0.001, 0.0015, 0.009)}


def test_a_part_s_time_is_the_median_of_turns_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    def parts(simulator: Any, fuse: Any, optimizer: Any, images: Any, labels: Any, turn: int) -> Iterator[tuple[str, float]]:
        turns.append(turn)
        assert torch.is_autocast_enabled("cpu") == (turn >= 10_000)
        assert images.shape == (64, 1, 8, 8)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert -1 <= float(images.min()) < -0.99
        assert 0.99 < float(images.max()) <= 1
        assert labels.tolist() == [n % 10 for n in range(64)]
        for name, seconds in TIMES.items():
            yield name, seconds[turn % 10_000] * (2 if turn >= 10_000 else 1)

    monkeypatch.setattr(training, "_parts", parts)
    rows = training.measure("digits", "MLP", 3)
    assert turns == [*range(4), *range(10_000, 10_004)]
    assert [(row["precision"], row["part"]) for row in rows] == [
        (precision, part) for precision in ("float32", "bfloat16") for part in ("chip", "fuse")
    ]
    assert [row["ms"] for row in rows] == pytest.approx([4.0, 1.5, 8.0, 3.0])
    assert {(row["target"], row["generator"], row["device"]) for row in rows} == {("digits", "MLP", "cpu")}


def test_the_parts_of_a_step_are_done_on_fresh_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Simulated:
        def weights(self, chip: Chip) -> None:
            asked.append(("weights", chip))

        def logits(self, images: torch.Tensor, chip: Chip) -> torch.Tensor:
            asked.append(("logits", chip))
            return images.flatten(1)[:, :10]

        def logits_of_all(self, images: torch.Tensor, chips: Any) -> torch.Tensor:
            asked.append(("all", *chips))
            return torch.stack([images.flatten(1)[:, :10] * (n + 2) for n in range(len(chips))])

    clock = iter(2.0**n for n in range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    fuse = torch.nn.Conv2d(1, 1, 1)
    optimizer = torch.optim.SGD(fuse.parameters(), 0.1)
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    before = fuse.weight.detach().clone()
    parts = list(training._parts(Simulated(), fuse, optimizer, images, labels, 3))  # type: ignore[arg-type]
    names = ["chip", "fuse", "target", "backward", "optimizer", "clean", "4 chips", "4 chips in one pass"]
    assert [name for name, _ in parts] == names
    assert [seconds for _, seconds in parts] == [2.0 ** (2 * n) for n in range(8)]
    chips = [Chip(0.01, seed) for seed in (12, 13, 14, 15)]
    assert asked == [
        ("weights", chips[0]), ("logits", chips[0]), ("logits", NOMINAL), *(("weights", chip) for chip in chips),
        *(("logits", chip) for chip in chips), ("all", *chips),
    ]  # fmt: skip
    assert not torch.equal(fuse.weight, before)


def test_the_steps_are_timed_for_the_stated_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.CASES == (("digits", "UNetS"), ("resnet20", "UNetS"), ("resnet20", "ConvL"))
    assert (training.BATCH, training.RATE, training.TURNS, training.CHIPS) == (64, 0.01, 7, 4)
    assert training.PRECISIONS == {"float32": False, "bfloat16": True}
    monkeypatch.setattr(training, "measure", lambda *given: [given])
    for there, devices in ((False, ["cpu"]), (True, ["cpu", "cuda"])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        settings, rows = training.RESULT.compute()
        assert rows == [(*case, 7, device) for device in devices for case in training.CASES]
    assert settings == {"batch": 64, "rate": 0.01, "turns": 7, "threads": 1}


def test_the_table_of_parts_has_a_column_for_each_case() -> None:
    rows = [
        {"target": "digits", "generator": "MLP", "device": "cpu", "precision": precision, "part": part, "ms": ms}
        for precision, found in (("float32", (1.26, 30.0)), ("bfloat16", (0.5, 12.34)))
        for part, ms in zip(("chip", "fuse"), found, strict=True)
    ]
    table = training._table(rows)
    assert headers(table) == ["part, ms", "digits\nMLP\ncpu\nfloat32", "digits\nMLP\ncpu\nbfloat16"]
    assert cells(table) == [["chip", "1.3", "0.5"], ["fuse", "30.0", "12.3"]]


def test_the_most_bytes_are_those_of_numpy_and_torch_together() -> None:
    def work() -> None:
        first = torch.zeros(300_000)
        kept = np.ones(500_000)
        del first
        second = torch.zeros(200_000)
        del second, kept

    assert timing.peak_bytes(work) == pytest.approx(8 * 500_000 + 4 * 300_000, rel=0.01)
