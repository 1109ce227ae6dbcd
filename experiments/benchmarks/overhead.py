"""Time and memory that each method takes for itself, beside the loops of nevergrad, pycma and EvoTorch in the same run.

The fuse is a vector of as many parameters as ConvS (113,187) and ConvL (723,273) have; it returns images unchanged, and every
score is available at once. What is left is the method's own work. Peers do the same number of probes a step with the same
settings on a function that returns its first argument. One thread.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import cma
import nevergrad as ng
import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn

from backends.base import NOMINAL
from bbfuse.compare.display.tables import lines
from bbfuse.compare.measured import value
from bbfuse.compare.tasks import Row
from bbfuse.fuse.module import Fuse
from bbfuse.heads.base import Head
from bbfuse.objective.eopm import Term
from bbfuse.objective.step import Probe, Score, Step
from bbfuse.optimizers.base import OPTIMIZERS, Problem
from experiments.benchmarks.timing import median_seconds, peak_bytes
from experiments.study import Measurement

__all__ = ["RESULT", "measure"]

SIZES = (113_187, 723_273)
STEPS = 5
PAIRS = 8
SUBSPACE = 100


class _Bare(Fuse):
    """A vector of parameters in place of a network."""

    def __init__(self, parameters: int) -> None:
        nn.Module.__init__(self)
        self.weights = nn.Parameter(torch.zeros(parameters))
        self.image_shape = (1, 1, 1)

    def at(self, vector: Tensor, images: Tensor) -> Tensor:
        """The images; the vector enters, so that it has to be computed."""
        return images + 0.0 * vector[0]

    def forward(self, images: Tensor) -> Tensor:
        """The images."""
        return images + 0.0 * self.weights[0]


class _Free(Step):
    """Scores without queries, a different one each time."""

    numbers: Iterator[float]

    def scores(self, probes: Sequence[Probe]) -> list[Score | None]:
        """A number for each probe, after its images are made."""
        for probe in probes:
            probe.images(self)
        return [Score(next(self.numbers), torch.zeros(1), ()) for _ in probes]


def _ours(name: str, settings: dict[str, Any], parameters: int) -> Callable[[int], object]:
    fuse = _Bare(parameters)
    method = OPTIMIZERS[name].create(OPTIMIZERS[name].Config(**settings), Problem(1, 1, False, 0), fuse)
    numbers, losses = itertools.count(), _different_numbers()
    one = torch.zeros(1, 1, 1, 1)

    def step(_: int) -> None:
        made = _Free(
            number=next(numbers), seed=0, fuse=fuse, index=torch.zeros(1, dtype=torch.long), images=one,
            labels=torch.zeros(1, dtype=torch.long), weights=torch.ones(1), terms=[Term(NOMINAL, Head(), 1.0)],
            query=lambda images, chip: images, query_with_gradient=lambda images, chip: images,
        )  # fmt: skip
        made.numbers = losses
        method.update(made, 10**6)

    return step


def _nevergrad(name: str, workers: int | None, points: int | None, parameters: int) -> Callable[[int], object]:
    count = workers or 4 + int(3 * np.log(parameters))
    optimizer = ng.optimizers.registry[name](ng.p.Array(shape=(parameters,)), budget=None, num_workers=count)
    losses = _different_numbers()

    def step(_: int) -> None:
        for _ in range((points or count) // count):
            for point in [optimizer.ask() for _ in range(count)]:
                optimizer.tell(point, next(losses))
        optimizer.provide_recommendation()

    return step


def _different_numbers() -> Iterator[float]:
    return (float(number % 7) for number in itertools.count(1))


def _pycma(population: int, parameters: int) -> Callable[[int], object]:
    options = {"popsize": population, "verbose": -9, "CMA_diagonal": True}
    strategy = cma.CMAEvolutionStrategy(np.zeros(parameters), 0.1, options)
    losses = _different_numbers()

    def step(_: int) -> None:
        points = strategy.ask()
        strategy.tell(points, [next(losses) for _ in points])

    return step


def _pgpe(parameters: int) -> Callable[[int], object]:
    from evotorch import Problem as Function
    from evotorch.algorithms import PGPE

    function = Function(
        "min", lambda points: points[:, 0], vectorized=True, solution_length=parameters, initial_bounds=(-1, 1)
    )  # fmt: skip
    search = PGPE(
        function, popsize=2 * PAIRS, center_learning_rate=0.1, stdev_learning_rate=0.1, stdev_init=0.02,
        center_init=torch.zeros(parameters),
    )  # fmt: skip
    return lambda _: search.step()


CASES: list[tuple[str, str, dict[str, Any], str, Callable[[int], Callable[[int], object]] | None]] = [
    ("spsa", "spsa", {}, "nevergrad SPSA", partial(_nevergrad, "SPSA", 1, 2)),
    ("spsa-gc, 5 pairs", "spsa-gc", {}, "", None),
    ("rge, parameters", "rge", {"space": "parameters"}, "", None),
    ("fzoo, 8 probes", "fzoo", {}, "", None),
    ("nes, 8 pairs", "nes", {"pairs": PAIRS}, "", None),
    ("pgpe, 8 pairs", "pgpe", {"pairs": PAIRS}, "EvoTorch PGPE", _pgpe),
    ("cma, diagonal, 20 points", "cma", {"subspace": None, "population": 20}, "pycma", partial(_pycma, 20)),
    ("cma, subspace of 100", "cma", {"subspace": SUBSPACE}, "", None),
    ("nevergrad DiagonalCMA", "nevergrad", {}, "nevergrad", partial(_nevergrad, "DiagonalCMA", None, None)),
]  # fmt: skip
"""Name, method, its settings, the name of the peer, and the function that makes the peer."""


def measure() -> list[Row]:
    """A row for each method and size."""
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers, about their own settings
        for parameters in SIZES:
            for name, method, settings, peer, make_peer in CASES:
                print(f"{name}, {parameters:,} parameters", file=sys.stderr)
                makers = {"ours": partial(_ours, method, settings, parameters)}
                if make_peer is not None:
                    makers["peer"] = partial(make_peer, parameters)
                seconds = median_seconds({who: maker() for who, maker in makers.items()}, STEPS)
                peaks = {who: peak_bytes(partial(_two_steps, maker)) / 2**20 for who, maker in makers.items()}
                rows.append({
                    "method": name, "parameters": parameters, "ms_per_step": 1e3 * seconds["ours"], "peak_mib": peaks["ours"],
                    "peer": peer or None, "peer_ms_per_step": 1e3 * seconds["peer"] if peer else None,
                    "peer_peak_mib": peaks["peer"] if peer else None,
                })  # fmt: skip
    return rows


def _two_steps(maker: Callable[[], Callable[[int], object]]) -> None:
    """Make a method and take two steps."""
    step = maker()
    for turn in range(2):
        step(turn)


def _table(rows: list[Row]) -> Table:
    return lines(rows, {
        "method": value("method"), "parameters": value("parameters", ","), "ms": value("ms_per_step", ".1f"),
        "MiB": value("peak_mib", ".0f"), "peer": value("peer"), "its ms": value("peer_ms_per_step", ".1f"),
        "its MiB": value("peer_peak_mib", ".0f"),
    }, box=box.SIMPLE)  # fmt: skip


RESULT = Measurement("benchmarks.overhead", {"parameters": SIZES, "steps": STEPS, "threads": 1}, lambda: measure(), _table)

if __name__ == "__main__":
    sys.exit(RESULT.main(sys.argv[1:]))
