"""Accuracy against bit error rate: what is measured, the guarantee's formula, and what is printed and drawn of toy rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import NOMINAL, Chip
from backends.memory.config import Memory
from backends.memory.simulator import Simulator
from experiments import bit_errors
from tests.helpers.studies.toys import band, cells, headers, kept_figures, lines, tables_of, toy_data, toy_network


def test_the_setting_is_the_stated_one() -> None:
    assert tuple(bit_errors.SCHEMES) == ("neuralfuse", "normal", "rquant")
    assert bit_errors.BITS == (8, 4)
    assert bit_errors.RATES == (0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    assert (bit_errors.CHIPS, bit_errors.DELTA) == (50, 0.01)


@pytest.mark.parametrize(("images", "chips", "delta"), [(360, 50, 0.01), (9000, 7, 0.03), (25, 36, 0.2)])
def test_the_guarantee_is_proposition_1(images: int, chips: int, delta: float) -> None:
    expected = np.sqrt(np.log((images + 1) / delta)) * (1 / np.sqrt(images) + 1 / np.sqrt(chips))
    assert bit_errors.guarantee(images, chips, delta) == pytest.approx(expected, rel=1e-12)
    if delta == 0.01:
        assert bit_errors.guarantee(images, chips) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("images", "slack", "delta"), [(10_000, 0.1, 0.01), (900, 0.4, 0.05), (9000, 0.5, 0.2), (50, 1.3, 0.01)])
def test_the_chips_needed_are_the_first_number_that_keeps_the_slack(images: int, slack: float, delta: float) -> None:
    root = math.sqrt(math.log((images + 1) / delta))
    kept = (chips for chips in range(1, 10**6) if root * (images**-0.5 + chips**-0.5) <= slack)
    assert bit_errors.chips_needed(images, slack, delta) == next(kept)


@pytest.mark.parametrize(("images", "chips", "points"), [(10**4, 10**6, 4.09), (10**5, 10**6, 1.67), (10**4, 50, 56)])
def test_the_guarantee_has_the_printed_values(images: int, chips: int, points: float) -> None:
    assert 100 * bit_errors.guarantee(images, chips) == pytest.approx(points, rel=0.01)


def test_a_slack_of_just_the_images_share_needs_endless_chips() -> None:
    images = 1000
    root = math.sqrt(math.log((images + 1) / 0.01) / images)
    assert bit_errors.chips_needed(images, root) is None
    assert bit_errors.chips_needed(images, 0.9 * root) is None
    assert bit_errors.chips_needed(images, 1.3 * root) == 11_112  # 1000 over 0.09


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit_errors, "load", toy_data)
    monkeypatch.setattr(bit_errors, "fitted", lambda name, data: toy_network())
    monkeypatch.setattr(bit_errors, "RATES", (0.03, 0.2))
    monkeypatch.setattr(bit_errors, "CHIPS", 3)


@pytest.mark.usefixtures("toys")
def test_a_row_is_mean_and_population_sd_of_the_accuracies_on_reporting_chips() -> None:
    memory, test = Memory("rquant", 4), toy_data().test
    clean, low, high = bit_errors._rows(memory)
    simulator = Simulator(toy_network(), memory)
    for row, rate in ((low, 0.03), (high, 0.2)):
        found = []
        for seed in (50_000, 50_001, 50_002):
            said = simulator.logits(test.images, Chip(rate, seed)).argmax(1)
            found.append(float(np.mean(said.numpy() == test.labels.numpy())))
        assert len(set(found)) > 1
        assert row == {
            "data": "digits", "target": "digits", "scheme": "rquant", "bits": 4, "stored": "parameters", "rate": rate,
            "chips": 3, "images": 23, "accuracy_mean": pytest.approx(np.mean(found)),
            "accuracy_sd": pytest.approx(np.std(found)), "slack": pytest.approx(bit_errors.guarantee(23, 3)),
        }  # fmt: skip
    right = float((simulator.logits(test.images, NOMINAL).argmax(1) == test.labels).double().mean())
    assert (clean["rate"], clean["chips"], clean["accuracy_sd"], clean["slack"]) == (0.0, 1, 0.0, None)
    assert clean["accuracy_mean"] == pytest.approx(right)


@pytest.mark.usefixtures("toys")
def test_what_is_stored_is_as_asked_or_else_as_the_authors_store() -> None:
    found = [
        Memory("neuralfuse"),
        Memory("normal"),
        Memory("normal", stored="weights"),
        Memory("neuralfuse", stored="parameters"),
    ]
    assert [bit_errors._rows(memory)[0]["stored"] for memory in found] == ["weights", "parameters", "weights", "parameters"]


def test_every_scheme_is_measured_at_both_widths_and_two_for_their_formats_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(bit_errors, "_rows", lambda memory: [memory, "row"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: drawn.append(count))
    settings, rows = replace(bit_errors.RESULT, draw=drawn.extend).compute()
    named = [(scheme, bits) for scheme in ("neuralfuse", "normal", "rquant") for bits in (8, 4)]
    whole = [Memory(scheme, bits) for scheme, bits in named]  # type: ignore[arg-type]
    assert rows[::2] == [*whole, Memory("normal", 8, "weights"), Memory("rquant", 8, "weights")]
    assert drawn == [1, *rows]
    assert settings == {"data": "digits", "target": "digits", "chips": 50, "delta": 0.01}


def row(scheme: str, bits: int, stored: str, rate: float, mean: float, sd: float) -> dict[str, Any]:
    return {
        "scheme": scheme,
        "bits": bits,
        "stored": stored,
        "rate": rate,
        "accuracy_mean": mean,
        "accuracy_sd": sd,
        "images": 360,
    }


ROWS = [
    row("neuralfuse", 8, "weights", 0.0, 0.975, 0.0), row("neuralfuse", 8, "weights", 0.02, 0.83, 0.041),
    row("neuralfuse", 8, "weights", 0.1, 0.31, 0.13), row("neuralfuse", 4, "weights", 0.02, 0.64, 0.07),
    row("rquant", 8, "parameters", 0.0, 0.981, 0.0), row("rquant", 8, "parameters", 0.02, 0.97, 0.05),
    row("rquant", 8, "weights", 0.02, 0.51, 0.02), row("normal", 4, "parameters", 0.1, 0.22, 0.033),
]  # fmt: skip


def test_the_tables_show_per_cent_and_the_guarantees() -> None:
    shown = bit_errors._tables(ROWS)
    eight, four = tables_of(shown)
    assert headers(eight) == ["bit error rate", "neuralfuse\nweights", "rquant\nparameters", "rquant\nweights"]
    assert cells(eight) == [
        ["0 %", "97.5", "98.1", ""], ["2 %", "83.0 ± 4.1", "97.0 ± 5.0", "51.0 ± 2.0"], ["10 %", "31.0 ± 13.0", "", ""]
    ]  # fmt: skip
    assert headers(four) == ["bit error rate", "neuralfuse\nweights", "normal\nparameters"]
    assert cells(four) == [["2 %", "64.0 ± 7.0", ""], ["10 %", "", "22.0 ± 3.3"]]
    said = str(shown.renderables[-1])
    root = math.sqrt(math.log(36_100))
    fifty, million = 100 * root * (360**-0.5 + 50**-0.5), 100 * root * (360**-0.5 + 1e-3)
    assert "sd of 50 chips, 360 held-out" in said
    assert f"allows {fifty:.0f} points less,\n{million:.0f} with a million" in said


@pytest.mark.parametrize("images", [311, 314])
def test_the_guarantee_with_a_million_chips_is_rounded_to_a_point(images: int) -> None:
    """Of these images it lies next to where it is rounded the other way."""
    rows = [{**one, "images": images + 77 * place} for place, one in enumerate(ROWS)]
    said = str(bit_errors._tables(rows).renderables[-1])
    million = 100 * math.sqrt(math.log((images + 1) / 0.01)) * (images**-0.5 + 1e-3)
    assert f"{images} held-out" in said
    assert f"\n{million:.0f} with a million" in said


def test_the_figure_shows_each_scheme_as_its_authors_store_with_bands_that_end_at_100(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = kept_figures(bit_errors, monkeypatch, tmp_path)
    bit_errors._draw(ROWS)
    (axes,) = figures["bit_errors.svg"].axes
    drawn = {line.get_label(): found for line, found in zip(axes.lines, lines(axes), strict=True)}
    assert list(drawn) == [f"{scheme}, {bits} bits" for scheme in ("neuralfuse", "normal", "rquant") for bits in (8, 4)]
    assert drawn["neuralfuse, 8 bits"] == ([2.0, 10.0], [83.0, 31.0])
    assert drawn["neuralfuse, 4 bits"] == ([2.0], [64.0])
    assert drawn["normal, 8 bits"] == drawn["rquant, 4 bits"] == ([], [])
    assert drawn["normal, 4 bits"] == ([10.0], [22.0])
    assert drawn["rquant, 8 bits"] == ([2.0], [97.0])
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"] * 3
    ends = band(axes, 0)
    assert ends[2.0] == (pytest.approx(78.9), pytest.approx(87.1))
    assert ends[10.0] == (pytest.approx(18.0), pytest.approx(44.0))
    assert band(axes, 4)[2.0] == (pytest.approx(92.0), 100.0)
    assert axes.get_xscale() == "log"
    assert axes.get_legend() is not None
