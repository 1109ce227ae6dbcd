"""Robust errors of hardened targets: their means and spreads, the rates that are tolerated, and what is shown of toy rows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import NOMINAL, Chip
from backends.memory.config import Memory, Quantization
from backends.memory.simulator import Simulator
from backends.training.recipe import Recipe
from experiments import bit_error_robustness, hardened_targets
from experiments.bit_error_robustness import tolerated
from experiments.hardened_targets import HardenedTarget, TargetGroup
from tests.helpers.studies.toys import band, cells, headers, kept_figures, lines, tables_of, toy_data, toy_network

TARGET = HardenedTarget("fixed", bits=4, clip=0.9, randbet=0.2, pattern=6, label_smoothing=0.25, published={0: 3.5, 0.03: 8.25})
GROUP = TargetGroup("toy", "Toy", "tiny", (TARGET,), Recipe(5), (0.03, 0.2), 19, seeds=(3, 8), chips=4)
# between the measured points 20/24 (1.115e-2) and 19/24 (5.573e-2)
SHARE = math.log(0.03 / 1.115e-2) / math.log(5.573e-2 / 1.115e-2)
ENERGY = ((20 - SHARE) / 24) ** 2


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    def fitted(name: str, data: Any, recipe: Recipe, device: str) -> torch.nn.Module:
        asked.append((name, data.name, recipe, device))
        return toy_network(recipe.seed)

    monkeypatch.setattr(bit_error_robustness, "load", toy_data)
    monkeypatch.setattr(hardened_targets, "fitted", fitted)
    return asked


def errors(seed: int, chips: list[Chip]) -> list[float]:
    simulator = Simulator(toy_network(seed), Memory("rquant", 4), Quantization(4, symmetric=False, signed=False))
    test = toy_data().test
    said = [simulator.logits(test.images[:19], chip).argmax(1).numpy() for chip in chips]
    return [100.0 * float(np.mean(found != test.labels[:19].numpy())) for found in said]


def test_rows_are_means_over_fits_and_chips_and_their_population_spreads(fits: list[tuple[Any, ...]]) -> None:
    rows = bit_error_robustness._rows(GROUP, TARGET)
    assert fits == [("tiny-gn", "toy", TARGET.recipe(Recipe(5, seed=seed)), "cpu") for seed in (3, 8)]
    expected = [(rate, which) for which in ("unseen", "trained on") for rate in (0.03, 0.2)]
    assert [(row["rate"], row["chips_are"]) for row in rows] == expected
    for row in rows:
        own = [6] if row["chips_are"] == "trained on" else range(50_000, 50_004)
        found = np.array([errors(seed, [Chip(row["rate"], chip) for chip in own]) for seed in (3, 8)])
        assert row["robust_error_mean"] == pytest.approx(found.mean())
        assert row["robust_error_sd"] == pytest.approx(found.std())
        assert row["fit_sd"] == pytest.approx(found.mean(1).std())
        assert row["fit_sd"] > 0
        assert row["error"] == pytest.approx(np.mean([errors(seed, [NOMINAL]) for seed in (3, 8)]))
        assert (row["chips"], row["seeds"], row["images"]) == (len(own), 2, 19)
    first, _, third, _ = rows
    assert first["energy"] == pytest.approx(ENERGY)
    root = math.sqrt(math.log(20 / 0.01))
    assert first["slack"] == pytest.approx(100 * root * (19**-0.5 + 4**-0.5))
    assert [row["published"] for row in rows] == [8.25, None, None, None]
    assert [row["slack"] is None for row in rows] == [False, False, True, True]
    assert third["published_error"] == 3.5
    assert {key: first[key] for key in ("data", "target", "hardening", "scheme", "bits", "ranges", "clip", "train_rate")} == {
        "data": "Toy", "target": "tiny-gn", "hardening": "fixed", "scheme": "rquant", "bits": 4, "ranges": "tensor",
        "clip": 0.9, "train_rate": 0.2,
    }  # fmt: skip
    assert (first["advbet"], first["label_smoothing"], first["gradients"]) == (None, 0.25, "sum")


def test_no_energy_is_given_where_no_voltage_was_measured() -> None:
    row = bit_error_robustness._row(GROUP, TARGET, 0.3, "unseen", [1.0], [[2.0, 7.0]])
    assert row["energy"] is None


def test_without_a_pattern_no_chip_was_trained_on_and_what_is_kept_is_not_measured_again(
    tmp_path: Path, fits: list[tuple[Any, ...]]
) -> None:
    plain, other = HardenedTarget("plain", "normal"), HardenedTarget("other", norm="bn")
    group = replace(GROUP, cells=(plain, other), seeds=(1,))
    rows = bit_error_robustness.measured(group, tmp_path / "kept" / "rows")
    assert [(row["hardening"], row["chips_are"], row["rate"]) for row in rows] == [
        (name, "unseen", rate) for name in ("plain", "other") for rate in (0.03, 0.2)
    ]
    assert [name for name, *_ in fits] == ["tiny-gn", "tiny-bn"]
    assert bit_error_robustness.measured(replace(group, cells=(other, plain)), tmp_path / "kept" / "rows") == rows[2:] + rows[:2]
    assert len(fits) == 2
    bit_error_robustness.measured(replace(group, chips=3), tmp_path / "kept" / "rows")
    assert len(fits) == 4
    assert len(list((tmp_path / "kept" / "rows").iterdir())) == 4  # no unfinished part is left


@pytest.mark.parametrize(("loss", "rate"), [(0.9, 0), (1.0, 0.01), (2.4, 0.01), (2.5, 0.02), (3.9, 0.02), (4.0, 0.1), (9.0, 0.1)])
def test_a_rate_is_tolerated_with_all_below_it_up_to_and_with_the_loss(loss: float, rate: float) -> None:
    found = ((0.1, 6.5), (0.01, 6.0), (0.05, 9.0), (0.02, 7.5))
    rows = [{"rate": rate, "error": 5.0, "robust_error_mean": error} for rate, error in found]
    assert tolerated(rows, loss) == rate


@pytest.mark.parametrize("tier", ["cpu", "gpu"])
def test_all_parts_of_a_tier_are_measured_and_the_small_ones_drawn(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(bit_error_robustness, "measured", lambda part, folder: [(part.target, str(folder))])
    monkeypatch.setattr(bit_error_robustness, "_draw", drawn.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: drawn.append(count))
    settings, rows = bit_error_robustness._compute(tier)
    targets = {"cpu": ["digits", "resnet8"], "gpu": ["simplenet"]}[tier]
    assert rows == [(target, "runs/bit_error_robustness") for target in targets]
    assert drawn == ([1, rows] if tier == "cpu" else [1])
    assert [part["target"] for part in settings] == targets
    assert settings == json.loads(json.dumps(settings))


def row(data: str, name: str, rate: float, mean: float, sd: float, which: str = "unseen", **more: Any) -> dict[str, Any]:
    return {
        "data": data, "hardening": name, "rate": rate, "chips_are": which, "error": 1.3, "robust_error_mean": mean,
        "robust_error_sd": sd, "published_error": None, "published": None, "chips": 7, "images": 360, "energy": 0.9 - rate,
    } | more  # fmt: skip


ROWS = [
    row("digits", "clip", 0.03, 3.8, 0.4, published=4.5, published_error=0.39),
    row("digits", "clip", 0.2, 21.0, 1.5, published_error=0.39),
    row("digits", "clip", 0.03, 1.7, 0.0, "trained on", chips=1), row("digits", "clip", 0.2, 3.9, 0.0, "trained on", chips=1),
    row("digits", "normal", 0.03, 30.0, 2.0), row("digits", "normal", 0.2, 70.0, 6.0),
    row("Toy", "clip", 0.001, 2.0, 0.5, images=500),
]  # fmt: skip


def test_the_tables_show_errors_spreads_published_ones_and_the_rate_within_two_and_a_half_points() -> None:
    shown = bit_error_robustness._tables(ROWS)
    digits, toy = tables_of(shown)
    within = "within 2.5 points:\nrate, energy"
    assert headers(digits) == ["hardening", "nominal", "3 %", "20 %", within]
    assert cells(digits) == [
        ["clip", "1.3 (0.39)", "3.8 ± 0.4 (4.5)", "21.0 ± 1.5", f"3 %, {ENERGY:.2f}"],
        ["clip, its own chip", "1.3", "1.7", "3.9", f"3 %, {ENERGY:.2f}"],
        ["normal", "1.3", "30.0 ± 2.0", "70.0 ± 6.0", ""],
    ]
    assert headers(toy) == ["hardening", "nominal", "0.1 %", within]
    share = math.log(0.001 / 6.86646e-5) / math.log(1.29e-3 / 6.86646e-5)
    assert cells(toy) == [["clip", "1.3", "2.0 ± 0.5", f"0.1 %, {((22 - share) / 24) ** 2:.2f}"]]
    assert "digits, 360 images" in str(digits.title)
    assert "Toy, 500 images" in str(toy.title)
    root = math.sqrt(math.log(10_001 / 0.01))
    needed = math.ceil((0.1 / root - 0.01) ** -2)
    assert "mean ± sd of 7 chips" in shown.renderables[-1]
    assert f"for 10 points at 99 %, {needed:,} chips on 10,000 images" in shown.renderables[-1]


def test_no_energy_is_printed_for_a_rate_that_no_measured_voltage_gives() -> None:
    (table,) = tables_of(bit_error_robustness._tables([row("digits", "clip", 0.3, 2.0, 0.5)]))
    assert cells(table) == [["clip", "1.3", "2.0 ± 0.5", ""]]


def test_the_figure_has_a_panel_for_each_data_set_and_one_for_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = kept_figures(bit_error_robustness, monkeypatch, tmp_path)
    bit_error_robustness._draw(ROWS)
    digits, toy, energy = figures["bit_error_robustness.svg"].axes
    names = ["normal", "rquant", "clip", "randbet", "randbet, 10 %"]
    assert [line.get_label() for line in digits.lines] == names
    assert lines(digits) == [([3.0, 20.0], [30.0, 70.0]), ([], []), ([3.0, 20.0], [3.8, 21.0]), ([], []), ([], [])]
    assert lines(toy)[2] == ([0.1], [2.0])
    assert lines(energy)[0] == ([0.9 - 0.03, 0.9 - 0.2], [30.0, 70.0])
    assert band(digits, 0)[20.0] == (64.0, 76.0)
    assert band(digits, 2)[3.0] == (pytest.approx(3.4), pytest.approx(4.2))
    assert [axes.get_xscale() for axes in (digits, toy, energy)] == ["log", "log", "linear"]
    named = [f"{data}: robust error, %" for data in ("digits", "Toy", "digits")]
    assert [axes.get_ylabel() for axes in (digits, toy, energy)] == named
    assert energy.xaxis_inverted()
    assert not digits.xaxis_inverted()
    assert energy.get_legend() is not None
