"""Heads that are fitted to labelled responses of one chip with exact gradients, and then trained with the fuse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backends.settings import Count, NonNegative, Positive
from bbfuse.heads.base import HEADS, TrainedHead

__all__ = ["Affine", "AffineConfig", "Net"]

_HIDDEN = 32


@dataclass(frozen=True)
class AffineConfig:
    """The trained heads, affine and net."""

    images: Count = 2000
    """raw responses that it is fitted to at most, before the fuse is trained, to owned images drawn like those of the report"""
    lr: Positive = 6e-3
    """learning rate of its steps beside the fuse's"""
    decay: NonNegative = 1e-3
    """weight of the squared distance to a head that changes nothing (net: and of its hidden units' output weights)"""


@HEADS.register("affine")
class Affine(TrainedHead):
    """Linear map of the logits, fitted with exact gradients to one chip's responses, then trained with the fuse.

    ``h(z) = A z / s + b`` with ``s`` the standard deviation of the responses that it was fitted to.
    """

    Config = AffineConfig
    section = "affine"

    def __init__(self, classes: int, decay: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(()))
        self._decay = decay

    @classmethod
    def create(cls, settings: AffineConfig, classes: int) -> Affine:
        """See `TrainedHead`."""
        return cls(classes, settings.decay)

    def forward(self, logits: Tensor) -> Tensor:
        """``A z / s + b``."""
        return logits / self.spread @ self.matrix.T + self.bias

    def penalty(self) -> Tensor:
        """``decay * |A - I|^2``."""
        return self._decay * (self.matrix - torch.eye(len(self.matrix))).square().sum()

    def fit(self, responses: Tensor, labels: Tensor) -> None:
        """Minimise the penalised cross-entropy on ``responses`` (n, classes) by L-BFGS."""
        self.spread.copy_(responses.std().clamp_min(1e-6))
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimizer.zero_grad()
            value = F.cross_entropy(self(responses), labels) + self.penalty()
            value.backward()
            return value.item()

        optimizer.step(loss)
        optimizer.zero_grad()


@HEADS.register("net")
class Net(Affine):
    """As affine with 32 hidden units on top; needs more responses.

    ``h(z) = A z / s + b + V relu(U z / s + c)``. ``V`` starts at zero, so that it begins as an affine head.
    """

    def __init__(self, classes: int, decay: float) -> None:
        super().__init__(classes, decay)
        # fixed directions for every run: a head depends on its responses alone
        directions = torch.randn(_HIDDEN, classes, generator=torch.Generator().manual_seed(0)) / classes**0.5
        self.inner = nn.Parameter(directions)
        self.threshold = nn.Parameter(torch.zeros(_HIDDEN))
        self.outer = nn.Parameter(torch.zeros(classes, _HIDDEN))

    def forward(self, logits: Tensor) -> Tensor:
        """``A z / s + b + V relu(U z / s + c)``."""
        return super().forward(logits) + F.relu(logits / self.spread @ self.inner.T + self.threshold) @ self.outer.T

    def penalty(self) -> Tensor:
        """``decay * (|A - I|^2 + |V|^2)``."""
        return super().penalty() + self._decay * self.outer.square().sum()
