"""Protection across layers: area, energy and accuracy of the cheapest designs that are as accurate as full TMR.

After Zhang et al., arXiv 2312.13754, of which only the abstract is public; the policies, the cost model and all numbers are ours.
Bit errors: ``rate`` of the memory's bits, and a hundredth of it of the bits of each result of the processing elements. ``area``
and ``energy`` (an image) are relative to no protection at nominal voltage, energy at the voltage of ``rate``. Designs:
`unprotected`; `full TMR` (all bits of weights and results stored or computed three times); `bits only` (top bits of all weights
and results); `neurons only` (all bits of the weights of some channels, and channels computed again on a small unit);
`quantization only` (limits on weights, kept by fine-tuning, and on results); `cross-layer` (all of these); `cross-layer with
fuse` (and a fuse or head). Each is the smallest design found by Bayesian optimization, which starts from the best designs of
single layers. On validation images and chips it is within a point of full TMR and of the target without errors, and takes at most
a quarter more time; ``null`` where the family has no such design. Accuracies are those of ten reporting chips on test images.
`free voltage` rows have the least energy for a wished accuracy (``wished``), with voltage as a variable. The figure draws all
trials.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean, pstdev

from rich.console import Group
from rich.table import Table

from backends.memory.protection.cost import HARDWARE
from bbfuse.compare.display.plots import BLUE, GREEN, ORANGE, RED, panels
from bbfuse.compare.display.tables import rows_where, table
from bbfuse.compare.measured import across, distinct
from bbfuse.compare.tasks import Row
from experiments.cross_layer_designs import ARITHMETIC, CLIPS, DIGITS, FULL, UNPROTECTED, Design, DesignBench
from experiments.cross_layer_search import TIME, TOLERANCE, Requirements, Trial, best, requirements_of, search
from experiments.cross_layer_space import NOTHING, VOLTAGES, Values, completed, design_of
from experiments.study import RESULTS, Measurement

__all__ = ["RESULT", "Comparison", "draw", "front", "tables"]

FIRST: dict[str, list[Values]] = {
    "bits only": [
        {**NOTHING, "inner": k, "logic": logic, "code": code}
        for k, logic, code in ((8, 16, "tmr"), (1, 1, "tmr"), (2, 2, "tmr"), (3, 4, "tmr"))
    ],
    "neurons only": [{**NOTHING, "inner": 8, "important": 10, "recomputed": 10, "width": 64}],
    "quantization only": [{**NOTHING, "restricted": r, "clip": clip} for clip in range(len(CLIPS)) for r in (0, 1)],
}
CHIPS = 10
FREE = 40
"""Evaluations where the voltage is a variable."""
COLOURS = {
    "bits only": BLUE, "neurons only": ORANGE, "quantization only": "#937860", "cross-layer": GREEN, "cross-layer with fuse": RED,
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Searches for one target, by bit error rate and family of designs."""

    name: str
    bench: DesignBench
    rates: tuple[float, ...]
    evaluations: dict[str, int]
    """evaluations of the search of each family"""
    wished: tuple[float, ...] = ()
    """accuracies for which the least energy is searched for"""

    def result(self) -> Measurement:
        """The comparison as a committed result."""
        settings = {
            "arithmetic": ARITHMETIC, "clips": CLIPS, "tolerance": TOLERANCE, "time": TIME, "hardware": asdict(HARDWARE),
            "evaluations": self.evaluations, "free": FREE,
        }  # fmt: skip
        return Measurement(self.name, settings, self.rows, tables)

    def rows(self) -> list[Row]:
        """The rows of all designs at all rates and for all wished accuracies; draws the figure of all trials."""
        rows, known, tried = self.searched()
        rows += [_cheapest(self.bench, wished, known) for wished in self.wished]
        draw(tried, rows, f"{self.name}.svg")
        return rows

    def searched(self) -> tuple[list[Row], list[Values], dict[tuple[float, str], list[Trial]]]:
        """The rows of all designs at all rates, the values of the best designs, and all trials by rate and family."""
        rows: list[Row] = []
        known: list[Values] = []
        tried: dict[tuple[float, str], list[Trial]] = {}
        for rate in self.rates:
            required = requirements_of(self.bench, rate)
            found: dict[str, Trial | None] = {}
            for family, count in self.evaluations.items():
                first = FIRST.get(family) or _first(self.bench, found)
                trials = search(self.bench.target, family, self.bench, rate, required, count, "tpe", 0, first[:count])
                tried[rate, family], one = trials, best(trials)
                found[family] = one and replace(one, values=completed(family, one.values))
            designs = {"unprotected": UNPROTECTED, "full TMR": FULL}
            designs |= {name: design_of("", one.values) for name, one in found.items() if one}
            rows += [_row(self.bench, name, rate, designs.get(name)) for name in ("unprotected", "full TMR", *self.evaluations)]
            known += [one.values for one in found.values() if one]
        return rows, known, tried


def _first(bench: DesignBench, found: Mapping[str, Trial | None]) -> list[Values]:
    """The best designs of the families before, and the best cross-layer design with each fuse."""
    first: list[Values] = [one.values for one in found.values() if one]
    together = found.get("cross-layer")
    return first + [{**together.values, "fuse": fuse} for fuse in ("head", *bench.fuses) if together]


def _cheapest(bench: DesignBench, wished: float, known: Sequence[Values]) -> Row:
    """The least energy for a wished accuracy, with voltage as a variable; starts from no protection and the ``known`` designs."""
    clean = requirements_of(bench, 0.0).clean
    first = [{**NOTHING, "voltage": place} for place in range(len(VOLTAGES))]
    first += [{**values, "voltage": place} for values in known for place in (5, 6)]
    trials = search(bench.target, "free voltage", bench, wished, Requirements(wished, clean), FREE, "tpe", 0, first[: FREE // 2])
    found = best(trials)
    rate, design = (VOLTAGES[int(found.values["voltage"])], design_of("", found.values)) if found else (0.0, None)
    return {**_row(bench, "free voltage", rate, design), "wished": wished}


def _row(bench: DesignBench, name: str, rate: float, design: Design | None) -> Row:
    price = design and bench.price(design, rate)
    found = design and bench.reported(design, rate, CHIPS)
    return {
        "data": bench.data.split("/")[-1], "target": bench.target, "design": name, "rate": rate,
        **{key: price and getattr(price, key) for key in ("area", "energy", "time")},
        "accuracy_mean": found and mean(found), "accuracy_sd": found and pstdev(found), "chips": CHIPS,
        "images": bench.test_images, "settings": design and asdict(design), "wished": None,
    }  # fmt: skip


def tables(rows: list[Row]) -> Group:
    """One for each data set, and one of the designs with the least energy."""
    free = [{**row, "wished": f"{100 * row['wished']:g} %"} for row in rows if row["wished"] and row["settings"]]
    return Group(
        *(_table(data, rows_where(rows, data=data, wished=None)) for data in distinct(rows, "data")),
        *([_free(free)] if free else []),
        "Extra area and energy in % of no protection at nominal voltage, accuracy in %: mean ± sd of 10 chips that no choice "
        "depends on.\nEmpty: no design of the family was within a point of full TMR.",
    )


def _table(data: str, rows: list[Row]) -> Table:
    def cell(row: Row) -> str:
        return "" if row["area"] is None else f"{_area(row)}, {100 * row['energy']:.0f}, {_accuracy(row)}"

    def heading(rate: float) -> str:
        return f"{100 * rate:g} % bit errors\nextra area, energy, accuracy"

    return table(rows, ["design"], across(rows, "rate", cell, heading), title=data)


def _free(rows: list[Row]) -> Table:
    return table(rows, ["wished"], {
        "bit errors, %": lambda group: f"{100 * group[0]['rate']:g}",
        "energy, %": lambda group: f"{100 * group[0]['energy']:.0f}",
        "extra area, %": lambda group: _area(group[0]), "accuracy, %": lambda group: _accuracy(group[0]),
        "bits": lambda group: str(group[0]["settings"]["bits"]), "fuse": lambda group: group[0]["settings"]["fuse"],
    }, title="voltage as a variable")  # fmt: skip


def _area(row: Row) -> str:
    return f"{100 * (row['area'] - 1):+.0f}"


def _accuracy(row: Row) -> str:
    return f"{100 * row['accuracy_mean']:.1f} ± {100 * row['accuracy_sd']:.1f}"


def draw(tried: Mapping[tuple[float, str], list[Trial]], rows: list[Row], name: str) -> None:
    """The best validation accuracy of the trials up to an area, one panel for each rate."""
    rates = list(dict.fromkeys(rate for rate, _ in tried))
    with panels(RESULTS / name, 3.1 * len(rates) + 1.8, 3.4, len(rates)) as each:
        for axes, rate in zip(each, rates, strict=True):
            for family, colour in COLOURS.items():
                x, y = front(tried[rate, family])
                axes.step(x, y, where="post", color=colour, marker="o", markersize=2.5, lw=1.2, label=family)
                if found := best(tried[rate, family]):
                    axes.plot(100 * (found.cost - 1), 100 * found.accuracy, "*", color=colour, markersize=9)
            (full,) = rows_where(rows, rate=rate, design="full TMR")
            axes.axvline(100 * (full["area"] - 1), linestyle=":", color="#888888", lw=1.2, label="full TMR")
            axes.set_title(f"{100 * rate:g} % bit errors", fontsize=9)
            axes.set_xlabel("extra area, %")
        each[0].set_ylabel("validation accuracy, %")


def front(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """Extra area and accuracy, in %, of the designs such that no other design is both smaller and more accurate."""
    x: list[float] = []
    y: list[float] = []
    for trial in sorted(trials, key=lambda trial: (trial.cost, -trial.accuracy)):
        if not y or 100 * trial.accuracy > y[-1]:
            x.append(100 * (trial.cost - 1))
            y.append(100 * trial.accuracy)
    return x, y


EVALUATIONS = {"bits only": 50, "neurons only": 30, "quantization only": 10, "cross-layer": 80, "cross-layer with fuse": 80}
COMPARISON = Comparison("cross_layer", DIGITS, (0.01, 0.05, 0.1), EVALUATIONS, wished=(0.97, 0.95))
RESULT = COMPARISON.result()

if __name__ == "__main__":
    from experiments.cross_layer import RESULT

    sys.exit(RESULT.main(sys.argv[1:]))
