"""Backpropagation through the target: the white-box reference, one answer an image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bbfuse.config import BackpropConfig
from bbfuse.estimators.interface import adam, falling
from bbfuse.objective import Step

__all__ = ["Backprop"]


class Backprop:
    """Takes the gradient that the backend grants (NeuralFuse's relaxed access)."""

    answers_per_image = 1

    def __init__(self, config: BackpropConfig) -> None:
        self._lr = config.lr

    def estimate(self, step: Step) -> None:
        """See `Estimator`; exact."""
        step.backward()

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam."""
        return adam(parameters)

    def learning_rate(self, step: int, steps: int) -> float:
        """Falls linearly."""
        return falling(self._lr, step, steps)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is remembered."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
