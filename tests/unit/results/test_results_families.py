"""Which published directions hold for toy rows, on and beside every threshold, and what is printed and drawn of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import families
from experiments.families_judged import compared, judged
from tests.helpers.studies.toys import cells, headers, kept_figures, lines


def row(family: str, variant: str, rate: float, clean: float = 0.9, perturbed: float = 0.8, **more: Any) -> dict[str, Any]:
    return {
        "family": family, "variant": variant, "errors": "random", "rate": rate, "clean": clean, "perturbed_mean": perturbed,
        "by_fit": [0.5, 0.6, 0.7], "by_chip": [0.5, 0.6, 0.7], "flip_error": 2.0, "basis_power": None,
    } | more  # fmt: skip


def holds(*rows: dict[str, Any]) -> list[bool | None]:
    found = judged(rows)
    assert [{key: one[key] for key in two} for one, two in zip(found, rows, strict=True)] == list(rows)
    return [one["direction_holds"] for one in found]


def said(*rows: dict[str, Any]) -> list[bool]:
    return [one["direction_published"] is not None for one in judged(rows)]


@pytest.mark.parametrize(
    ("apart", "verdict"),
    # Student's 97.5 % quantiles for 1 and 2 degrees of freedom are 12.706 and 4.303
    [
        ([1.0, 1.1], True), ([1.0, 1.2], False), ([-1.0, -1.1], True), ([-1.0, -1.2], False),
        ([3.0, 4.0, 5.0], True), ([2.0, 3.0, 4.0], True), ([1.4, 2.4, 3.4], False), ([-1.5, -2.5, -3.5], True),
        ([-1.4, -2.4, -3.4], False), ([0.0, 0.0], False),
    ],
)  # fmt: skip
def test_a_difference_counts_outside_of_the_95_per_cent_interval_of_its_mean(apart: list[float], verdict: bool) -> None:
    """Half of the interval is 12.706 sd / sqrt(2): 0.635 and 1.27; for three it is 4.303 / sqrt(3) = 2.484."""
    worse = [0.25 * place for place in range(len(apart))]
    better = [second + difference for second, difference in zip(worse, apart, strict=True)]
    assert compared(better, worse) is ((sum(apart) > 0) if verdict else None)


def test_only_pairs_are_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compared([1.0, 2.0, 3.0], [1.0, 2.0])


HIGH, LOW, SAME = [0.8, 0.81, 0.82], [0.5, 0.51, 0.53], [0.8, 0.1, 0.9]


@pytest.mark.parametrize(("first", "second", "verdict"), [(HIGH, LOW, True), (LOW, HIGH, False), (HIGH, SAME, None)])
def test_sharp_fitting_is_compared_with_twice_the_steps_and_sparse_with_standard_activations(
    first: list[float], second: list[float], verdict: bool | None
) -> None:
    control, sharp = ("sparse, twice the steps", second), ("sparse, SAQ", first)
    each = (control, sharp, ("standard", first), ("sparse", second))
    flat = [row("FlatENN", variant, 0.033, by_fit=fits) for variant, fits in each]
    assert holds(*flat) == [None, verdict, None, verdict]
    assert said(*flat) == [False, True, False, True]
    assert said(*({**one, "rate": 0.0} for one in flat)) == [False] * 4


def test_a_row_is_compared_with_that_of_the_same_rate_and_kind_of_errors() -> None:
    rows = [
        row("FlatENN", "sparse", 0.033, by_fit=LOW, errors="stuck-at-0"), row("FlatENN", "standard", 0.033, by_fit=LOW),
        row("FlatENN", "standard", 0.1, by_fit=LOW, errors="stuck-at-0"), row("SoftSNN", "standard", 0.0),
        row("FlatENN", "standard", 0.033, by_fit=HIGH, errors="stuck-at-0"),
    ]  # fmt: skip
    assert holds(*rows)[0] is True


@pytest.mark.parametrize(
    ("bare", "lost", "verdict"), [(0.6, 0.04, True), (0.6, 0.0401, False), (0.3, 0.0, True), (0.61, 0.0, None), (0.61, 0.5, None)]
)
def test_a_bounded_spiking_target_loses_four_points_at_most_where_the_bare_one_has_60_per_cent_left(
    bare: float, lost: float, verdict: bool | None
) -> None:
    rows = [row("SoftSNN", "unprotected", 0.01, 1.0, bare), row("SoftSNN", "bound", 0.01, lost, 0.0)]
    assert holds(*rows) == [None, verdict]
    assert said(*rows) == [False, verdict is not None]
    assert said(*({**one, "rate": 0.0} for one in rows)) == [False, False]


@pytest.mark.parametrize(("power", "verdict"), [(0.15, True), (0.3, True), (0.149, False), (0.301, False), (0.2, True)])
def test_a_basis_carries_15_to_30_per_cent_of_the_error_power(power: float, verdict: bool) -> None:
    rows = [row("SmartExchange", "all stored", 0.01, basis_power=power), row("SmartExchange", "safe basis", 0.01)]
    assert holds(*rows) == [verdict, None]
    assert said(*rows) == [True, False]


@pytest.mark.parametrize(("own", "verdict"), [(2.0, False), (2.1, True), (1.9, False)])
def test_a_wrong_bit_of_an_exponent_is_larger_than_one_of_eight_bits(own: float, verdict: bool) -> None:
    rows = [row("ShiftAddNet", "shift codes", 0.0, flip_error=own), row("ShiftAddNet", "8-bit codes", 0.0, flip_error=2.0)]
    assert holds(*rows) == [verdict, None]


@pytest.mark.parametrize(("own", "fixed", "verdict"), [(LOW, HIGH, True), (HIGH, LOW, False), (HIGH, SAME, None)])
def test_exponent_codes_suffer_more_chip_by_chip(own: list[float], fixed: list[float], verdict: bool | None) -> None:
    rows = [row("ShiftAddNet", "shift codes", 0.01, by_chip=own), row("ShiftAddNet", "8-bit codes", 0.01, by_chip=fixed)]
    assert holds(*rows) == [verdict, None]
    assert said(*rows) == [True, False]


@pytest.mark.parametrize(("own", "bare", "verdict"), [(HIGH, LOW, True), (LOW, HIGH, False), (HIGH, SAME, None)])
def test_a_non_linearity_is_judged_without_errors(own: list[float], bare: list[float], verdict: bool | None) -> None:
    rows = [row("FTBNN", "none", 0.0, by_fit=bare), row("FTBNN", "prelu", 0.0, by_fit=own)]
    assert holds(*rows) == [None, verdict]
    assert said(*({**one, "rate": 0.01} for one in rows)) == [False, False]


@pytest.mark.parametrize(
    ("rate", "lost", "verdict"), [(1e-4, 0.01, True), (1e-3, 0.01, True), (1e-3, 0.0101, False), (1e-3, 0.0, True)]
)
def test_a_plain_binary_target_holds_to_a_point_at_low_rates(rate: float, lost: float, verdict: bool) -> None:
    assert holds(row("RRAM binary", "plain", rate, lost, 0.0)) == [verdict]


@pytest.mark.parametrize("rate", [0.0, 3e-3, 0.033])
def test_nothing_is_said_of_a_plain_binary_target_at_others(rate: float) -> None:
    assert said(row("RRAM binary", "plain", rate, 0.01, 0.0)) == [False]


@pytest.mark.parametrize(
    ("own", "lost", "verdict"),
    [(HIGH, 0.03, True), (HIGH, 0.0301, False), (LOW, 0.03, False), (LOW, 0.5, False), (SAME, 0.03, None), (SAME, 0.5, None)],
)
def test_a_hardened_binary_target_is_above_the_plain_one_and_loses_three_points_at_most(
    own: list[float], lost: float, verdict: bool | None
) -> None:
    plain = [0.65, 0.66, 0.67]
    rows = [row("RRAM binary", "plain", 0.033, by_fit=plain), row("RRAM binary", "flip", 0.033, lost, 0.0, by_fit=own)]
    assert holds(*rows) == [None, verdict]
    assert said(*rows) == [False, True]
    assert said(*({**one, "rate": 0.1} for one in rows)) == [False, False]


def shown(family: str, variant: str, rate: float, mean: float, fused: float | None, **more: Any) -> dict[str, Any]:
    own = {"perturbed_sd": 0.0215, "fits": 1, "fused_mean": fused, "direction_published": None, "direction_holds": None}
    return row(family, variant, rate, perturbed=mean) | own | more


SHOWN = [
    shown("FTBNN", "none", 0.0, 0.95, None), shown("FTBNN", "prelu", 0.0, 0.94, None, fits=2),
    shown("FTBNN", "none", 0.033, 0.31, 0.825, direction_published="x", direction_holds=True),
    shown("FTBNN", "none", 0.1, 0.125, None, direction_published="y", direction_holds=False),
    shown("FTBNN", "none", 0.1, 0.5, None, errors="stuck-at-0", direction_published="z"),
    shown("SoftSNN", "unprotected", 0.01, 0.625, 0.75),
]  # fmt: skip


def test_the_table_shows_per_cent_and_verdicts() -> None:
    table = families._table(SHOWN)
    assert headers(table) == ["family", "variant", "errors", "rate", "accuracy", "with fuse", "published", "holds"]
    assert [line[1:] for line in cells(table)] == [
        ["none", "random", "0", "95.0", "", "", ""], ["prelu", "random", "0", "94.0 ± 2.1", "", "", ""],
        ["none", "random", "0.033", "31.0 ± 2.1", "82.5", "x", "yes"], ["none", "random", "0.1", "12.5 ± 2.1", "", "y", "no"],
        ["none", "stuck-at-0", "0.1", "50.0 ± 2.1", "", "z", "not significant"],
        ["unprotected", "random", "0.01", "62.5 ± 2.1", "75.0", "", ""],
    ]  # fmt: skip


def test_the_figure_has_a_panel_for_each_family_with_stars_where_a_fuse_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = kept_figures(families, monkeypatch, tmp_path)
    families._draw(SHOWN)
    panels = {axes.get_title(): axes for axes in figures["families.svg"].axes}
    assert list(panels) == ["FlatENN", "SoftSNN", "SmartExchange", "ShiftAddNet", "FTBNN", "RRAM binary"]
    places = [axes.get_subplotspec() for axes in panels.values()]
    grid = [(place.rowspan.start, place.colspan.start) for place in places if place]
    assert grid == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    found = lines(panels["FTBNN"])
    assert found == [([0.033, 0.1], [31.0, 12.5]), ([0.033], [82.5]), ([], []), ([], [])]
    assert lines(panels["SoftSNN"])[:2] == [([0.01], [62.5]), ([0.01], [75.0])]
    assert [len(axes.lines) for axes in panels.values()] == [12, 8, 4, 4, 4, 6]
    named = [line.get_label() for line in panels["FTBNN"].lines[::2]]
    assert named == ["none", "prelu"]
    assert [line.get_marker() for line in panels["FTBNN"].lines[:2]] == ["o", "*"]
    first, last = panels["FlatENN"], panels["FTBNN"]  # one is empty, the other is not
    assert first.get_xscale() == last.get_xscale() == "log"
    assert first.get_xlim() == last.get_xlim()
    assert first.get_ylim() == last.get_ylim()
