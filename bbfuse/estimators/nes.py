"""Antithetic evolution strategy with centred ranks (Salimans et al. 2017; Wierstra et al. 2014), sd fixed, under Adam.

g = mean over pairs of (r(theta + s u) - r(theta - s u)) / (2 s) * u,  u Gaussian, r the centred rank of the loss in the step
"""

from __future__ import annotations

import torch

from bbfuse.estimators.interface import Descent, Problem, adam
from bbfuse.estimators.probes import loss_at, normal
from bbfuse.estimators.ranks import centred_ranks
from bbfuse.fuse import Fuse
from bbfuse.methods import NesConfig
from bbfuse.objective import Step

__all__ = ["Nes"]


class Nes(Descent):
    """Two scores a pair; the estimate has the direction of a gradient, its scale says nothing."""

    def __init__(self, config: NesConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr)
        self._config = config
        self.answers_per_image = 2 * config.pairs

    def estimate(self, step: Step) -> None:
        """See `Descent`."""
        centre, sigma = step.fuse.vector(), self._config.sigma
        losses: list[float] = []
        directions = []
        for pair in range(self._config.pairs):
            u = normal(step, pair)
            above, below = (loss_at(step, centre + sign * sigma * u) for sign in (1.0, -1.0))
            if above is not None and below is not None:
                losses += [above, below]
                directions.append(u)
        if directions:
            ranks = centred_ranks(losses).view(-1, 2)
            slopes = (ranks[:, 0] - ranks[:, 1]) / (2.0 * sigma)
            step.fuse.add_gradient((slopes[:, None] * torch.stack(directions)).mean(0))
