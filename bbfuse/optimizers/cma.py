"""CMA-ES (Hansen and Ostermeier 2001) by pycma: full covariance in a random subspace, or diagonal on all parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.settings import Count, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.ask_and_tell import AskAndTell, Point
from bbfuse.optimizers.base import OPTIMIZERS, Problem

__all__ = ["Cma", "CmaConfig"]


@dataclass(frozen=True)
class CmaConfig:
    """CMA-ES (Hansen and Ostermeier 2001) by pycma."""

    subspace: Count | None = 100
    """dimensions of a random subspace, searched with a full covariance; None for all parameters with a diagonal one"""
    sigma: Positive = 0.01
    """step size at the start, per parameter"""
    population: Count | None = None
    """points a step; if not given 4 + 3 ln(dimensions)"""


@OPTIMIZERS.register("cma")
class Cma(AskAndTell):
    """CMA-ES by pycma in a random subspace; `cma.subspace=None` for all parameters with a diagonal covariance.

    The fuse becomes the mean of the search distribution.
    """

    Config = CmaConfig

    def __init__(self, config: CmaConfig, problem: Problem, fuse: Fuse) -> None:
        import cma  # takes a second: only for runs that use it

        super().__init__(fuse, config.subspace, problem.seed, config.population)
        options = {
            "popsize": self.queries_per_image, "verbose": -9, "seed": np.nan, "CMA_diagonal": config.subspace is None,
            # its own generator: pycma would seed and use numpy's global one
            "randn": _Normal(problem.seed),
        }  # fmt: skip
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(self.dimensions), config.sigma, options)

    def ask(self) -> Sequence[Point]:
        """See `AskAndTell`."""
        return self._strategy.ask()  # type: ignore[no-any-return]

    def tell(self, points: Sequence[Point], losses: list[float]) -> None:
        """See `AskAndTell`."""
        self._strategy.tell(points, losses)

    def best(self) -> Point:
        """See `AskAndTell`."""
        mean: Point = self._strategy.mean
        return mean


class _Normal:
    """Standard normal numbers with the interface that pycma expects."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Point:
        return self._rng.standard_normal(shape)
