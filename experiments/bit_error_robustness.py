"""Targets trained to tolerate bit errors: their errors on unseen chips, beside what Stutz et al. (MLSys 2021) publish.

``--tier cpu``: digits, a network of 25,466 parameters with group normalisation, and CIFAR-10 as JPEG files, in the folder
``data/cifar10-jpeg``, with a residual one of 78,042 that is trained for 5.7 epochs. ``--tier gpu``: SimpleNet with 5,498,378
parameters by the published recipe, without AutoAugment, on the 45,000 images that are not validation images.

Errors are in percent of held-out images, mean and sd over 50 chips (seeds 50,000 to 50,049) and ``seeds`` trainings; ``fit_sd``
is the sd of the means of the trainings. ``error`` is the error of the stored codes at nominal voltage; ``chips_are`` is `trained
on` for the one pattern of fixed-pattern training. ``published`` is the paper's mean for SimpleNet on MNIST (beside digits) or
CIFAR-10, where there is one; the paper counts an image as an error if it is one with or without bit errors, these rows only with.
``energy`` is that of an access at the voltage of ``rate``, relative to the lowest voltage without errors; ``slack`` is what
Proposition 1 allows on top of the mean, in points, at 99 %.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from matplotlib.axes import Axes
from rich.console import Group
from rich.table import Table

from backends.base import NOMINAL, Chip
from backends.datasets.loading import load
from backends.memory.energy import voltage
from bbfuse.compare.display.plots import BLUE, GREEN, PURPLE, RED, panels
from bbfuse.compare.display.tables import rows_where, table
from bbfuse.compare.measured import across, band, distinct
from bbfuse.compare.tasks import Row
from bbfuse.seeds import reporting_chips
from experiments.bit_errors import chips_needed, guarantee
from experiments.hardened_targets import TIERS, HardenedTarget, TargetGroup, error
from experiments.study import RESULTS, tiered

__all__ = ["main", "measured", "tolerated"]

COLOURS = {"normal": RED, "rquant": BLUE, "clip": GREEN, "randbet": PURPLE, "randbet, 10 %": "#ccb974"}
SLACK = 0.1
LOSS = 2.5


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return tiered("bit_error_robustness", _compute, _tables, arguments)


def _compute(tier: str) -> tuple[Any, list[Row]]:
    torch.set_num_threads(1)
    folder = Path("runs") / "bit_error_robustness"
    rows = [row for group in TIERS[tier] for row in measured(group, folder)]
    if tier == "cpu":
        _draw(rows)
    return json.loads(json.dumps([asdict(group) for group in TIERS[tier]])), rows


def measured(group: TargetGroup, folder: Path) -> list[Row]:
    """The rows of ``group``, target by target; those that are in ``folder`` are not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for target in group.cells:
        digest = hashlib.sha256(repr((replace(group, cells=()), target)).encode()).hexdigest()[:16]
        path = folder / f"{digest}.json"
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_text(json.dumps(_rows(group, target)))
            part.replace(path)
        rows += json.loads(path.read_text())
    return rows


def _rows(group: TargetGroup, target: HardenedTarget) -> list[Row]:
    data = load(group.data)
    test = data.test[: group.images]
    images, labels = test.images.to(group.device), test.labels.to(group.device)
    sets = {"unseen": reporting_chips(group.chips)} | ({} if target.pattern is None else {"trained on": [target.pattern]})
    clean: list[float] = []
    found: dict[tuple[float, str], list[list[float]]] = {(rate, which): [] for which in sets for rate in group.rates}
    for seed in group.seeds:
        simulator = target.simulator(group.target, data, replace(group.recipe, seed=seed), group.device)
        with torch.no_grad():
            clean.append(error(simulator.logits(images, NOMINAL), labels))
            for (rate, which), errors in found.items():
                errors.append([error(simulator.logits(images, Chip(rate, chip)), labels) for chip in sets[which]])
    return [_row(group, target, rate, which, clean, errors) for (rate, which), errors in found.items()]


def _row(
    group: TargetGroup, target: HardenedTarget, rate: float, which: str, clean: list[float], by_seed: list[list[float]]
) -> Row:  # fmt: skip
    volts, unseen = voltage(rate), which == "unseen"
    return {
        "data": group.shown, "target": f"{group.target}-{target.norm}", "hardening": target.name, "scheme": target.scheme,
        "bits": target.bits, "ranges": target.ranges, "clip": target.clip, "train_rate": target.randbet,
        "advbet": target.advbet, "label_smoothing": target.label_smoothing, "gradients": target.gradients, "chips_are": which,
        "rate": rate, "error": mean(clean), "robust_error_mean": mean(map(mean, by_seed)),
        "robust_error_sd": pstdev([error for errors in by_seed for error in errors]), "fit_sd": pstdev(map(mean, by_seed)),
        "published_error": target.published.get(0), "published": target.published.get(rate) if unseen else None,
        "energy": None if volts is None else volts**2,
        "slack": 100 * guarantee(group.images, group.chips) if unseen else None,
        "chips": len(by_seed[0]), "seeds": len(by_seed), "images": group.images,
    }  # fmt: skip


def tolerated(rows: Sequence[Row], loss: float) -> float:
    """The largest measured rate up to which the robust error of ``rows``, of one target, is at most ``loss`` points above its
    error; 0 if there is none."""
    rate = 0.0
    for row in sorted(rows, key=lambda row: row["rate"]):
        if row["robust_error_mean"] > row["error"] + loss:
            break
        rate = row["rate"]
    return rate


def _tables(rows: list[Row]) -> Group:
    needed = chips_needed(10_000, SLACK)
    return Group(
        *(_table(data, rows_where(rows, data=data)) for data in distinct(rows, "data")),
        f"mean ± sd of {rows[0]['chips']} chips. Proposition 1 bounds the true robust error only with more: for "
        f"{100 * SLACK:g} points at 99 %, {needed:,} chips on 10,000 images each.",
    )


def _table(data: str, rows: list[Row]) -> Table:
    def cell(row: Row) -> str:
        sd = f" ± {row['robust_error_sd']:.1f}" if row["chips"] > 1 else ""
        return f"{row['robust_error_mean']:.1f}{sd}{_published(row['published'])}"

    def within(group: list[Row]) -> str:
        volts = voltage(best := tolerated(group, LOSS))
        return f"{100 * best:g} %, {volts**2:.2f}" if volts is not None and best else ""

    shown = [row if row["chips_are"] == "unseen" else {**row, "hardening": f"{row['hardening']}, its own chip"} for row in rows]
    return table(shown, ["hardening"], {
        "nominal": lambda group: f"{group[0]['error']:.1f}{_published(group[0]['published_error'])}",
        **across(sorted(shown, key=lambda row: row["rate"]), "rate", cell, lambda rate: f"{100 * rate:g} %"),
        f"within {LOSS} points:\nrate, energy": within,
    }, title=f"{data}, {rows[0]['images']} images: error in % by bit error rate, published in brackets")  # fmt: skip


def _published(value: float | None) -> str:
    return "" if value is None else f" ({value:g})"


def _draw(rows: list[Row]) -> None:
    names = distinct(rows, "data")
    with panels(RESULTS / "bit_error_robustness.svg", 4.2 * (len(names) + 1), 3.8, len(names) + 1) as each:
        for axes, data in zip(each, names, strict=False):
            _lines(axes, rows, data, "rate", 100)
            axes.set(xscale="log", xlabel="bit error rate, %")
        _lines(each[-1], rows, names[0], "energy", 1)
        each[-1].invert_xaxis()
        each[-1].set_xlabel("energy of an access, relative")


def _lines(axes: Axes, rows: list[Row], data: str, key: str, scale: float) -> None:
    for name, colour in COLOURS.items():
        these = rows_where(rows, data=data, hardening=name, chips_are="unseen")
        y, sd = ([float(row[key]) for row in these] for key in ("robust_error_mean", "robust_error_sd"))
        band(axes, [scale * row[key] for row in these], y, sd, color=colour, label=name)
    axes.set_ylabel(f"{data}: robust error, %")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
