"""FZOO: one-sided probes in a batch, the step divided by the spread of their losses (Dang et al., ICLR 2026).

theta <- theta - lr * mean over i of (L(theta + c u_i) - L(theta)) / sd_j L(theta + c u_j) * u_i,  u Rademacher
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from backends.settings import Count, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem
from bbfuse.optimizers.probes import ParameterProbe, drawn, losses_of, signs

__all__ = ["Fzoo", "FzooConfig"]


@dataclass(frozen=True)
class FzooConfig:
    """One-sided probes with a step normalised by the spread of their losses (FZOO)."""

    lr: Positive = 3e-2
    """learning rate at the start, decaying linearly to a twentieth"""
    smoothing: Positive = 1e-2
    """size of a probe per parameter"""
    directions: Count = 8
    """probes per step, besides one at the centre"""


@OPTIMIZERS.register("fzoo")
class Fzoo(GradientEstimator):
    """One-sided probes of the parameters, the step normalised by the standard deviation of their losses.

    ``directions`` scores per step and one at the centre. The normalisation makes the step length independent of the loss's scale.
    """

    Config = FzooConfig

    def __init__(self, config: FzooConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(torch.optim.SGD(fuse.parameters(), lr=0.0), config.lr)
        self._config = config
        self.queries_per_image = config.directions + 1

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`; the direction of the gradient up to ``O(c)``, scaled by the inverse of the losses' sd."""
        numbers, size = range(self._config.directions), self._config.smoothing
        base, *losses = losses_of(
            step, [ParameterProbe(signs, 0, 0.0), *(ParameterProbe(signs, number, size) for number in numbers)]
        )
        found = [(loss, drawn(step, signs, number)) for number, loss in enumerate(losses) if loss is not None]
        spread = statistics.pstdev(loss for loss, _ in found) if found else 0.0
        if base is not None and spread > 0.0:
            step.fuse.add_gradient(torch.stack([(loss - base) / spread * u for loss, u in found]).mean(0))
