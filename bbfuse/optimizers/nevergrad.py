"""Any optimizer of nevergrad's registry."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import InputError
from backends.settings import Count, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.ask_and_tell import AskAndTell, Point
from bbfuse.optimizers.base import OPTIMIZERS, Problem

__all__ = ["Nevergrad", "NevergradConfig"]


@dataclass(frozen=True)
class NevergradConfig:
    """Any optimizer of nevergrad."""

    name: str = "DiagonalCMA"
    """its name in nevergrad's registry"""
    sigma: Positive = 0.03
    """sd of a parameter that it starts from"""
    workers: Count | None = None
    """points per step, all scored on the same images; if not given 4 + 3 ln(dimensions)"""
    subspace: Count | None = None
    """dimensions of a random subspace; None for all parameters"""


@OPTIMIZERS.register("nevergrad")
class Nevergrad(AskAndTell):
    """Any optimizer of nevergrad, chosen by `nevergrad.name`.

    The fuse becomes the point that the optimizer recommends.
    """

    Config = NevergradConfig

    def __init__(self, config: NevergradConfig, problem: Problem, fuse: Fuse) -> None:
        """Look the optimizer up.

        Raises:
            InputError: nevergrad has none of that name, or it takes one point at a time only.
        """
        import nevergrad as ng  # takes seconds: only for runs that use it

        if config.name not in ng.optimizers.registry:
            raise InputError(
                f"`nevergrad.name` must be one of nevergrad's registry, such as DiagonalCMA or TBPSA, got {config.name}"
            )
        kind = ng.optimizers.registry[config.name]
        super().__init__(fuse, config.subspace, problem.seed, config.workers)
        if kind.no_parallelization and self.queries_per_image > 1:
            raise InputError(f"`nevergrad.name={config.name}` takes one point at a time: give `nevergrad.workers=1`")
        space = ng.p.Array(init=np.zeros(self.dimensions)).set_mutation(sigma=config.sigma)
        space.random_state = np.random.RandomState(problem.seed % 2**32)
        self._optimizer = kind(space, budget=None, num_workers=self.queries_per_image)
        self._candidates: list[Any] = []

    def ask(self) -> Sequence[Point]:
        """See `AskAndTell`."""
        self._candidates = [self._optimizer.ask() for _ in range(self.queries_per_image)]
        return [candidate.value for candidate in self._candidates]

    def tell(self, points: Sequence[Point], losses: list[float]) -> None:
        """See `AskAndTell`."""
        # some divide by a standard deviation of losses that may be zero, or warn about rounded points
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for candidate, loss in zip(self._candidates, losses, strict=True):
                self._optimizer.tell(candidate, loss)

    def best(self) -> Point:
        """See `AskAndTell`."""
        recommended: Point = self._optimizer.provide_recommendation().value
        return recommended
