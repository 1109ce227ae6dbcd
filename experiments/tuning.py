"""Each method's learning rate (or first step size) at 30,000 images, chosen on other chips before anything is compared.

Digits, 5 % bit errors, no head, 16 images a step where 64 were no better; `chip`: chips 100 to 102, `population`: two seeds.
Scored on the validation images, which are neither trained nor reported on, and for the population on ten chips from the
validation stream.

With ``--ray-address`` Ray Tune searches the grid (``ray[tune]``); its record of the trials lies in ``runs/tuning/tune``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.table import Table

from backends.base import Chip
from backends.datasets.loading import load
from backends.memory.simulator import Simulator
from backends.targets.fit import fitted
from bbfuse.compare.display.tables import grouped, rows_where
from bbfuse.compare.tasks import Task
from bbfuse.compare.trials import run_trials
from bbfuse.config.schema import RunConfig, section_of
from bbfuse.config.sections import ReportConfig, ValidationConfig
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import OPTIMIZERS
from bbfuse.seeds import validation_chip
from bbfuse.training.evaluation import accuracy
from experiments.study import Study, rows_of

__all__ = ["ARMS", "SETTINGS", "STUDY", "Arm", "by_tune", "tuned"]

SETTINGS = ("chip", "population")
CHIPS = (100, 101, 102)
SEEDS = (0, 1)
BUDGET = 30_000


@dataclass(frozen=True)
class Arm:
    """A method and its setting that is tuned."""

    method: str
    tuned: str
    grid: tuple[float, ...]
    fixed: dict[str, Any] = field(default_factory=dict)
    batch: int | None = 16

    def config(self, value: float, **settings: Any) -> RunConfig:
        """A run without head; everything but ``settings`` has its default."""
        section = section_of("optimizer", self.method)
        assert section is not None
        chosen = OPTIMIZERS[self.method].Config(**{self.tuned: value, **self.fixed})
        backend = "whitebox" if self.method == "backprop" else "local"
        config = RunConfig(backend=backend, optimizer=self.method, head="none", batch=self.batch, **settings)
        found: RunConfig = config.replaced(**{section: chosen})
        return found


ARMS: dict[str, Arm] = {
    "backprop": Arm("backprop", "lr", (1e-3, 3e-3, 1e-2, 3e-2)),
    "rge": Arm("rge", "lr", (3e-3, 5e-3, 1e-2, 2e-2), batch=None),
    "rge, plain": Arm("rge", "lr", (1e-3, 3e-3, 5e-3, 1e-2), {"broyden": False}, batch=None),
    "rge, parameters": Arm("rge", "lr", (1e-3, 3e-3, 1e-2), {"space": "parameters"}),
    "spsa": Arm("spsa", "step", (1e-3, 3e-3, 1e-2, 3e-2)),
    "spsa-gc": Arm("spsa-gc", "a", (1e-4, 3e-4, 1e-3, 3e-3)),
    "fzoo": Arm("fzoo", "lr", (3e-3, 1e-2, 3e-2, 1e-1)),
    "nes": Arm("nes", "lr", (3e-3, 1e-2, 3e-2, 1e-1)),
    "pgpe": Arm("pgpe", "lr", (0.03, 0.1, 0.2, 0.4)),
    "cma, subspace": Arm("cma", "sigma", (3e-3, 1e-2, 3e-2, 1e-1)),
    "cma, diagonal": Arm("cma", "sigma", (1e-2, 3e-2, 1e-1), {"subspace": None}),
    "nevergrad, DiagonalCMA": Arm("nevergrad", "sigma", (1e-2, 3e-2, 1e-1)),
    "nevergrad, OnePlusOne": Arm("nevergrad", "sigma", (3e-3, 1e-2, 3e-2), {"name": "OnePlusOne"}),
}


def tuned(setting: str, arm: str) -> float:
    """The value that the committed study found best."""
    mine = rows_where(rows_of("tuning"), setting=setting, method=arm)
    return float(max(mine, key=lambda row: row["accuracy"])["value"])


def _tasks() -> list[Task]:
    def task(name: str, value: float, setting: str, seed: int) -> Task:
        chip = {"chip_seed": seed} if setting == "chip" else {"seed": seed, "report": ReportConfig(chips=1)}
        config = ARMS[name].config(value, budget=BUDGET, validation=ValidationConfig(times=0), **chip)
        return Task({"setting": setting, "method": name, "value": value, "seed": seed}, config)

    return [
        task(name, value, setting, seed)
        for name, arm in ARMS.items()
        for value in arm.grid
        for setting, seeds in zip(SETTINGS, (CHIPS, SEEDS), strict=True)
        for seed in seeds
    ]


@cache
def _simulator() -> Simulator:
    return Simulator(fitted("digits", load("digits")))


def _record(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    own, rate = summary["config"]["chip_seed"], summary["config"]["bit_error_rate"]
    chips = [Chip(rate, own)] if own is not None else [Chip(rate, validation_chip(j)) for j in range(10)]
    held = load("digits").validation
    with torch.no_grad():
        fused = Fuse.load(folder / "fuse.pt")(held.images)
        return {"accuracy": mean(accuracy(_simulator().logits(fused, chip), held.labels) for chip in chips)}


def _rows(records: list[dict[str, Any]], folders: object) -> list[dict[str, Any]]:
    return [
        {
            "setting": setting, "method": method, "name": ARMS[method].tuned, "value": value, "runs": len(mine),
            "accuracy": mean(row["accuracy"] for row in mine),
        }
        for (setting, method, value), mine in grouped(records, "setting", "method", "value").items()
    ]  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("method", "tuned", *SETTINGS, caption="validation accuracy in % at each value, the best one marked")
    for name, arm in ARMS.items():
        table.add_row(
            name, arm.tuned, *(_cell(rows_where(rows, setting=s, method=name)) for s in SETTINGS), end_section=True
        )  # fmt: skip
    return table


def _cell(rows: list[dict[str, Any]]) -> str:
    best = max(rows, key=lambda row: row["accuracy"])
    return "\n".join(f"{row['value']:g}: {100 * row['accuracy']:.1f}{' *' if row is best else ''}" for row in rows)


def by_tune(root: Path, tasks: Sequence[Task], ray_address: str | None) -> tuple[list[dict[str, Any]], list[Path]]:
    """Execute ``tasks`` on this machine's cores, or as trials of Ray Tune at ``ray_address``."""
    return run_trials(root, tasks, ray_address, _record)


STUDY = Study("tuning", _tasks, _record, _table, _rows, run_all=by_tune)

if __name__ == "__main__":
    from experiments.tuning import STUDY  # under its own name, by which other processes import it

    sys.exit(STUDY.main(sys.argv[1:]))
