"""How well each estimate points along the true gradient: cosine and scale on the way of a fuse that learns by backpropagation.

Digits, 5 % bit errors, training chip 100, no head, 16 images a step. White-box, and outside of any run: the estimates are looked
at and thrown away, the fuse follows the true gradient. ``scale`` is ``g . t / |t|^2`` for an estimate ``g`` of the true gradient
``t`` of the same images; an unbiased one has 1 on average. Methods with normalised steps have none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import mean, pstdev
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from backends.base import Access, Chip
from backends.datasets.loading import load
from backends.simulated import SimulatedBackend
from backends.targets.fit import fitted
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.optimizers.backprop import Backprop
from bbfuse.optimizers.base import Descent, Problem
from bbfuse.optimizers.settings import (
    METHODS,
    BackpropConfig,
    FzooConfig,
    NesConfig,
    PgpeConfig,
    RgeConfig,
    SpsaConfig,
    SpsaGcConfig,
)
from bbfuse.querying.ledger import Ledger
from bbfuse.seeds import stream
from bbfuse.training.objective import Step, Term
from bbfuse.training.sampling import Sampler
from experiments.study import command

__all__ = ["main"]

CHIP = Chip(0.05, 100)
BATCH = 16
WINDOWS = ((0, 20), (200, 220), (1000, 1020))
NORMALISED = ("fzoo", "nes", "pgpe")
CASES: dict[str, tuple[str, Any]] = {
    "rge": ("rge", RgeConfig()),
    "rge, plain": ("rge", RgeConfig(broyden=False)),
    "rge, plain, 8 directions": ("rge", RgeConfig(broyden=False, directions=8)),
    "rge, coarse": ("rge", RgeConfig(basis="coarse")),
    "rge, dct": ("rge", RgeConfig(basis="dct")),
    "rge, coordinates": ("rge", RgeConfig(basis="coordinates")),
    "rge, parameters": ("rge", RgeConfig(space="parameters")),
    "spsa": ("spsa", SpsaConfig()),
    "spsa-gc": ("spsa-gc", SpsaGcConfig()),
    "fzoo": ("fzoo", FzooConfig()),
    "nes": ("nes", NesConfig()),
    "pgpe": ("pgpe", PgpeConfig()),
}


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit code."""
    return command("alignment", _compute, _table, arguments)


def _compute() -> tuple[Any, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    data = load("digits")
    ledger = Ledger(
        SimulatedBackend("digits", fitted("digits", data), data.image_shape, data.classes, access=Access.GRADIENTS), 10**9
    )
    rows = []
    for name, (method, settings) in CASES.items():
        problem = Problem(len(data.train), data.classes, population=False, seed=0)
        fuse = Fuse("MLP", data.image_shape, stream(0, "fuse"))
        estimator = METHODS[method].load()(settings, problem, fuse)
        guide, sampler = Backprop(BackpropConfig(), problem, fuse), Sampler(len(data.train), BATCH, hard=True)
        found: dict[int, list[tuple[float, float]]] = {first: [] for first, _ in WINDOWS}
        for number in range(WINDOWS[-1][1]):
            index, weights = sampler.draw(stream(0, "batch", number))
            step = Step(
                number, 0, fuse, index, data.train.images[index], data.train.labels[index], weights, [Term(CHIP, Head(), 1.0)],
                ledger.ask, ledger.ask_with_tape,
            )  # fmt: skip
            estimate, truth = _gradient(estimator, step), _gradient(guide, step)
            for first, last in WINDOWS:
                if first <= number < last:
                    cosine = F.cosine_similarity(estimate, truth, dim=0).item()
                    found[first].append((cosine, (estimate @ truth / truth.square().sum()).item()))
            guide.update(step, WINDOWS[-1][1])
            finished = step.finish()
            assert finished is not None
            sampler.observe(index, finished[1])
        for first, pairs in found.items():
            cosines, scales = zip(*pairs, strict=True)
            rows.append({
                "method": name, "steps_before": first, "answers_per_image": estimator.answers_per_image,
                "cosine_mean": mean(cosines), "cosine_sd": pstdev(cosines),
                "scale_mean": None if name in NORMALISED else mean(scales), "batches": len(pairs),
            })  # fmt: skip
    return {"data": "digits", "chip": CHIP.seed, "bit_error_rate": CHIP.bit_error_rate, "batch": BATCH}, rows


def _gradient(estimator: Descent, step: Step) -> Tensor:
    estimator.optimizer.zero_grad()
    estimator.estimate(step)
    return torch.cat([p.grad.flatten() for p in step.fuse.parameters() if p.grad is not None])


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("method", "answers", *(f"after {first}" for first, _ in WINDOWS), title="cosine with the true gradient (scale)")
    for name in CASES:
        mine = [row for row in rows if row["method"] == name]
        cells = [
            f"{row['cosine_mean']:.3f} ± {row['cosine_sd']:.3f}"
            + (f" ({row['scale_mean']:.2f})" if row["scale_mean"] is not None else "")
            for row in mine
        ]
        table.add_row(name, str(mine[0]["answers_per_image"]), *cells)
    table.caption = "answers: how often an image is sent in a step"
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
