"""Antithetic evolution strategy with centred ranks (Salimans et al. 2017; Wierstra et al. 2014), sd fixed, under Adam.

g = mean over pairs of (r(theta + s u) - r(theta - s u)) / (2 s) * u,  u Gaussian, r the centred rank of the loss in the step
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.settings import Count, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem, adam
from bbfuse.optimizers.probes import normal, ranked_pairs

__all__ = ["Nes", "NesConfig"]


@dataclass(frozen=True)
class NesConfig:
    """Evolution strategy with antithetic pairs and ranks in place of losses (Salimans et al. 2017), under Adam."""

    lr: Positive = 1e-2
    """learning rate at the start, decaying linearly to a twentieth"""
    sigma: Positive = 2e-2
    """sd of a probe per parameter"""
    pairs: Count = 8
    """pairs of probes per step"""


@OPTIMIZERS.register("nes")
class Nes(GradientEstimator):
    """Evolution strategy: antithetic pairs, ranks in place of losses, Adam.

    Two scores per pair; the estimate has the direction of a gradient, its scale has no meaning.
    """

    Config = NesConfig

    def __init__(self, config: NesConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr)
        self._config = config
        self.queries_per_image = 2 * config.pairs

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`."""
        sigma = self._config.sigma
        pairs = ranked_pairs(step, normal, self._config.pairs, sigma)
        if pairs is not None:
            ranks, directions = pairs
            slopes = (ranks[:, 0] - ranks[:, 1]) / (2.0 * sigma)
            step.fuse.add_gradient((slopes[:, None] * directions).mean(0))
