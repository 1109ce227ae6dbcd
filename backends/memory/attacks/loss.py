"""The loss that an attack on stored bits (`backends.memory.attacks.search`) maximises."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backends.memory.encoding import Patterns
from backends.memory.simulator import Simulator

__all__ = ["AttackLoss"]


class AttackLoss:
    """The loss of ``simulator`` on one batch of ``images`` (n, channels, height, width) and ``labels`` (n,).

    The loss is the mean cross-entropy, or, for a targeted attack, minus that of the class ``towards``.
    """

    def __init__(self, simulator: Simulator, images: Tensor, labels: Tensor, towards: int | None = None) -> None:
        self._simulator = simulator
        self._images = images
        self._labels = labels if towards is None else torch.full_like(labels, towards)
        self._sign = 1.0 if towards is None else -1.0

    def loss(self, patterns: Patterns) -> float:
        """See `backends.memory.attacks.search.Loss`; it needs logits alone."""
        with torch.no_grad():
            return self._loss(self._simulator.read(patterns)).item()

    def gradient(self, patterns: Patterns) -> tuple[float, NDArray[np.float32]]:
        """See `backends.memory.attacks.search.Gradient`."""
        weights = {name: tensor.requires_grad_() for name, tensor in self._simulator.read(patterns).items()}
        loss = self._loss(weights)
        slopes = torch.autograd.grad(loss, list(weights.values()))
        return loss.item(), torch.cat([slope.flatten() for slope in slopes]).cpu().numpy()

    def _loss(self, weights: dict[str, Tensor]) -> Tensor:
        return self._sign * F.cross_entropy(self._simulator.respond(self._images, weights), self._labels)
