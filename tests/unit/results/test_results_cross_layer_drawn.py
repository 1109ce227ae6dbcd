"""What the studies across layers print and draw of toy designs, and the settings of the one at 32x32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import cross_layer, cross_layer_cifar10
from experiments.cross_layer_search import Trial
from tests.helpers.studies.toys import cells, headers, kept_figures, lines, tables_of


def found(cost: float, accuracy: float, feasible: bool = False) -> Trial:
    return Trial({}, cost, accuracy, feasible)


TRIED = [found(1.75, 0.5), found(1.25, 0.5), found(1.25, 0.625), found(1.5, 0.625), found(2.0, 0.875, True), found(1.0, 0.25)]


def test_the_front_rises_and_of_designs_of_one_size_the_best_counts() -> None:
    assert cross_layer.front(TRIED) == ([0.0, 25.0, 100.0], [25.0, 62.5, 87.5])
    assert cross_layer.front([]) == ([], [])
    assert cross_layer.front([found(1.5, 0.75), found(1.25, 0.75)]) == ([25.0], [75.0])  # as accurate, but larger


def row(design: str, rate: float, area: float | None, **more: Any) -> dict[str, Any]:
    cells = {"energy": 0.62 + rate, "accuracy_mean": 0.9 - rate, "accuracy_sd": 0.023, "wished": None, "settings": None}
    return {"data": "digits", "design": design, "rate": rate, "area": area} | cells | more


FREE = {"settings": {"bits": 6, "fuse": "head"}, "energy": 0.437, "accuracy_mean": 0.961, "accuracy_sd": 0.0123}
ROWS = [
    row("full TMR", 0.01, 2.19), row("bits only", 0.01, None), row("full TMR", 0.05, 1.5), row("bits only", 0.05, 0.97),
    row("full TMR", 0.02, 3.0, data="toy"),
    row("free voltage", 0.05, 1.234, wished=0.97, **FREE), row("free voltage", 0.0, None, wished=0.95),
]  # fmt: skip


def test_the_tables_show_extra_area_energy_and_accuracy_and_the_free_voltages() -> None:
    digits, toy, free = tables_of(cross_layer.tables(ROWS))
    words = "bit errors\nextra area, energy, accuracy"
    assert headers(digits) == ["design", f"1 % {words}", f"5 % {words}"]
    assert cells(digits) == [
        ["full TMR", "+119, 63, 89.0 ± 2.3", "+50, 67, 85.0 ± 2.3"],
        ["bits only", "", "-3, 67, 85.0 ± 2.3"],
    ]
    assert (digits.title, toy.title) == ("digits", "toy")
    assert cells(toy) == [["full TMR", "+200, 64, 88.0 ± 2.3"]]
    assert headers(free)[:4] == ["wished", "bit errors, %", "energy, %", "extra area, %"]
    assert cells(free) == [["97 %", "5", "44", "+23", "96.1 ± 1.2", "6", "head"]]
    assert len(tables_of(cross_layer.tables(ROWS[:5]))) == 2


@pytest.mark.parametrize("rates", [(0.01, 0.05), (0.05,)])
def test_a_panel_for_each_rate_has_all_fronts_the_best_designs_and_full_protection(
    rates: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = kept_figures(cross_layer, monkeypatch, tmp_path)
    tried = {(rate, family): [found(1.5 + rate, 0.5)] for rate in rates for family in cross_layer.COLOURS}
    tried[0.05, "cross-layer"] = [*TRIED, found(2.5, 0.96875, True)]
    cross_layer.draw(tried, ROWS, "toy.svg")
    panels = figures["toy.svg"].axes
    assert [axes.get_title() for axes in panels] == [f"{100 * rate:g} % bit errors" for rate in rates]
    assert panels[0].get_ylabel() == "validation accuracy, %"
    assert [axes.get_legend() is not None for axes in panels] == [False, True][-len(rates) :]
    found_lines = lines(panels[-1])
    families = list(cross_layer.COLOURS)
    named = [line.get_label() for line in panels[-1].lines if not str(line.get_label()).startswith("_")]
    assert named == [*families, "full TMR"]
    assert found_lines[0] == ([pytest.approx(55.0)], [50.0])
    assert found_lines[3] == ([0.0, 25.0, 100.0, 150.0], [25.0, 62.5, 87.5, 96.875])
    assert found_lines[4] == ([100.0], [87.5])  # the star: the cheapest that is feasible
    assert len(found_lines) == 7
    assert found_lines[-1][0] == [50.0, 50.0]
    if len(rates) == 2:
        assert lines(panels[0])[-1][0] == pytest.approx([119.0, 119.0])
        assert lines(panels[0])[2] == ([pytest.approx(51.0)], [50.0])
    width, _ = figures["toy.svg"].get_size_inches()
    assert width == pytest.approx(3.1 * len(rates) + 1.8)


def test_the_study_at_32x32_is_the_stated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = cross_layer_cifar10.COMPARISON.bench
    assert (bench.data, bench.target, bench.fuses) == ("data/cifar10-jpeg", "resnet20", {})
    assert (bench.validation_images, bench.validation_chips, bench.test_images, bench.steps) == (150, 2, 500, 25)
    counts = {"bits only": 10, "neurons only": 6, "quantization only": 10, "cross-layer": 25, "cross-layer with fuse": 12}
    said: list[Any] = []
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    monkeypatch.setattr(
        cross_layer.Comparison, "searched", lambda self: ([(self.bench, self.rates, self.evaluations)], "known", "tried")
    )
    monkeypatch.setattr(cross_layer, "draw", lambda *given: said.append(given))
    settings, rows = cross_layer_cifar10.RESULT.compute()
    assert rows == [(bench, (0.01,), counts)]
    assert said == [1, ("tried", rows, "cross_layer_cifar10.svg")]
    assert settings["evaluations"] == counts
