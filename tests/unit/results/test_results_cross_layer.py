"""Designs across layers: which are searched and begun with, their rows, and the cheapest at a free voltage, all with toys."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import torch

from backends.memory.protection.cost import HARDWARE, Cost
from backends.memory.protection.policy import Protection
from bbfuse.config.schema import RunConfig
from bbfuse.config.sections import ReportConfig
from experiments import cross_layer
from experiments.cross_layer import COMPARISON, EVALUATIONS, FIRST, Comparison
from experiments.cross_layer_designs import DIGITS, FULL, UNPROTECTED, Design
from experiments.cross_layer_search import Requirements, Trial
from experiments.cross_layer_space import NOTHING, Values, completed, design_of


def test_the_setting_is_the_stated_one() -> None:
    assert (COMPARISON.rates, COMPARISON.wished) == ((0.01, 0.05, 0.1), (0.97, 0.95))
    assert (cross_layer.CHIPS, cross_layer.FREE) == (10, 40)
    assert EVALUATIONS == {
        "bits only": 50, "neurons only": 30, "quantization only": 10, "cross-layer": 80, "cross-layer with fuse": 80,
    }  # fmt: skip
    assert (DIGITS.data, DIGITS.target, DIGITS.validation_images, DIGITS.validation_chips) == ("digits", "digits", 287, 5)
    assert (DIGITS.test_images, DIGITS.steps, list(DIGITS.fuses)) == (360, 300, ["Filters", "MLP", "UNetXS"])
    for name, config in DIGITS.fuses.items():
        assert config == RunConfig(
            optimizer="follow", generator=name, bit_error_rate=0.05, head="standardize", report=ReportConfig(chips=2, share=1.0)
        )


def test_a_search_begins_with_the_stated_designs_of_its_layer() -> None:
    begun = {family: [design_of(family, values) for values in first] for family, first in FIRST.items()}
    assert [design.protection for design in begun["bits only"]] == [
        Protection("tmr", 1.0, bits, bits, logic) for bits, logic in ((8, 16), (1, 1), (2, 2), (3, 4))
    ]
    assert begun["neurons only"] == [Design(Protection("tmr", 1.0, 8, 0, 0, 1.0, 64))]
    assert begun["quantization only"] == [
        Design(Protection("tmr", restricted=restricted), clip)
        for clip in (1.0, 0.7, 0.5, 0.35, 0.25) for restricted in (False, True)
    ]  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Costs and accuracies that tell what was asked."""

    data: str = "data/toy"
    target: str = "tiny"
    fuses: dict[str, Any] = field(default_factory=lambda: {"A": 1, "B": 2}, hash=False)
    test_images: int = 17
    reports: list[tuple[Design, float, int]] = field(default_factory=list, hash=False)

    def price(self, design: Design, rate: float) -> Cost:
        return Cost(1 + design.protection.inner / 10, 2 - rate, 1.125)

    def reported(self, design: Design, rate: float, chips: int) -> list[float]:
        self.reports.append((design, rate, chips))
        return [0.6, 0.64, 0.71]

    def clean(self, design: Design) -> float:
        raise AssertionError("the limits are the test's")


def test_a_row_has_costs_mean_and_population_sd_or_nothing() -> None:
    bench, design = Bench(), Design(Protection(inner=3), 0.5)
    row = cross_layer._row(bench, "mine", 0.05, design)  # type: ignore[arg-type]
    named = {"data": "toy", "target": "tiny", "design": "mine", "rate": 0.05, "chips": 10, "images": 17, "wished": None}
    assert row == {
        **named, "area": 1.3, "energy": 1.95, "time": 1.125, "settings": asdict(design),
        "accuracy_mean": pytest.approx(0.65), "accuracy_sd": pytest.approx(((0.05**2 + 0.01**2 + 0.06**2) / 3) ** 0.5),
    }  # fmt: skip
    assert bench.reports == [(design, 0.05, 10)]
    empty = dict.fromkeys(("area", "energy", "time", "settings", "accuracy_mean", "accuracy_sd"))
    assert cross_layer._row(bench, "mine", 0.05, None) == {**named, **empty}  # type: ignore[arg-type]


def found(cost: float, accuracy: float, feasible: bool = True, **values: Any) -> Trial:
    return Trial(values, cost, accuracy, feasible)


def test_values_are_completed_as_the_family_defines_them() -> None:
    for family, inner, outer in (("bits only", 5, 5), ("neurons only", 8, 0), ("cross-layer", 5, 0)):
        whole = completed(family, {"inner": 5, "logic": 2})
        assert whole == {**NOTHING, "inner": inner, "outer": outer, "logic": 2}


def test_a_joint_search_begins_with_the_best_of_each_layer_and_then_with_each_fuse() -> None:
    one: Values = {**NOTHING, "inner": 3}
    both: Values = {**NOTHING, "inner": 2, "logic": 5}
    begun = {"bits only": found(1.5, 0.9, **one), "neurons only": None}
    assert cross_layer._first(Bench(), begun) == [one]  # type: ignore[arg-type]
    again = cross_layer._first(Bench(), {**begun, "cross-layer": found(1.2, 0.9, **both)})  # type: ignore[arg-type]
    assert again == [one, both, *({**both, "fuse": fuse} for fuse in ("head", "A", "B"))]


def test_every_rate_has_a_row_of_every_design_and_a_search_of_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def search(*given: Any) -> list[Trial]:
        asked.append(given)
        _, family, _, rate, *_ = given
        if family == "quantization only" or rate == 0.3:
            return [found(1.0, 0.1, False)]
        return [found(2.0, 0.9, inner=6), found(1.5, 0.9, inner=4), found(1.1, 0.9, False, inner=1)]

    monkeypatch.setattr(cross_layer, "search", search)
    monkeypatch.setattr(cross_layer, "requirements_of", lambda bench, rate: Requirements(rate, 0.5))
    counts = {"bits only": 3, "quantization only": 2, "cross-layer": 9, "cross-layer with fuse": 4}
    bench = Bench()
    rows, known, tried = Comparison("toy", bench, (0.05, 0.3), counts).searched()  # type: ignore[arg-type]
    named = ("unprotected", "full TMR", *counts)
    assert [(row["rate"], row["design"]) for row in rows] == [(rate, name) for rate in (0.05, 0.3) for name in named]
    areas = [1.0, 1.8, 1.4, None, 1.4, 1.4, 1.0, 1.8, None, None, None, None]
    assert [row["area"] for row in rows] == [area and pytest.approx(area) for area in areas]
    assert [(design, rate) for design, rate, _ in bench.reports[:2]] == [(UNPROTECTED, 0.05), (FULL, 0.05)]
    bits = {**NOTHING, "inner": 4, "outer": 4}
    whole = {**NOTHING, "inner": 4}
    assert known == [bits, whole, whole]
    assert list(tried) == [(rate, family) for rate in (0.05, 0.3) for family in counts]
    assert [len(some) for some in tried.values()] == [3, 1, 3, 3, 1, 1, 1, 1]
    for given, (rate, family) in zip(asked, tried, strict=True):
        assert given[:2] == ("tiny", family)
        assert given[2] is bench
        assert given[3:8] == (rate, Requirements(rate, 0.5), counts[family], "tpe", 0)
    assert [given[8] for given in asked[:4]] == [
        FIRST["bits only"][:3], FIRST["quantization only"][:2], [bits],
        [bits, whole, {**whole, "fuse": "head"}, {**whole, "fuse": "A"}],
    ]  # fmt: skip
    assert [given[8] for given in asked[6:]] == [[], []]


@pytest.mark.parametrize("there", [True, False])
def test_the_cheapest_for_a_wish_is_searched_over_voltages_as_well(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def search(*given: Any) -> list[Trial]:
        asked.append(given)
        return [found(0.5, 0.96, there, inner=2, voltage=6), found(0.7, 0.99, there, inner=7, voltage=1)]

    monkeypatch.setattr(cross_layer, "search", search)
    monkeypatch.setattr(cross_layer, "requirements_of", lambda bench, rate: Requirements(0.1, 0.875 + rate))
    bench, known = Bench(), [{**NOTHING, "inner": n} for n in range(1, 9)]
    row = cross_layer._cheapest(bench, 0.93, known)  # type: ignore[arg-type]
    name, family, same, rate, limits, count, sampler, seed, first = asked[0]
    assert (name, family, rate, count, sampler, seed) == ("tiny", "free voltage", 0.93, 40, "tpe", 0)
    assert same is bench
    assert limits == Requirements(0.93, 0.875)
    expected = [{**NOTHING, "voltage": place} for place in range(8)]
    expected += [{**values, "voltage": place} for values in known[:6] for place in (5, 6)]
    assert first == expected  # eight and twelve: half of the evaluations
    assert (row["design"], row["wished"]) == ("free voltage", 0.93)
    if there:
        assert (row["rate"], row["area"], row["energy"]) == (0.05, 1.2, 1.95)
        assert row["settings"] == asdict(Design(Protection(inner=2)))
    else:
        assert (row["rate"], row["area"]) == (0.0, None)


def test_the_study_of_digits_is_all_rates_and_the_wished_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr(Comparison, "searched", lambda self: ([(self.bench, self.rates, self.evaluations)], ["known"], "tried"))
    monkeypatch.setattr(cross_layer, "_cheapest", lambda bench, wished, known: (bench, wished, known))
    monkeypatch.setattr(cross_layer, "draw", lambda *given: calls.append(given))
    settings, rows = cross_layer.RESULT.compute()
    assert rows == [(DIGITS, (0.01, 0.05, 0.1), EVALUATIONS), (DIGITS, 0.97, ["known"]), (DIGITS, 0.95, ["known"])]
    assert calls == [1, ("tried", rows, "cross_layer.svg")]
    assert settings == {
        "arithmetic": 0.01, "clips": (1.0, 0.7, 0.5, 0.35, 0.25), "tolerance": 0.01, "time": 1.25, "hardware": asdict(HARDWARE),
        "evaluations": EVALUATIONS, "free": 40,
    }  # fmt: skip
