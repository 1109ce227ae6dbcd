"""Backpropagation through the target: the white-box reference, one answer an image."""

from __future__ import annotations

from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import Descent, Problem, adam
from bbfuse.optimizers.settings import BackpropConfig
from bbfuse.training.objective import Step

__all__ = ["Backprop"]


class Backprop(Descent):
    """Takes the gradient that the backend grants (NeuralFuse's relaxed access)."""

    answers_per_image = 1

    def __init__(self, config: BackpropConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr)

    def estimate(self, step: Step) -> None:
        """See `Descent`; exact."""
        step.backward()
