"""Random gradient estimation by antithetic pairs, in the space of the parameters or of the target's inputs.

Parameters (Nesterov and Spokoiny 2017, central form): ``g = mean over u of (L(theta + mu u) - L(theta - mu u)) / (2 mu) * u``,
``u`` Gaussian.

Inputs: every image ``i`` is probed on its own at the target's input ``z_i = F(x_i)``, ``u`` Rademacher, and its estimate is
carried back through the fuse exactly (as ZO-AE-DS does, Zhang et al., ICLR 2022). Probes stay inside the pixel range:
``z+ = clip(z + mu u)``, ``z- = clip(z - mu u)``, ``d = z+ - z-``, ``g_i = (l_i(z+) - l_i(z-)) / d``. Because the sign of each
``d`` is still a fair coin, clipping leaves the first order unbiased.
"""

from __future__ import annotations

from typing import Any

import torch

from bbfuse.config import RgeConfig
from bbfuse.estimators.broyden import JacobianMemory
from bbfuse.estimators.interface import Problem, UnderAdam
from bbfuse.estimators.two_point import directional_difference
from bbfuse.objective import Step
from bbfuse.seeds import stream

__all__ = ["InputRge", "ParameterRge"]


class ParameterRge(UnderAdam):
    """``directions`` pairs of probes a step, two scores each."""

    def __init__(self, config: RgeConfig) -> None:
        super().__init__(config.lr or 1e-3)
        self._directions = config.directions
        self._size = config.smoothing or 0.01
        self.answers_per_image = 2 * config.directions

    def estimate(self, step: Step) -> None:
        """See `Estimator`; unbiased up to ``O(mu^2)``."""
        gradient = torch.zeros_like(step.fuse.vector())
        for pair in range(self._directions):
            u = torch.randn(gradient.shape, generator=stream(step.seed, "probe", step.number, pair))
            gradient += directional_difference(step, u, self._size) * u / self._directions
        step.fuse.add_gradient(gradient)


class InputRge(UnderAdam):
    """``directions`` pairs of probes an image and step; with ``broyden`` the Jacobians found so far are kept and corrected."""

    def __init__(self, config: RgeConfig, problem: Problem) -> None:
        super().__init__(config.lr or 5e-3)
        self._directions = config.directions
        self._size = config.smoothing or 0.15
        self._memory = JacobianMemory(problem) if config.broyden else None
        self.answers_per_image = 2 * config.directions

    def estimate(self, step: Step) -> None:
        """See `Estimator`.

        Without memory unbiased up to ``O(mu^2)``; with memory the estimate tends to the gradient as probes accumulate.
        """
        fused = step.fuse(step.images)
        z = fused.detach()
        gradient = torch.zeros_like(z)
        for pair in range(self._directions):
            rng = stream(step.seed, "probe", step.number, pair)
            u = torch.randint(0, 2, z.shape, generator=rng).float() * 2.0 - 1.0
            above, below = (z + self._size * u).clamp(-1.0, 1.0), (z - self._size * u).clamp(-1.0, 1.0)
            d = above - below
            plus, minus = step.score(above), step.score(below)
            if self._memory is None:
                gradient += (plus.losses - minus.losses)[:, None, None, None] / d / self._directions
            else:
                self._memory.correct(step.index, d.flatten(1), plus.answers - minus.answers)
                sensitivity = (plus.sensitivity + minus.sensitivity) / 2.0
                gradient += self._memory.pull_back(step.index, sensitivity).view_as(z) / self._directions
        fused.backward(gradient)

    def state_dict(self) -> dict[str, Any]:
        """The Jacobians."""
        return {} if self._memory is None else self._memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Estimator`."""
        if self._memory is not None:
            self._memory.load_state_dict(state)
