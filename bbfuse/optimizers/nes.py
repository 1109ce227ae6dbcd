"""Antithetic evolution strategy with centred ranks (Salimans et al. 2017; Wierstra et al. 2014), sd fixed, under Adam.

g = mean over pairs of (r(theta + s u) - r(theta - s u)) / (2 s) * u,  u Gaussian, r the centred rank of the loss in the step
"""

from __future__ import annotations

from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import Descent, Problem, adam
from bbfuse.optimizers.probes import normal, ranked_pairs
from bbfuse.optimizers.settings import NesConfig
from bbfuse.training.objective import Step

__all__ = ["Nes"]


class Nes(Descent):
    """Two scores a pair; the estimate has the direction of a gradient, its scale says nothing."""

    def __init__(self, config: NesConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr)
        self._config = config
        self.answers_per_image = 2 * config.pairs

    def estimate(self, step: Step) -> None:
        """See `Descent`."""
        sigma = self._config.sigma
        pairs = ranked_pairs(step, normal, self._config.pairs, sigma)
        if pairs is not None:
            ranks, directions = pairs
            slopes = (ranks[:, 0] - ranks[:, 1]) / (2.0 * sigma)
            step.fuse.add_gradient((slopes[:, None] * directions).mean(0))
