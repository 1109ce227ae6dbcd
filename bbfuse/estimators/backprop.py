"""Backpropagation through the target: the white-box reference, one answer an image."""

from __future__ import annotations

from bbfuse.config import BackpropConfig
from bbfuse.estimators.interface import UnderAdam
from bbfuse.objective import Step

__all__ = ["Backprop"]


class Backprop(UnderAdam):
    """Takes the gradient that the backend grants (NeuralFuse's relaxed access)."""

    answers_per_image = 1

    def __init__(self, config: BackpropConfig) -> None:
        super().__init__(config.lr)

    def estimate(self, step: Step) -> None:
        """See `Estimator`; exact."""
        step.backward()
