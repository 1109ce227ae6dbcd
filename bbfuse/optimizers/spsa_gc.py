"""SPSA with gradient correction (BlackVIP: Oh et al., CVPR 2023, and its code).

g = mean over pairs of (L(theta + c_k D) - L(theta - c_k D)) / (2 c_k) * D^{-1},  |D| uniform on [1/2, 1], its sign fair
m_k = b m_{k-1} + g,  theta_{k+1} = theta_k - a_k (g + b m_k)   (Nesterov's look-ahead, as torch's SGD has it)
a_k = a / (k + o)^alpha,  c_k = c / k^gamma,  k = 1, 2, ...
"""

from __future__ import annotations

import torch
from torch import Tensor

from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import Descent, Problem
from bbfuse.optimizers.probes import signs, simultaneous_perturbation
from bbfuse.optimizers.settings import SpsaGcConfig
from bbfuse.seeds import stream
from bbfuse.training.objective import Step

__all__ = ["SpsaGc"]


class SpsaGc(Descent):
    """Two scores a pair. The division by ``D`` makes each component unbiased up to ``O(c_k^2)``."""

    def __init__(self, config: SpsaGcConfig, problem: Problem, fuse: Fuse) -> None:
        nesterov = {"momentum": config.momentum, "nesterov": True} if config.momentum else {}
        super().__init__(torch.optim.SGD(fuse.parameters(), lr=0.0, **nesterov), config.a)  # type: ignore[arg-type]
        self._config = config
        self.answers_per_image = 2 * config.pairs

    def estimate(self, step: Step) -> None:
        """See `Descent`."""
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
