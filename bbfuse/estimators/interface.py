"""What an estimator is: it looks at one step and adds its estimate to the gradients of the fuse's parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from bbfuse.objective import Step

__all__ = ["Estimator", "Problem", "UnderAdam", "falling"]


@dataclass(frozen=True)
class Problem:
    """The sizes that an estimator may need to know."""

    owned: int
    terms: int
    classes: int
    pixels: int


class Estimator(Protocol):
    """One method. Its state may depend on the steps it saw and on nothing else, so that a resumed run is the same run."""

    answers_per_image: int
    """How often each image of a batch is sent in one step, for each term of the objective."""

    def estimate(self, step: Step) -> None:
        """Add the estimated gradient of the step's loss to ``step.fuse``'s parameters; scores fill in the heads'."""
        ...

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The update rule that the method goes with."""
        ...

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` of ``steps``; asked after `estimate`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on identically."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where `state_dict` was taken."""
        ...


class UnderAdam:
    """Adam (Kingma and Ba 2015) on the estimates, its learning rate falling linearly to a twentieth; nothing is remembered."""

    def __init__(self, lr: float) -> None:
        self._lr = lr

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """See `Estimator`."""
        return torch.optim.Adam(parameters, lr=0.0)

    def learning_rate(self, step: int, steps: int) -> float:
        """See `Estimator`."""
        return falling(self._lr, step, steps)

    def state_dict(self) -> dict[str, Any]:
        """See `Estimator`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Estimator`."""


def falling(lr: float, step: int, steps: int) -> float:
    """``lr`` at first, falling linearly to a twentieth of it."""
    return lr * (1.0 - 0.95 * step / steps)
