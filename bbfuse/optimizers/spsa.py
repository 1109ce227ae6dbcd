"""SPSA (Spall 1992, IEEE TAC 37(3)) with the gains and guidance of Spall 1998 (Johns Hopkins APL Technical Digest 19(4)).

theta_{k+1} = theta_k - a_k g_k(theta_k)                          (1992, Eq. 2.1)
g_k = (L(theta + c_k D) - L(theta - c_k D)) / (2 c_k) * D^{-1}    (1992, Eq. 2.2), D Rademacher
a_k = a / (A + k + 1)^alpha,  c_k = c / (k + 1)^gamma             (1998, section II and III)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from backends.settings import Count, NonNegative, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem
from bbfuse.optimizers.probes import signs, simultaneous_perturbation

__all__ = ["Spsa", "SpsaConfig"]


@dataclass(frozen=True)
class SpsaConfig:
    """Simultaneous perturbation (Spall 1992) with the gains of Spall 1998."""

    step: Positive = 3e-3
    """mean size of the first update of a parameter; sets the gain a"""
    c: Positive = 2e-2
    """size of the first perturbation"""
    alpha: NonNegative = 0.602
    """exponent of the decay of the step"""
    gamma: NonNegative = 0.101
    """exponent of the decay of the perturbation"""
    pairs: Count = 1
    """pairs of probes per step"""


_CALIBRATING_STEPS = 20


@OPTIMIZERS.register("spsa")
class Spsa(GradientEstimator):
    """Simultaneous perturbation of all parameters of the fuse, with Spall's gains.

    Two scores per pair, for any number of parameters: stochastic approximation.
    """

    Config = SpsaConfig

    def __init__(self, config: SpsaConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(torch.optim.SGD(fuse.parameters(), lr=0.0), config.step)
        self._config = config
        self._sizes: list[float] = []
        self.queries_per_image = 2 * config.pairs

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`; unbiased up to ``O(c_k^2)``."""
        c_k = self._config.c / (step.number + 1) ** self._config.gamma
        gradient = simultaneous_perturbation(step, signs, self._config.pairs, c_k)
        if gradient is None:
            return
        step.fuse.add_gradient(gradient)
        if len(self._sizes) < _CALIBRATING_STEPS and gradient.any():
            self._sizes.append(gradient.abs().mean().item())

    def learning_rate(self, step: int, steps: int) -> float:
        """``a_k``; ``A`` is a tenth of the steps, ``a`` such that the first updates have the size ``step`` (1998, section III).

        One estimate is too noisy for the size of the gradient, so ``a`` is set by the mean of the first twenty.
        """
        if not self._sizes:
            return 0.0
        stability = 0.1 * steps
        size = sum(self._sizes) / len(self._sizes)
        decay: float = ((stability + 1.0) / (stability + step + 1.0)) ** self._config.alpha
        return self._config.step / size * decay

    def state_dict(self) -> dict[str, Any]:
        """The sizes of the first estimates, which set the gain."""
        return {**super().state_dict(), "sizes": list(self._sizes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Optimizer`."""
        super().load_state_dict(state)
        self._sizes = list(state["sizes"])
