"""A fuse on top of hardened targets: what it still wins back, and the least voltage with and without it.

Digits targets of `experiments.bit_error_robustness`, on single chips by the default method with 20,000 images sent, head and
fuse. Accuracies are in percent of held-out images, mean and sd over chips; ``head`` is the head alone (1,150 answers), ``fused``
head and fuse, ``fuse_adds`` the points between the two. ``energy`` is that of the target's weight reads and the fuse's, relative
to the target's at the lowest voltage without errors: ``energy_bare`` without a fuse, ``energy_fused`` with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from backends.datasets.loading import load
from backends.memory.config import Memory
from backends.targets.fit import fit_to
from backends.training.fitting import RECIPE
from bbfuse.compare.tasks import Task
from bbfuse.config.schema import RunConfig
from experiments.bit_error_robustness import DIGITS
from experiments.study import Study

__all__ = ["CHIPS", "HARDENED", "RATES", "STUDY"]

CHIPS = range(2)
RATES = (0.05, 0.1)
ROOT = Path("runs") / "hardened_fuse"
HARDENED = {cell.name: cell for cell in DIGITS if cell.name in ("normal", "rquant", "clip", "randbet, 10 %")}
WISHED = 2.5
NOISE = 0.5  # points, two of the 360 held-out images


def _file(name: str) -> str:
    return str(ROOT / f"{name.split(',')[0]}.pt")


def _make() -> None:
    torch.set_num_threads(1)
    data = load("digits")
    for name, cell in HARDENED.items():
        fit_to(Path(_file(name)), f"digits-{cell.norm}", data, cell.recipe(RECIPE))


def _tasks() -> list[Task]:
    return [
        Task(
            {"hardening": name, "rate": rate, "chip": chip},
            RunConfig(target=_file(name), memory=Memory(cell.scheme, cell.bits), bit_error_rate=rate, chip_seed=chip),
        )
        for name, cell in HARDENED.items() for rate in RATES for chip in CHIPS
    ]  # fmt: skip


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    found, energy = summary["accuracy"], summary["energy"]
    return {
        "clean": 100 * found["clean"], "bare": 100 * found["perturbed"]["mean"],
        "head": 100 * found["perturbed_head"]["mean"], "fused": 100 * found["perturbed_fused"]["mean"],
        "energy_bare": 1 - energy["saving_bare"], "energy_fused": 1 - energy["saving"],
    }  # fmt: skip


def _rows(records: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
    rows = []
    for name in HARDENED:
        for rate in RATES:
            mine = [record for record in records if (record["hardening"], record["rate"]) == (name, rate)]
            row: dict[str, Any] = {"data": "digits", "hardening": name, "rate": rate, "chips": len(mine)}
            row["clean"] = mine[0]["clean"]
            for key in ("bare", "head", "fused"):
                row |= {f"{key}_mean": mean(r[key] for r in mine), f"{key}_sd": pstdev(r[key] for r in mine)}
            row["fuse_adds"] = row["fused_mean"] - row["head_mean"]
            rows.append({**row, "energy_bare": mine[0]["energy_bare"], "energy_fused": mine[0]["energy_fused"]})
    return rows


def _least(rows: Sequence[dict[str, Any]], name: str, key: str, wished: float) -> dict[str, Any] | None:
    """The row of the highest rate at which the accuracy ``key`` of ``name``, and at all lower ones, is ``wished`` or more."""
    best = None
    for row in (row for row in rows if row["hardening"] == name):
        if row[f"{key}_mean"] < wished:
            break
        best = row
    return best


def _table(rows: list[dict[str, Any]]) -> Group:
    table = Table("hardening", "rate", "clean", "bare", "head", "head and fuse", "the fuse adds", title="digits, accuracy in %")
    for row in rows:
        values = (f"{row[f'{key}_mean']:.1f} ± {row[f'{key}_sd']:.1f}" for key in ("bare", "head", "fused"))
        adds = f"{row['fuse_adds']:+.1f}" if row["fuse_adds"] > NOISE else "nothing"
        table.add_row(row["hardening"], f"{100 * row['rate']:g} %", f"{row['clean']:.1f}", *values, adds)
    wished = max(row["clean"] for row in rows) - WISHED
    least = Table("hardening", "bare: rate, energy", "head", "head and fuse", title=f"lowest voltage with {wished:.1f} % or more")
    for name in dict.fromkeys(row["hardening"] for row in rows):
        cells = []
        for key, energy in (("bare", "bare"), ("head", "bare"), ("fused", "fused")):
            found = _least(rows, name, key, wished)
            cells.append("none" if found is None else f"{100 * found['rate']:g} %, {found[f'energy_{energy}']:.2f}")
        least.add_row(name, *cells)
    return Group(table, least)


STUDY = Study("hardened_fuse", _tasks, _record, _table, _rows, prepare=_make)

if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
