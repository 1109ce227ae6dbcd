"""Backpropagation through the target: the white-box reference, one query per image."""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Access
from backends.settings import Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, GradientEstimator, Problem, adam

__all__ = ["Backprop", "BackpropConfig"]


@dataclass(frozen=True)
class BackpropConfig:
    """White-box reference: Adam on the true gradient."""

    lr: Positive = 3e-3
    """learning rate at the start; it decays linearly to a twentieth"""


@OPTIMIZERS.register("backprop")
class Backprop(GradientEstimator):
    """White-box reference: Adam on the true gradient (needs `backend=whitebox`).

    Requires relaxed access: the backend grants the target's gradient (NeuralFuse).
    """

    Config = BackpropConfig
    access = Access.GRADIENTS
    scores_probes = False

    queries_per_image = 1

    def __init__(self, config: BackpropConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr)

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`; exact."""
        step.backward()
