"""Every table of the pages that has numbers is made anew from the committed results: targets, protection and families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pages import HEADERS, PAGES, one, rounded, rows, table, tables, with_sd

SHOWN = {
    "`normal`": "normal", "`rquant`": "rquant", "`rquant`, clipped at 0.1": "clip", "clipped at 0.1": "clip",
    "clipped, RandBET at 1 %": "randbet", "clipped, RandBET at 10 %": "randbet, 10 %", "clipped, label smoothing":
    "clip, label smoothing", "clipped, batch norm": "clip, batch norm", "`rquant`, batch norm": "rquant, batch norm",
    "`normal`, one range for all": "normal, one range", "`rquant`, one chip at 5 % for all steps": "fixed pattern",
    "one chip at 1 % for all steps": "fixed pattern", "clipped, 4 bits": "clip, 4 bits", "clipped, 2 bits": "clip, 2 bits",
    "clipped, AdvBET with 20 flips": "clip, advbet", "`rquant`, AdvBET with 20 flips": "advbet", "clipped": "clip",
}  # fmt: skip


@pytest.mark.parametrize(
    ("which", "data", "rates", "four_bits"),
    [
        ("digits that resist", "digits", (0.01, 0.05, 0.1), "randbet, 10 %, 4 bits"),
        ("CIFAR-10 that resists", "CIFAR-10 (JPEG)", (0.005, 0.01, 0.025), "randbet, 4 bits"),
    ],
)
def test_targets_that_resist(which: str, data: str, rates: tuple[float, ...], four_bits: str) -> None:
    for name, *cells in table(which):
        hardening = four_bits if name == "the same, 4 bits" else SHOWN[name]
        made = [one("bit_error_robustness", data=data, hardening=hardening, rate=rate, chips_are="unseen") for rate in rates]
        without = made[0]["published_error"]
        expected = [f"{made[0]['error']:.1f}" + ("" if without is None else f" ({rounded(without)})")]
        for row in made:
            published = "" if row["published"] is None else f" ({rounded(row['published'])})"
            expected.append(with_sd(row["robust_error_mean"], row["robust_error_sd"]) + published)
        assert [name, *cells] == [name, *expected]


def test_chosen_bit_errors() -> None:
    found = table("chosen errors")
    columns = [*(("projected", flips) for flips in (10, 20, 40, 80, 320)), ("progressive", 20), ("halved", 80)]
    for name, *cells in found:
        made = [one("bit_attacks", hardening=SHOWN[name], attack=attack, flips=flips) for attack, flips in columns]
        assert [name, *cells] == [name, *(f"{row['robust_error']:.1f}" for row in made)]
    assert len(found) == 6


def test_a_fuse_on_hardened_targets() -> None:
    found = table("hardened fuse")
    for name, *cells in found:
        made = [one("hardened_fuse", hardening=SHOWN[name], rate=rate) for rate in (0.05, 0.1)]
        expected = [f"{made[0]['clean']:.1f}"]
        for row in made:
            expected += [
                with_sd(row["bare_mean"], row["bare_sd"]), f"{row['head_mean']:.1f}", with_sd(row["fused_mean"], row["fused_sd"]),
            ]  # fmt: skip
        assert [name, *cells] == [name, *expected]
    assert len(found) == 4


def designed(row: dict[str, Any]) -> str:
    """Extra area and energy of a design in per cent, and its accuracy."""
    if row["area"] is None:
        return "none"
    extra = f"{100 * (row['area'] - 1):.0f}, {100 * row['energy']:.0f}"
    return f"{extra}, {with_sd(row['accuracy_mean'], row['accuracy_sd'], 100)}"


def test_across_the_layers() -> None:
    found = table("layers")
    names = {"no protection": "unprotected", "cross-layer with fuse or head": "cross-layer with fuse"}
    for name, *cells in found:
        made = [one("cross_layer", design=names.get(name, name), rate=rate, wished=None) for rate in (0.01, 0.05, 0.1)]
        assert [name, *cells] == [name, *map(designed, made)]
    assert len(found) == 7


def test_families_of_targets() -> None:
    found = table("families")
    for name, *cells in found:
        family, _, variant = name.partition(": ")
        expected = []
        for rate in (0.0, 0.001, 0.003, 0.01, 0.033, 0.1):
            row = one("families", family=family, variant=variant, errors="random", rate=rate)
            fused = "" if row["fused_mean"] is None else f" → {100 * row['fused_mean']:.1f}"
            expected.append(f"{100 * row['perturbed_mean']:.1f}{fused}")
        assert [name, *cells] == [name, *expected]
    variants = {(row["family"], row["variant"]) for row in rows("families")}
    assert {tuple(name.split(": ", 1)) for name, *_ in found} == variants


def test_every_table_of_numbers_is_made_anew() -> None:
    """Tables of words alone have their own tests."""
    words = {"`--optimizer` | access | what it does", "`--head` | "}
    assert sorted(header for page in PAGES for header in tables(page)) == sorted({*HEADERS.values(), *words})
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_documented_t*.py"))
    for name in HEADERS:
        assert f'"{name}"' in tests
