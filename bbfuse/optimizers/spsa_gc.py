"""SPSA with gradient correction (BlackVIP: Oh et al., CVPR 2023, and its code).

g = mean over pairs of (L(theta + c_k D) - L(theta - c_k D)) / (2 c_k) * D^{-1},  |D| uniform on [1/2, 1], its sign fair
m_k = b m_{k-1} + g,  theta_{k+1} = theta_k - a_k (g + b m_k)   (Nesterov's look-ahead, as torch's SGD has it)
a_k = a / (k + o)^alpha,  c_k = c / k^gamma,  k = 1, 2, ...
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backends.settings import Count, NonNegative, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem
from bbfuse.optimizers.probes import signs, simultaneous_perturbation
from bbfuse.seeds import stream

__all__ = ["SpsaGc", "SpsaGcConfig"]


@dataclass(frozen=True)
class SpsaGcConfig:
    """SPSA with gradient correction (BlackVIP, Oh et al., CVPR 2023); its released settings, but for a."""

    a: Positive = 3e-3
    """gain of the step"""
    c: Positive = 0.01
    """size of the first perturbation"""
    offset: NonNegative = 1.0
    """delay of the decay of the step"""
    alpha: NonNegative = 0.4
    """exponent of the decay of the step"""
    gamma: NonNegative = 0.1
    """exponent of the decay of the perturbation"""
    momentum: NonNegative = 0.9
    """b of the look-ahead momentum"""
    pairs: Count = 5
    """pairs of probes per step"""


@OPTIMIZERS.register("spsa-gc")
class SpsaGc(GradientEstimator):
    """SPSA with BlackVIP's gradient correction.

    Two scores per pair. The division by ``D`` makes each component unbiased up to ``O(c_k^2)``.
    """

    Config = SpsaGcConfig

    def __init__(self, config: SpsaGcConfig, problem: Problem, fuse: Fuse) -> None:
        nesterov = {"momentum": config.momentum, "nesterov": True} if config.momentum else {}
        super().__init__(torch.optim.SGD(fuse.parameters(), lr=0.0, **nesterov), config.a)  # type: ignore[arg-type]
        self._config = config
        self.queries_per_image = 2 * config.pairs

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`."""
        c_k = self._config.c / (step.number + 1) ** self._config.gamma
        gradient = simultaneous_perturbation(step, _delta, self._config.pairs, c_k)
        if gradient is not None:
            step.fuse.add_gradient(gradient)

    def learning_rate(self, step: int, steps: int) -> float:
        """``a_k``."""
        gain: float = self._config.a / (step + 1 + self._config.offset) ** self._config.alpha
        return gain


def _delta(step: Step, pair: int) -> Tensor:
    size = torch.rand(step.fuse.vector().shape, generator=stream(step.seed, "size", step.number, pair))
    return signs(step, pair) * (0.5 + 0.5 * size)
