"""Alignment of each estimate with the true gradient: cosine and scale along the training of a fuse by backpropagation.

Digits, 5 % bit errors, training chip 100, no head, 16 images a step. White-box, and outside of any run: the estimates are only
compared, the fuse follows the true gradient. ``scale`` is ``g . t / |t|^2`` for an estimate ``g`` of the true gradient
``t`` of the same images; an unbiased one has 1 on average. Methods with normalised steps have none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import mean, pstdev
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from backends.base import Access, Chip
from backends.datasets.base import Dataset
from backends.datasets.loading import load
from backends.simulated import SimulatedBackend
from backends.targets.fit import fitted
from bbfuse.compare.display.tables import at, first, table
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Step
from bbfuse.optimizers.backprop import Backprop, BackpropConfig
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem
from bbfuse.optimizers.fzoo import FzooConfig
from bbfuse.optimizers.nes import NesConfig
from bbfuse.optimizers.pgpe import PgpeConfig
from bbfuse.optimizers.rge import RgeConfig
from bbfuse.optimizers.spsa import SpsaConfig
from bbfuse.optimizers.spsa_gc import SpsaGcConfig
from bbfuse.querying.ledger import Ledger
from bbfuse.seeds import stream
from bbfuse.training.sampling import Sampler
from experiments.study import Measurement

__all__ = ["RESULT"]

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


def _rows() -> list[dict[str, Any]]:
    data = load("digits")
    ledger = Ledger(
        SimulatedBackend("digits", fitted("digits", data), data.image_shape, data.classes, access=Access.GRADIENTS), 10**9
    )
    return [row for name in CASES for row in _of_case(name, data, ledger)]


def _of_case(name: str, data: Dataset, ledger: Ledger) -> Iterator[dict[str, Any]]:
    method, settings = CASES[name]
    problem = Problem(len(data.train), data.classes, population=False, seed=0)
    fuse = Fuse("MLP", data.image_shape, stream(0, "fuse"))
    estimator = OPTIMIZERS[method].create(settings, problem, fuse)
    guide, sampler = Backprop(BackpropConfig(), problem, fuse), Sampler(len(data.train), BATCH, hard=True)
    found: dict[int, list[tuple[float, float]]] = {start: [] for start, _ in WINDOWS}
    for number in range(WINDOWS[-1][1]):
        index, weights = sampler.draw(stream(0, "batch", number))
        step = Step(
            number=number, seed=0, fuse=fuse, index=index, images=data.train.images[index], labels=data.train.labels[index],
            weights=weights, terms=[Term(CHIP, Head(), 1.0)], query=ledger.query, query_with_gradient=ledger.query_with_gradient,
        )  # fmt: skip
        assert isinstance(estimator, GradientEstimator)
        estimate, truth = _gradient(estimator, step), _gradient(guide, step)
        for start, end in WINDOWS:
            if start <= number < end:
                cosine = F.cosine_similarity(estimate, truth, dim=0).item()
                found[start].append((cosine, (estimate @ truth / truth.square().sum()).item()))
        guide.update(step, WINDOWS[-1][1])
        finished = step.finish()
        assert finished is not None
        sampler.observe(index, finished[1])
    for start, pairs in found.items():
        cosines, scales = zip(*pairs, strict=True)
        yield {
            "method": name, "steps_before": start, "answers_per_image": estimator.queries_per_image,
            "cosine_mean": mean(cosines), "cosine_sd": pstdev(cosines),
            "scale_mean": None if name in NORMALISED else mean(scales), "batches": len(pairs),
        }  # fmt: skip


def _gradient(estimator: GradientEstimator, step: Step) -> Tensor:
    estimator.optimizer.zero_grad()
    estimator.estimate(step)
    return torch.cat([p.grad.flatten() for p in step.fuse.parameters() if p.grad is not None])


def _cell(row: dict[str, Any]) -> str:
    scale = "" if row["scale_mean"] is None else f" ({row['scale_mean']:.2f})"
    return f"{row['cosine_mean']:.3f} ± {row['cosine_sd']:.3f}{scale}"


def _table(rows: list[dict[str, Any]]) -> Table:
    return table(
        rows, ("method",),
        {"responses": first("answers_per_image"), **{f"after {start}": at("steps_before", start, _cell) for start, _ in WINDOWS}},
        title="cosine with the true gradient (scale)", caption="responses: how often an image is sent in a step",
    )  # fmt: skip


SETTINGS = {"data": "digits", "chip": CHIP.seed, "bit_error_rate": CHIP.bit_error_rate, "batch": BATCH}
RESULT = Measurement("alignment", SETTINGS, _rows, _table)

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
