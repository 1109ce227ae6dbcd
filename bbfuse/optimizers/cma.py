"""CMA-ES (Hansen and Ostermeier 2001) by pycma: full covariance in a random subspace, or diagonal on all parameters."""

from __future__ import annotations

from collections.abc import Sequence

import cma
import numpy as np

from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.ask_and_tell import Point, Searcher
from bbfuse.optimizers.base import Problem
from bbfuse.optimizers.settings import CmaConfig

__all__ = ["Cma"]


class Cma(Searcher):
    """The fuse becomes the mean of the search distribution."""

    def __init__(self, config: CmaConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(fuse, config.subspace, problem.seed, config.population)
        options = {
            "popsize": self.answers_per_image, "verbose": -9, "seed": np.nan, "CMA_diagonal": config.subspace is None,
            # a generator of its own: pycma would seed and use numpy's global one
            "randn": _Normal(problem.seed),
        }  # fmt: skip
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(self.dimensions), config.sigma, options)

    def ask(self) -> Sequence[Point]:
        """See `Searcher`."""
        return self._strategy.ask()  # type: ignore[no-any-return]

    def tell(self, points: Sequence[Point], losses: list[float]) -> None:
        """See `Searcher`."""
        self._strategy.tell(points, losses)

    def best(self) -> Point:
        """See `Searcher`."""
        mean: Point = self._strategy.mean
        return mean


class _Normal:
    """Standard normal numbers in the form in which pycma asks for them."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Point:
        return self._rng.standard_normal(shape)
