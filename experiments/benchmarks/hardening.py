"""What a step of hardened fitting costs beside a plain one, forward, backward, optimizer and all, a batch of 128 in each.

``plain``: float weights; ``rquant``: quantization-aware, 8 bits, clipped; ``randbet``: the same with a second gradient on a fresh
chip with 1 % bit errors. Milliseconds of processor time, medians of turns in which each is done once, so that whatever else the
machine does falls on all alike; ``ratio`` is to ``plain``. Asked: RandBET at most 2.2 times plain. Stutz et al. (MLSys 2021)
report about 3 times their training with clipping alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table

from backends.datasets.base import Split
from backends.memory.config import PRESETS
from backends.targets import networks
from backends.targets.base import image_shape_of
from backends.training.fitting import fit
from backends.training.hardening import Hardening
from backends.training.recipe import LARGE_RECIPE, RECIPE, Recipe
from experiments.benchmarks.timing import median_seconds
from experiments.study import command

__all__ = ["TARGETS", "main"]

TARGETS: dict[str, Recipe] = {
    "digits-gn": RECIPE,
    "resnet8-bn": LARGE_RECIPE,
    "resnet8-gn": replace(LARGE_RECIPE, bfloat16=False),
}
SCHEME = PRESETS["rquant"][0]
METHODS: dict[str, Hardening | None] = {
    "plain": None,
    "rquant": Hardening(SCHEME, clip=0.1),
    "randbet": Hardening(SCHEME, clip=0.1, rate=0.01, start=float("inf")),
}
STEPS, TURNS = 6, 7


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("benchmarks.hardening", _compute, _table, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    rows = [row for target, recipe in TARGETS.items() for row in _rows(target, replace(recipe, steps=STEPS))]
    return {"steps": STEPS, "turns": TURNS, "batch": RECIPE.batch}, rows


def _rows(target: str, recipe: Recipe) -> list[dict[str, Any]]:
    shape = image_shape_of(target)
    rng = torch.Generator().manual_seed(0)
    data = Split(torch.rand(1000, *shape, generator=rng) * 2 - 1, torch.randint(10, (1000,), generator=rng))

    def work(hardening: Hardening | None) -> None:
        fit(networks.build(target, shape), data, replace(recipe, hardening=hardening))

    works = {name: lambda _, said=hardening: work(said) for name, hardening in METHODS.items()}
    seconds = median_seconds(works, TURNS, time.process_time)
    return [
        {"target": target, "method": name, "ms_per_step": 1e3 * taken / STEPS, "ratio": taken / seconds["plain"]}
        for name, taken in seconds.items()
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("target", "method", "ms a step", "times plain")
    for row in rows:
        table.add_row(row["target"], row["method"], f"{row['ms_per_step']:.1f}", f"{row['ratio']:.2f}")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
