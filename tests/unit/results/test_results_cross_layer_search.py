"""The search for designs: its space, what makes a design feasible, what it costs, and the table of samplers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from backends.memory.protection.cost import Cost
from backends.memory.protection.policy import Protection
from experiments import cross_layer_search, cross_layer_space
from experiments.cross_layer_designs import DIGITS, FULL, Design
from experiments.cross_layer_search import Requirements, Trial, best, requirements_of, search
from experiments.cross_layer_space import FAMILIES, NOTHING, Values, design_of
from tests.helpers.studies.toys import cells, headers


def test_the_space_is_the_stated_one() -> None:
    assert cross_layer_space.RANGES == {
        "important": (0, 10), "inner": (0, 8), "outer": (0, 8), "logic": (0, 16), "recomputed": (0, 10), "width": (1, 64),
        "restricted": (0, 1), "clip": (0, 4), "bits": (4, 8), "voltage": (0, 7),
    }  # fmt: skip
    assert cross_layer_space.VOLTAGES == (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    layers = ("code", "important", "inner", "outer", "logic", "recomputed", "width", "restricted", "clip")
    assert {
        "bits only": ("code", "inner", "logic"), "neurons only": ("code", "important", "recomputed", "width"),
        "quantization only": ("restricted", "clip"), "cross-layer": layers, "cross-layer with fuse": (*layers, "fuse"),
        "free voltage": (*layers, "bits", "voltage", "fuse"),
    } == FAMILIES  # fmt: skip
    assert cross_layer_space.BUILT == ["tmr", "ecc8", "ecc16", "ecc32", "ecc64"]
    assert NOTHING == {
        "code": "tmr", "important": 10, "inner": 0, "outer": 0, "logic": 0, "recomputed": 0, "width": 8, "restricted": 0,
        "clip": 0, "bits": 8, "voltage": 0, "fuse": "none",
    }  # fmt: skip
    assert {**NOTHING, "inner": 8, "outer": 8, "logic": 16} == cross_layer_space.EVERYTHING
    assert cross_layer_search.SAMPLERS == ("tpe", "random")
    assert (*cross_layer_search.SEEDS,) == tuple(range(10))
    assert (cross_layer_search.EVALUATIONS, cross_layer_search.RATE) == (80, 0.05)
    assert (cross_layer_search.TIME, cross_layer_search.TOLERANCE, Requirements(0.3, 0.4).time) == (1.25, 0.01, 1.25)


GIVEN: Values = {
    "code": "ecc16", "important": 3, "inner": 2, "outer": 5, "logic": 11, "recomputed": 7, "width": 13, "restricted": 1,
    "clip": 3, "bits": 6, "voltage": 4, "fuse": "head",
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "inner", "outer"), [("cross-layer", 5, 5), ("bits only", 2, 2), ("neurons only", 8, 5), ("free voltage", 5, 5)]
)
def test_a_design_is_what_its_values_name(family: str, inner: int, outer: int) -> None:
    policy = Protection("ecc16", 0.3, inner, outer, 11, 0.7, 13, True)
    assert design_of(family, GIVEN) == Design(policy, 0.35, 6, "head")


def test_important_channels_keep_the_more_protected_bits_and_nothing_said_is_no_protection() -> None:
    policy = design_of("cross-layer", {"inner": 6, "outer": 4, "restricted": 0}).protection
    assert (policy.inner, policy.outer, policy.restricted, policy.important) == (6, 4, False, 1.0)
    assert design_of("cross-layer", {}) == Design(Protection("tmr", 1.0, 0, 0, 0, 0.0, 8, False), 1.0, 8, "none")


@dataclass(frozen=True)
class Bench:
    """Area, energy and accuracy by simple rules of their own."""

    fuses: dict[str, Any] = field(default_factory=lambda: {"MLP": None}, hash=False)
    asked: list[tuple[Design, float]] = field(default_factory=list, hash=False)

    def price(self, design: Design, rate: float) -> Cost:
        policy = design.protection
        return Cost(1 + policy.inner / 8, 3 - policy.logic / 16 - rate, 1 + policy.width / 64)

    def validated(self, design: Design, rate: float) -> float:
        self.asked.append((design, rate))
        return 0.5 + design.protection.inner / 16 - rate

    def clean(self, design: Design) -> float:
        return design.clip


def run(family: str, first: list[Values], limits: Requirements, bench: Bench | None = None, **more: Any) -> list[Trial]:
    return search(None, family, bench or Bench(), 0.0625, limits, len(first), first=first, **more)  # type: ignore[arg-type]


def test_a_design_exactly_on_every_limit_is_feasible_and_one_beyond_any_is_not() -> None:
    # accuracy 0.5 + 4/16 - 0.0625, clean 0.5, time 1 + 16/64
    on: Values = {**NOTHING, "inner": 4, "clip": 2, "width": 16}
    changes: list[Values] = [{}, {"inner": 3}, {"clip": 3}, {"width": 17}, {"inner": 5, "clip": 1, "width": 15}]
    found = run("cross-layer", [{**on, **change} for change in changes], Requirements(0.6875, 0.5, 1.25))
    assert [one.feasible for one in found] == [True, False, False, False, True]
    assert [one.accuracy for one in found] == [0.6875, 0.625, 0.6875, 0.6875, 0.75]
    assert [one.cost for one in found] == [1.5, 1.375, 1.5, 1.5, 1.625]
    names = FAMILIES["cross-layer"]
    assert [one.values for one in found] == [{name: {**on, **change}[name] for name in names} for change in changes]


def test_energy_is_made_small_at_the_chosen_voltage_where_it_is_free() -> None:
    first: list[Values] = [{**NOTHING, "voltage": place, "logic": 4, "fuse": fuse} for place, fuse in ((6, "MLP"), (2, "head"))]
    bench = Bench()
    found = run("free voltage", first, Requirements(0.4625, 0.9), bench)
    assert [one.cost for one in found] == pytest.approx([2.7, 2.748])
    assert [rate for _, rate in bench.asked] == [0.05, 0.002]
    assert [design.fuse for design, _ in bench.asked] == ["MLP", "head"]
    assert [one.feasible for one in found] == [False, True]  # accuracy 0.45 and 0.498


def test_known_accuracies_are_taken_and_new_ones_are_kept() -> None:
    first: list[Values] = [{**NOTHING, "inner": 2}, {**NOTHING, "inner": 3}, {**NOTHING, "inner": 3}]
    two, three = (design_of("bits only", {"inner": inner}) for inner in (2, 3))
    known, bench = {(two, 0.0625): 0.77}, Bench()
    found = run("bits only", first, Requirements(0.1, 0.1), bench, known=known)
    assert [one.accuracy for one in found] == [0.77, 0.625, 0.625]
    assert bench.asked == [(three, 0.0625)]
    assert known == {(two, 0.0625): 0.77, (three, 0.0625): 0.625}


@pytest.mark.parametrize(("sampler", "seed"), [("tpe", 3), ("random", 2)])
def test_every_trial_has_a_sampler_of_its_own_seed(sampler: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, dict[str, Any]]] = []
    for name in ("TPESampler", "RandomSampler"):
        real = getattr(optuna.samplers, name)
        monkeypatch.setattr(optuna.samplers, name, lambda real=real, **said: made.append((real.__name__, said)) or real(**said))
    search(None, "bits only", Bench(), 0.0625, Requirements(0.1, 0.1), 3, sampler, seed, [NOTHING])  # type: ignore[arg-type]
    kind, more = {"tpe": ("TPESampler", {"multivariate": True}), "random": ("RandomSampler", {})}[sampler]
    mine = [said for name, said in made if name == kind and "seed" in said and said["seed"] is not None]
    assert mine[-3:] == [{"seed": 10_000 * seed + done, **more} for done in range(3)]


def test_widths_are_drawn_by_their_logarithm_and_all_values_from_their_ranges() -> None:
    bench = Bench()
    found = search(None, "free voltage", bench, 0.0625, Requirements(0.1, 0.1), 60, "random")  # type: ignore[arg-type]
    assert len(found) == len(bench.asked) == 60
    widths = sorted(int(one.values["width"]) for one in found)
    assert sum(width <= 8 for width in widths) > 20  # half of 60; drawn evenly it would be 7
    for name, (low, high) in cross_layer_search.RANGES.items():
        values = {int(one.values[name]) for one in found}
        assert low <= min(values) < max(values) <= high
    assert {one.values["fuse"] for one in found} == {"none", "head", "MLP"}
    assert {one.values["code"] for one in found} == {"tmr", "ecc8", "ecc16", "ecc32", "ecc64"}


def test_a_named_study_lies_in_a_journal_whose_lock_is_broken_after_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_layer_search, "FOLDER", tmp_path / "a" / "b")
    locks: list[Any] = []
    real = optuna.storages.journal.JournalFileOpenLock
    monkeypatch.setattr(
        optuna.storages.journal, "JournalFileOpenLock",
        lambda path, grace_period: locks.append((path, grace_period)) or real(path, grace_period=grace_period),
    )  # fmt: skip
    for more in (1, 2):  # the second time the folder is there, and one trial is done
        bench = Bench()
        search("x", "bits only", bench, 0.0625, Requirements(0.1, 0.1), more, first=[NOTHING])  # type: ignore[arg-type]
        assert len(bench.asked) == 1
    path = tmp_path / "a" / "b" / "x.log"
    assert path.exists()
    assert locks == [(str(path.resolve()), 5)] * 2
    assert search("x", "bits only", Bench(), 0.0625, Requirements(0.1, 0.1), 1)[0].values["inner"] == 0  # type: ignore[arg-type]


def test_the_best_is_the_cheapest_feasible_one_and_of_two_the_more_accurate() -> None:
    found = [Trial({}, 1.1, 0.9, False), Trial({}, 1.5, 0.7, True), Trial({}, 1.5, 0.8, True), Trial({}, 1.7, 0.99, True)]
    assert best(found) is found[2]
    assert best(found[::-1]) is found[2]
    assert best(found[:1]) is None


def test_limits_are_a_point_below_full_protection_and_below_the_target() -> None:
    limits = requirements_of(Bench(), 0.0625)  # type: ignore[arg-type]
    assert limits.accuracy == pytest.approx(0.5 + 8 / 16 - 0.0625 - 0.01)
    assert (limits.clean, limits.time) == (pytest.approx(0.99), 1.25)
    assert FULL.protection == Protection("tmr", inner=8, outer=8, logic=16)


def test_both_samplers_search_from_the_same_start_with_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    asked: list[tuple[Any, ...]] = []

    def searched(*given: Any) -> list[Trial]:
        asked.append(given)
        seed = given[7]
        return [Trial({}, 2.0 + seed, 0.5, seed != 1), Trial({}, 1.5 + seed, 0.5, seed > 1), Trial({}, 1.0, 0.5, False)]

    monkeypatch.setattr(cross_layer_search, "search", searched)
    monkeypatch.setattr(cross_layer_search, "requirements_of", lambda bench, rate: Requirements(rate, bench.validation_chips))
    monkeypatch.setattr(cross_layer_search, "SEEDS", range(3))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    cross_layer_search._setting.cache_clear()
    settings, rows = cross_layer_search.RESULT.compute()
    cross_layer_search._setting.cache_clear()
    assert threads == [1]
    order = [(seed, sampler) for seed in range(3) for sampler in ("tpe", "random")]
    found = {0: (1, 2.0), 1: (0, None), 2: (2, 3.5)}
    assert rows == [
        {"data": "digits", "rate": 0.05, "sampler": sampler, "seed": seed, "evaluations": 80, "feasible": found[seed][0],
         "area": found[seed][1]}
        for seed, sampler in order
    ]  # fmt: skip
    for given, (seed, sampler) in zip(asked, order, strict=True):
        name, family, bench, rate, limits, count, by, number, first, known = given
        assert (name, family, rate, count, by, number) == (None, "cross-layer", 0.05, 80, sampler, seed)
        assert (bench.target, bench.validation_images, bench.validation_chips) == (DIGITS.target, 150, 3)
        assert (limits, known) == (Requirements(0.05, 3), {})
        assert known is asked[0][9]
        assert first == [{**NOTHING, "inner": 8, "outer": 8, "logic": 16}]
    assert settings["limits"] == {"accuracy": 0.05, "clean": 3, "time": 1.25}
    assert (settings["evaluations"], settings["arithmetic"], settings["codes"]) == (80, 0.01, cross_layer_space.BUILT)


def test_the_table_counts_what_was_not_found_and_what_is_better_than_random() -> None:
    areas = {"tpe": (1.2, 1.3, None, None, 1.9), "random": (1.5, 1.3, 1.4, None, None)}
    rows = [
        {"sampler": sampler, "seed": seed, "area": area, "feasible": 3 + 2 * seed * (sampler == "tpe")}
        for sampler, found in areas.items() for seed, area in enumerate(found)
    ]  # fmt: skip
    table = cross_layer_search._table(rows)
    assert headers(table)[1:4] == ["mean area", "smallest", "largest"]
    assert cells(table) == [
        ["tpe", "1.467", "1.200", "1.900", "2", "2 of 5", "7.0 of 80"],
        ["random", "1.400", "1.300", "1.500", "2", "0 of 5", "3.0 of 80"],
    ]
