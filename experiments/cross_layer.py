"""Protection across layers: area, energy and accuracy of the cheapest designs that are as accurate as everything threefold.

After Zhang et al., arXiv 2312.13754, of which only the abstract is public; the policies, the cost model and all numbers are ours.
Errors: ``rate`` of the memory's bits, and a hundredth of it of the bits of each result of the processing elements. ``area`` and
``energy`` (an image) are relative to no protection at nominal voltage, energy at the voltage of ``rate``. Designs: `unprotected`;
`full TMR` (all bits of weights and results threefold); `bits only` (top bits of all weights and results); `neurons only` (all
bits of some channels' weights, and channels computed again on a small unit); `quantization only` (limits on weights, kept by
fine-tuning, and on results); `cross-layer` (all of these); `cross-layer with fuse` (and a fuse or head). Each is the smallest
found by Bayesian optimisation, begun with the best designs of single layers, that on validation images and chips is within a
point of full TMR and of the target without errors, and takes at most a quarter more time; ``null`` where no design of the family
was. Accuracies are those of ten reporting chips on test images. `free voltage` rows have the least energy, voltage among what is
chosen, for a wished accuracy (``wished``). The figure draws the designs that were tried.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean, pstdev
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from backends.memory.protection.cost import HARDWARE
from bbfuse.config.schema import ReportConfig, RunConfig
from bbfuse.runs.figures import legend_beside, svg, without_frame
from experiments.cross_layer_designs import ARITHMETIC, CLIPS, FULL, UNPROTECTED, Bench, Design
from experiments.cross_layer_search import (
    NOTHING,
    TIME,
    TOLERANCE,
    VOLTAGES,
    Found,
    Limits,
    Values,
    best,
    design_of,
    limits_of,
    search,
)  # fmt: skip
from experiments.study import RESULTS, command

__all__ = ["DIGITS", "draw", "front", "main", "measured", "settings", "tables"]

DIGITS = Bench(
    "digits", "digits",
    {
        name: RunConfig(optimizer="follow", generator=name, bit_error_rate=0.05, head="standardize", report=ReportConfig(chips=2))
        for name in ("Filters", "MLP", "UNetXS")
    },
    validation_images=287, validation_chips=5, test_images=360, steps=300,
)  # fmt: skip
RATES = (0.01, 0.05, 0.1)
EVALUATIONS = {"bits only": 50, "neurons only": 30, "quantization only": 10, "cross-layer": 80, "cross-layer with fuse": 80}
FIRST: dict[str, list[Values]] = {
    "bits only": [
        {**NOTHING, "inner": k, "logic": logic, "code": code}
        for k, logic, code in ((8, 16, "tmr"), (1, 1, "tmr"), (2, 2, "tmr"), (3, 4, "tmr"))
    ],
    "neurons only": [{**NOTHING, "inner": 8, "important": 10, "recomputed": 10, "width": 64}],
    "quantization only": [{**NOTHING, "restricted": r, "clip": clip} for clip in range(len(CLIPS)) for r in (0, 1)],
}
CHIPS = 10
WISHED = (0.97, 0.95)
FREE = 40
"""Evaluations where the voltage is free."""
COLOURS = {
    "bits only": "#4c72b0", "neurons only": "#dd8452", "quantization only": "#937860", "cross-layer": "#55a868",
    "cross-layer with fuse": "#c44e52",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("cross_layer", _compute, tables, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    rows, known, tried = measured(DIGITS, RATES, EVALUATIONS)
    rows += [_cheapest(DIGITS, wished, known) for wished in WISHED]
    draw(tried, rows, "cross_layer.svg")
    return settings(EVALUATIONS), rows


def settings(evaluations: Mapping[str, int]) -> dict[str, Any]:
    """What the rows were computed from."""
    return {
        "arithmetic": ARITHMETIC, "clips": CLIPS, "tolerance": TOLERANCE, "time": TIME, "hardware": asdict(HARDWARE),
        "evaluations": dict(evaluations), "free": FREE,
    }  # fmt: skip


def measured(
    bench: Bench, rates: Sequence[float], evaluations: Mapping[str, int]
) -> tuple[list[dict[str, Any]], list[Values], dict[tuple[float, str], list[Found]]]:
    """The rows of all designs at all rates, the values of the best ones, and what was tried."""
    rows: list[dict[str, Any]] = []
    known: list[Values] = []
    tried: dict[tuple[float, str], list[Found]] = {}
    for rate in rates:
        limits = limits_of(bench, rate)
        found: dict[str, Found | None] = {}
        for family, count in evaluations.items():
            first = FIRST.get(family) or _first(bench, found)
            tried[rate, family] = search(bench.target, family, bench, rate, limits, count, "tpe", 0, first[:count])
            found[family] = _full(family, best(tried[rate, family]))
        designs = {"unprotected": UNPROTECTED, "full TMR": FULL}
        designs |= {name: design_of("", one.values) for name, one in found.items() if one}
        rows += [_row(bench, name, rate, designs.get(name)) for name in ("unprotected", "full TMR", *evaluations)]
        known += [one.values for one in found.values() if one]
    return rows, known, tried


def _first(bench: Bench, found: Mapping[str, Found | None]) -> list[Values]:
    """The best designs of the layers before, and the best of all layers together with each fuse."""
    first: list[Values] = [one.values for one in found.values() if one]
    together = found.get("cross-layer")
    return first + [{**together.values, "fuse": fuse} for fuse in ("head", *bench.fuses) if together]


def _cheapest(bench: Bench, wished: float, known: Sequence[Values]) -> dict[str, Any]:
    """The least energy for a wished accuracy, over voltages as well; begun with what is known at any, and no protection."""
    clean = limits_of(bench, 0.0).clean
    first = [{**NOTHING, "voltage": place} for place in range(len(VOLTAGES))]
    first += [{**values, "voltage": place} for values in known for place in (5, 6)]
    tried = search(bench.target, "free voltage", bench, wished, Limits(wished, clean), FREE, "tpe", 0, first[: FREE // 2])
    found = best(tried)
    rate = VOLTAGES[int(found.values["voltage"])] if found else 0.0
    design = design_of("", found.values) if found else None
    return {**_row(bench, "free voltage", rate, design), "wished": wished}


def _full(family: str, found: Found | None) -> Found | None:
    """The same with every value there, so that it means the same in every family."""
    if found is None:
        return None
    values = {**NOTHING, **found.values}
    if family == "bits only":
        values["outer"] = values["inner"]
    if family == "neurons only":
        values["inner"] = 8
    return Found(values, found.cost, found.accuracy, found.feasible)


def _row(bench: Bench, name: str, rate: float, design: Design | None) -> dict[str, Any]:
    row: dict[str, Any] = {"data": bench.data.split("/")[-1], "target": bench.target, "design": name, "rate": rate}
    if design is None:
        return {**row, "area": None, "energy": None, "time": None, "accuracy_mean": None, "accuracy_sd": None, "chips": CHIPS,
                "images": bench.test_images, "settings": None, "wished": None}  # fmt: skip
    price, found = bench.price(design, rate), bench.reported(design, rate, CHIPS)
    return {
        **row, "area": price.area, "energy": price.energy, "time": price.time, "accuracy_mean": mean(found),
        "accuracy_sd": pstdev(found), "chips": CHIPS, "images": bench.test_images, "settings": asdict(design), "wished": None,
    }  # fmt: skip


def tables(rows: list[dict[str, Any]]) -> Group:
    """For each data set, and where the voltage is free."""
    shown: list[Table | str] = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data and row["wished"] is None]
        rates = list(dict.fromkeys(row["rate"] for row in mine))
        table = Table("design", *(f"{100 * rate:g} % wrong\nextra area, energy, accuracy" for rate in rates), title=data)
        for name in dict.fromkeys(row["design"] for row in mine):
            cells = {row["rate"]: row for row in mine if row["design"] == name}
            table.add_row(name, *(_cell(cells[rate]) for rate in rates))
        shown.append(table)
    free = Table(
        "accuracy wished, %", "wrong bits, %", "energy, %", "extra area, %", "accuracy", "bits", "fuse", title="free voltage"
    )
    for row in rows:
        if row["wished"] is not None and row["settings"] is not None:
            free.add_row(
                f"{100 * row['wished']:g}", f"{100 * row['rate']:g}", f"{100 * row['energy']:.0f}",
                f"{100 * (row['area'] - 1):+.0f}",
                f"{100 * row['accuracy_mean']:.1f} ± {100 * row['accuracy_sd']:.1f}", str(row["settings"]["bits"]),
                row["settings"]["fuse"],
            )  # fmt: skip
    return Group(
        *shown,
        *([free] if free.row_count else []),
        "Extra area and energy in % of no protection at nominal voltage, accuracy in %: mean ± sd of 10 chips never chosen on. "
        "Empty: no design\nof the family was as accurate as full TMR to within a point.",
    )


def _cell(row: dict[str, Any]) -> str:
    if row["area"] is None:
        return ""
    accuracy = f"{100 * row['accuracy_mean']:.1f} ± {100 * row['accuracy_sd']:.1f}"
    return f"{100 * (row['area'] - 1):+.0f}, {100 * row['energy']:.0f}, {accuracy}"


def draw(tried: Mapping[tuple[float, str], list[Found]], rows: list[dict[str, Any]], name: str) -> None:
    """What was tried on validation: the best accuracy of designs no larger than that, one panel for each rate."""
    rates = list(dict.fromkeys(rate for rate, _ in tried))
    figure = Figure(figsize=(3.1 * len(rates) + 1.8, 3.4), layout="constrained")
    for axes, rate in zip(figure.subplots(1, len(rates), squeeze=False)[0], rates, strict=True):
        _panel(axes, {family: tried[rate, family] for family in COLOURS})
        full = next(row for row in rows if (row["rate"], row["design"]) == (rate, "full TMR"))
        axes.axvline(100 * (full["area"] - 1), linestyle=":", color="#888888", lw=1.2, label="full TMR")
        axes.set_title(f"{100 * rate:g} % wrong bits", fontsize=9)
        axes.set_xlabel("extra area, %")
    figure.axes[0].set_ylabel("validation accuracy, %")
    legend_beside(figure.axes[-1])
    (RESULTS / name).write_text(svg(figure))


def _panel(axes: Axes, families: dict[str, list[Found]]) -> None:
    for family, tried in families.items():
        x, y = front(tried)
        axes.step(x, y, where="post", color=COLOURS[family], marker="o", markersize=2.5, lw=1.2, label=family)
        feasible = best(tried)
        if feasible:
            axes.plot(100 * (feasible.cost - 1), 100 * feasible.accuracy, "*", color=COLOURS[family], markersize=9)
    without_frame(axes)


def front(tried: Sequence[Found]) -> tuple[list[float], list[float]]:
    """Extra area and accuracy, in %, of the designs that no other one is both smaller and more accurate than."""
    x: list[float] = []
    y: list[float] = []
    for found in sorted(tried, key=lambda found: (found.cost, -found.accuracy)):
        if not y or 100 * found.accuracy > y[-1]:
            x.append(100 * (found.cost - 1))
            y.append(100 * found.accuracy)
    return x, y


if __name__ == "__main__":
    from experiments.cross_layer import main

    sys.exit(main(sys.argv[1:]))
