"""The search for designs across layers, and what its committed results have to hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backends.memory.protection.cost import Cost
from bbfuse.seeds import validation_chip
from experiments import cross_layer_cifar10, cross_layer_search
from experiments.cross_layer import CHIPS, COMPARISON, EVALUATIONS, front
from experiments.cross_layer_designs import DIGITS, FULL, UNPROTECTED, Design
from experiments.cross_layer_profiles import QUERIES
from experiments.cross_layer_search import SEEDS, Requirements, Trial, best, search
from experiments.cross_layer_space import FAMILIES, NOTHING, Values, design_of
from experiments.study import rows_of

founds = st.lists(st.builds(Trial, st.just({}), st.floats(0.5, 4), st.floats(0, 1), st.booleans()), max_size=20)
LIMITS = Requirements(0.9, 0.9)


@dataclass(frozen=True)
class _Bench:
    """Accuracy and area by simple rules: what is dear is right."""

    fuses: dict[str, Any] = field(default_factory=dict, hash=False)
    asked: list[Design] = field(default_factory=list, hash=False)

    def price(self, design: Design, rate: float) -> Cost:
        policy = design.protection
        area = 1 + policy.outer / 8 + policy.important * (policy.inner - policy.outer) / 8 + policy.logic / 16
        return Cost(area, area * (1 - rate), 2.0 if policy.recomputed > 0.5 else 1.0)

    def validated(self, design: Design, rate: float) -> float:
        self.asked.append(design)
        return 1 - rate * (8 - design.protection.inner) - rate * (16 - design.protection.logic) / 16

    def clean(self, design: Design) -> float:
        return design.clip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_layer_search, "FOLDER", tmp_path)


def tried(name: str | None, evaluations: int, first: list[Values] | None = None, **more: Any) -> list[Trial]:
    return search(name, "cross-layer", _Bench(), 0.05, LIMITS, evaluations, first=first or [], **more)  # type: ignore[arg-type]


@given(found=founds)
def test_an_infeasible_design_is_never_the_best_and_the_best_is_the_cheapest(found: list[Trial]) -> None:
    chosen = best(found)
    feasible = [one for one in found if one.feasible]
    assert (chosen is None) == (not feasible)
    if chosen:
        assert chosen.feasible
        assert chosen.cost == min(one.cost for one in feasible)


def test_what_a_search_calls_feasible_keeps_to_every_limit() -> None:
    bench = _Bench()
    found = tried(None, 40)
    assert len(found) == 40
    for one in found:
        design = design_of("cross-layer", one.values)
        kept = bench.validated(design, 0.05) >= 0.9 and bench.clean(design) >= 0.9 and bench.price(design, 0.05).time <= 1.25
        assert one.feasible == kept
        assert one.cost == bench.price(design, 0.05).area
    assert 0 < sum(one.feasible for one in found) < 40


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("killed", [2, 12])
def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened(sampler: str, killed: int) -> None:
    first: list[Values] = [{**NOTHING, "inner": inner} for inner in range(4)]
    whole = tried("whole", 16, first, sampler=sampler)

    class Killed(_Bench):
        def validated(self, design: Design, rate: float) -> float:
            if len(self.asked) == killed:
                raise KeyboardInterrupt
            return super().validated(design, rate)

    with pytest.raises(KeyboardInterrupt):
        search("part", "cross-layer", Killed(), 0.05, LIMITS, 16, sampler, 0, first)  # type: ignore[arg-type]
    assert tried("part", 16, first, sampler=sampler) == whole
    assert [one.values["inner"] for one in whole[:4]] == [0, 1, 2, 3]
    assert tried("part", 9, first, sampler=sampler) == whole[:9]


def test_designs_given_first_are_tried_so_that_the_result_is_never_worse() -> None:
    everything: Values = {**NOTHING, "inner": 8, "outer": 8, "logic": 16}
    first: list[Values] = [{**NOTHING, "inner": 7, "important": 10, "logic": 12}, everything]
    found = tried(None, 5, first)
    bench = _Bench()
    areas = [bench.price(design_of("cross-layer", values), 0.05).area for values in first]
    assert [one.cost for one in found[:2]] == areas
    chosen = best(found)
    assert chosen is not None
    assert chosen.cost <= min(areas)


def test_a_family_chooses_its_own_layers_and_nothing_else() -> None:
    assert design_of("cross-layer", {}) == UNPROTECTED
    assert design_of("bits only", {"inner": 8, "logic": 16}) == FULL
    assert design_of("neurons only", {"important": 3}).protection.inner == 8
    assert "fuse" not in FAMILIES["cross-layer"]
    policy = design_of("cross-layer", {"inner": 1, "outer": 4}).protection
    assert policy.inner == policy.outer == 4


@given(found=founds)
def test_on_the_front_more_area_is_more_accuracy(found: list[Trial]) -> None:
    x, y = front(found)
    assert x == sorted(x)
    assert all(one < other for one, other in pairwise(y))
    assert bool(x) == bool(found)


def test_designs_are_chosen_on_validation_chips() -> None:
    seen: list[int] = []

    class Watched(type(DIGITS)):  # type: ignore[misc]
        def accuracies(self, design: Design, chips: Any, part: Any) -> list[float]:
            seen.extend(chip.seed for chip in chips)
            assert part.images.data_ptr() == self.dataset.validation.images.data_ptr()
            return [1.0]

    Watched("digits", "digits", {}, 287, 5, 360, 300).validated(UNPROTECTED, 0.05)
    assert seen == [validation_chip(index) for index in range(5)]


@pytest.mark.parametrize(
    ("name", "rates"), [("cross_layer", COMPARISON.rates), ("cross_layer_cifar10", cross_layer_cifar10.COMPARISON.rates)]
)
def test_all_layers_together_are_never_larger_than_one_and_far_smaller_than_everything_threefold(
    name: str, rates: tuple[float, ...]
) -> None:
    rows = {(row["rate"], row["design"]): row for row in rows_of(name) if row["wished"] is None}
    assert set(rows) == {(rate, design) for rate in rates for design in ("unprotected", "full TMR", *EVALUATIONS)}
    for rate in rates:
        full, together = rows[rate, "full TMR"], rows[rate, "cross-layer"]
        assert together["area"] - 1 <= 0.6 * (full["area"] - 1)
        # chosen within a point on validation; within two on chips and images never chosen on
        assert together["accuracy_mean"] >= full["accuracy_mean"] - 0.02
        alone = [rows[rate, family]["area"] for family in ("bits only", "neurons only", "quantization only")]
        assert together["area"] <= min(area for area in alone if area is not None)
        assert rows[rate, "cross-layer with fuse"]["area"] <= together["area"]
    assert all(row["chips"] == CHIPS >= 10 for row in rows.values())


def test_bits_and_channels_matter_as_the_law_and_the_gradients_say() -> None:
    rows = rows_of("cross_layer_profiles")
    for row in rows:
        if row["kind"] in ("power", "left") and row["site"] == "weights":
            assert row["value"] == pytest.approx(row["expected"], rel=0.25)
        if row["kind"] == "channels" and row["queries"] == max(QUERIES):
            assert row["value"] >= 0.7


def test_bayesian_optimisation_is_better_than_random_search_in_eight_seeds_of_ten() -> None:
    areas = {(row["sampler"], row["seed"]): row["area"] or float("inf") for row in rows_of("cross_layer_search")}
    assert len({row["evaluations"] for row in rows_of("cross_layer_search")}) == 1
    assert len(SEEDS) == 10
    assert sum(areas["tpe", seed] < areas["random", seed] for seed in SEEDS) >= 8
