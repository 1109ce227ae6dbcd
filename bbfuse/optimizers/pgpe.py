"""PGPE with symmetric samples and centred ranks (Sehnke et al. 2010) under ClipUp (Toklu, Liskowski, Srivastava 2020).

e = s * u, u Gaussian (d,); r+, r- the centred ranks of the losses at theta + e and theta - e
gradient of theta: mean over pairs of (r+ - r-) / 2 * e
gradient of s:     mean over pairs of (r+ + r-) / 2 * (e^2 - s^2) / s,  a step changes an sd by ``largest_change`` of it at most
ClipUp: v <- m v - lr * g / |g|,  clipped to the length 2 lr;  theta <- theta + v
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from backends.settings import Count, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem
from bbfuse.optimizers.probes import normal, ranked_pairs

__all__ = ["ClipUp", "Pgpe", "PgpeConfig"]


@dataclass(frozen=True)
class PgpeConfig:
    """Policy gradients with parameter-based exploration (Sehnke et al. 2010) under ClipUp (Toklu et al. 2020)."""

    lr: Positive = 0.2
    """length of a step; the speed is limited to twice that"""
    sigma: Positive = 2e-2
    """sd of a probe per parameter at the start"""
    sigma_lr: Positive = 0.1
    """learning rate of the sds"""
    largest_change: Positive = 0.2
    """share by which an sd may change in a step"""
    pairs: Count = 8
    """pairs of probes per step"""


class ClipUp(torch.optim.Optimizer):
    """Steps of a fixed length along the gradient, with momentum and a bounded speed; all parameters count as one vector."""

    def __init__(self, parameters: Any, lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the parameters that have gradients; a gradient of zero moves them by their momentum alone."""
        assert closure is None
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            velocity = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in moved]
            size = torch.stack([p.grad.norm() for p in moved]).norm().clamp_min(1e-30)
            for p, v in zip(moved, velocity, strict=True):
                v.mul_(group["momentum"]).sub_(group["lr"] * p.grad / size)
            speed = torch.stack([v.norm() for v in velocity]).norm()
            shortened = (2.0 * group["lr"] / speed.clamp_min(1e-30)).clamp_max(1.0)
            for p, v in zip(moved, velocity, strict=True):
                p.add_(v.mul_(shortened))


@OPTIMIZERS.register("pgpe")
class Pgpe(GradientEstimator):
    """Evolution strategy that adapts its standard deviations: ranks in place of losses, ClipUp.

    Two scores per pair; adapts the sd of every parameter.
    """

    Config = PgpeConfig

    def __init__(self, config: PgpeConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(ClipUp(fuse.parameters(), config.lr), config.lr)
        self._config = config
        self._sigma = torch.full_like(fuse.vector(), config.sigma)
        self.queries_per_image = 2 * config.pairs

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`; also updates the sds."""
        pairs = ranked_pairs(step, normal, self._config.pairs, 1.0, self._sigma)
        if pairs is None:
            return
        ranks, u = pairs
        e = self._sigma * u
        step.fuse.add_gradient(((ranks[:, 0] - ranks[:, 1])[:, None] / 2.0 * e).mean(0))
        mean = (ranks.sum(1) / 2.0)[:, None]
        downhill = -(mean * (e.square() - self._sigma.square()) / self._sigma).mean(0)
        largest = self._config.largest_change * self._sigma
        self._sigma = self._sigma + torch.clamp(self._config.sigma_lr * downhill, -largest, largest)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer and the sds."""
        return {**super().state_dict(), "sigma": self._sigma}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Optimizer`."""
        super().load_state_dict(state)
        self._sigma = state["sigma"].clone()
