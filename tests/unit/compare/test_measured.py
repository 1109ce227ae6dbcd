"""Measurements: one thread, settings after rows, accuracies on chips, columns by value, and lines with bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from backends.base import NOMINAL, Chip
from backends.memory.simulator import Simulator
from bbfuse.compare.display.tables import table
from bbfuse.compare.measured import Measurement, accuracies, across, band, value
from tests.helpers.studies import toys


def test_a_measurement_uses_one_thread_draws_its_rows_and_asks_for_settings_last(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)

    def rows() -> list[dict[str, Any]]:
        calls.append("rows")
        return [{"x": 1}]

    measurement = Measurement("toy", lambda: calls.append("settings") or {"y": 2}, rows, lambda rows: "", calls.append)
    assert measurement.compute() == ({"y": 2}, [{"x": 1}])
    assert calls == [1, "rows", [{"x": 1}], "settings"]
    assert Measurement("toy", {"y": 3}, rows, lambda rows: "").compute() == ({"y": 3}, [{"x": 1}])


def test_accuracies_are_those_of_the_chips_or_of_nominal_voltage_alone() -> None:
    simulator, test = Simulator(toys.toy_network()), toys.toy_data().test

    def expected(chip: Chip) -> float:
        return float(np.mean(simulator.logits(test.images, chip).argmax(1).numpy() == test.labels.numpy()))

    assert accuracies(simulator, test, 0.2, (4, 9)) == pytest.approx([expected(Chip(0.2, 4)), expected(Chip(0.2, 9))])
    assert accuracies(simulator, test, 0.0, (4, 9)) == pytest.approx([expected(NOMINAL)])


def test_every_value_has_a_column_that_is_empty_for_lines_without_it() -> None:
    rows = [
        {"a": "x", "b": 2, "c": 0.5},
        {"a": "x", "b": 1, "c": 0.25},
        {"a": "y", "b": 1, "c": None},
        {"a": "y", "b": 1, "c": 7},
    ]
    shown = table(rows, ["a"], across(rows, "b", value("c", ".1f", 100), "b = {}".format))
    assert toys.headers(shown) == ["a", "b = 2", "b = 1"]
    assert toys.cells(shown) == [["x", "50.0", "25.0"], ["y", "", ""]]
    assert value("b")(rows[0]) == "2"


def test_a_band_is_one_standard_deviation_to_both_sides_up_to_its_end() -> None:
    axes = Figure().subplots()
    band(axes, [1.0, 2.0], [10.0, 20.0], [3.0, 5.0], "--", 0.1, 24.0, color="red", label="x")
    assert toys.lines(axes) == [([1.0, 2.0], [10.0, 20.0])]
    assert axes.lines[0].get_linestyle() == "--"
    assert toys.band(axes, 0) == {1.0: (7.0, 13.0), 2.0: (15.0, 24.0)}
