"""What a training step against bit errors costs beside a plain one: forward, backward and optimizer, batches of 128.

``plain``: float weights; ``rquant``: quantization-aware, 8 bits, clipped; ``randbet``: the same with a second gradient on a fresh
chip with 1 % bit errors. Milliseconds of processor time, medians of turns in which each is done once, so that other load on the
machine affects all alike; ``ratio`` is to ``plain``. Wished: RandBET at most 2.2 times plain. Stutz et al. (MLSys 2021) report
about 3 times their training with clipping alone.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import torch
from rich.table import Table

from backends.datasets.base import Split
from backends.memory.config import PRESETS
from backends.targets import networks
from backends.targets.base import image_shape_of
from backends.training.fitting import fit
from backends.training.hardening import Hardening
from backends.training.recipe import LARGE_RECIPE, RECIPE, Recipe
from bbfuse.compare.display.tables import lines
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row
from experiments.benchmarks.timing import median_seconds
from experiments.study import Measurement

__all__ = ["RESULT", "TARGETS"]

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


def _rows(target: str, recipe: Recipe) -> list[Row]:
    shape = image_shape_of(target)
    rng = torch.Generator().manual_seed(0)
    data = Split(torch.rand(1000, *shape, generator=rng) * 2 - 1, torch.randint(10, (1000,), generator=rng))

    def work(hardening: Hardening | None) -> None:
        fit(networks.build(target, shape), data, replace(recipe, hardening=hardening))

    works = {name: lambda _, hardening=hardening: work(hardening) for name, hardening in METHODS.items()}
    seconds = median_seconds(works, TURNS, time.process_time)
    return [
        {"target": target, "method": name, "ms_per_step": 1e3 * taken / STEPS, "ratio": taken / seconds["plain"]}
        for name, taken in seconds.items()
    ]


def _table(rows: list[Row]) -> Table:
    return lines(rows, {
        "target": value("target"), "method": value("method"), "ms a step": value("ms_per_step", ".1f"),
        "times plain": value("ratio", ".2f"),
    })  # fmt: skip


RESULT = Measurement(
    "benchmarks.hardening", {"steps": STEPS, "turns": TURNS, "batch": RECIPE.batch},
    lambda: [row for target, recipe in TARGETS.items() for row in _rows(target, replace(recipe, steps=STEPS))], _table,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
