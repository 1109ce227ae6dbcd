"""A fuse before hardened targets: what it still recovers, and the lowest voltage with and without it.

Digits targets of `experiments.hardened_targets`, on single chips by the default method with 20,000 images sent, head and fuse.
Accuracies are in percent of held-out images, mean and sd over chips; ``head`` is the head alone (1,150 responses), ``fused`` head
and fuse, ``fuse_adds`` the points between the two. ``energy`` is that of the target's weight reads and the fuse's, relative to
the target's at the lowest voltage without errors: ``energy_bare`` without a fuse, ``energy_fused`` with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from rich.console import Group

from backends.datasets.loading import load
from backends.memory.config import Memory
from backends.targets.fit import fit_to
from backends.training.recipe import RECIPE
from bbfuse.compare.display.tables import Column, grouped, lines, rows_where, table
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row, Task
from bbfuse.config.schema import RunConfig
from experiments.hardened_targets import DIGITS
from experiments.study import Study

__all__ = ["CHIPS", "HARDENED", "RATES", "STUDY"]

CHIPS = range(2)
RATES = (0.05, 0.1)
HARDENED = {target.name: target for target in DIGITS if target.name in ("normal", "rquant", "clip", "randbet, 10 %")}
WISHED = 2.5
NOISE = 0.5  # points, two of the 360 held-out images
ACCURACIES = {"bare": "perturbed", "head": "perturbed_head", "fused": "perturbed_fused"}


def _file(name: str) -> str:
    return str(Path("runs") / "hardened_fuse" / f"{name.split(',')[0]}.pt")


def _train_targets() -> None:
    torch.set_num_threads(1)
    data = load("digits")
    for name, target in HARDENED.items():
        fit_to(Path(_file(name)), f"digits-{target.norm}", data, target.recipe(RECIPE))


def _tasks() -> list[Task]:
    return [
        Task(
            {"hardening": name, "rate": rate, "chip": chip},
            RunConfig(target=_file(name), memory=Memory(target.scheme, target.bits), bit_error_rate=rate, chip_seed=chip),
        )
        for name, target in HARDENED.items() for rate in RATES for chip in CHIPS
    ]  # fmt: skip


def _record(summary: dict[str, Any], folder: Path) -> Row:
    found, energy = summary["accuracy"], summary["energy"]
    return {
        "clean": 100 * found["clean"], **{key: 100 * found[name]["mean"] for key, name in ACCURACIES.items()},
        "energy_bare": 1 - energy["saving_bare"], "energy_fused": 1 - energy["saving"],
    }  # fmt: skip


def _rows(records: list[Row], folders: list[Path]) -> list[Row]:
    rows = []
    for (name, rate), group in grouped(records, "hardening", "rate").items():
        row: Row = {"data": "digits", "hardening": name, "rate": rate, "chips": len(group), "clean": group[0]["clean"]}
        for key in ACCURACIES:
            row |= {f"{key}_mean": mean(r[key] for r in group), f"{key}_sd": pstdev(r[key] for r in group)}
        row["fuse_adds"] = row["fused_mean"] - row["head_mean"]
        rows.append({**row, "energy_bare": group[0]["energy_bare"], "energy_fused": group[0]["energy_fused"]})
    return rows


def _least(rows: Sequence[Row], name: str, key: str, wished: float) -> Row | None:
    """The row of the highest rate at which the accuracy ``key`` of ``name``, and at all lower ones, is ``wished`` or more."""
    best = None
    for row in rows_where(list(rows), hardening=name):
        if row[f"{key}_mean"] < wished:
            break
        best = row
    return best


def _table(rows: list[Row]) -> Group:
    wished = max(row["clean"] for row in rows) - WISHED

    def accuracy(key: str) -> Callable[[Row], str]:
        return lambda row: f"{row[f'{key}_mean']:.1f} ± {row[f'{key}_sd']:.1f}"

    def lowest(key: str, energy: str) -> Column:
        def column(group: list[Row]) -> str:
            found = _least(group, group[0]["hardening"], key, wished)
            return "none" if found is None else f"{100 * found['rate']:g} %, {found[energy]:.2f}"

        return column

    return Group(
        lines(rows, {
            "hardening": value("hardening"), "bit errors": lambda row: f"{100 * row['rate']:g} %",
            "nominal": value("clean", ".1f"),
            "no fuse": accuracy("bare"), "head": accuracy("head"), "head and fuse": accuracy("fused"),
            "the fuse adds": lambda row: f"{row['fuse_adds']:+.1f}" if row["fuse_adds"] > NOISE else "nothing",
        }, title="digits, accuracy in %"),
        table(rows, ["hardening"], {
            "no fuse: rate, energy": lowest("bare", "energy_bare"), "head": lowest("head", "energy_bare"),
            "head and fuse": lowest("fused", "energy_fused"),
        }, title=f"lowest voltage with {wished:.1f} % or more"),
    )  # fmt: skip


STUDY = Study("hardened_fuse", _tasks, _record, _table, _rows, prepare=_train_targets)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
