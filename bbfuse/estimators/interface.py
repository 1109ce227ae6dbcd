"""What a method is: it looks at one step and moves the fuse. And the base of those that estimate a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bbfuse.fuse import Fuse
from bbfuse.objective import Step

__all__ = ["Descent", "Method", "Problem", "adam", "falling"]


@dataclass(frozen=True)
class Problem:
    """What a method may need to know of the run: sizes, whether chips change, and the root of its random streams."""

    owned: int
    classes: int
    pixels: int
    population: bool
    seed: int


class Method(Protocol):
    """One way to train. Its state may depend on the steps it saw and on nothing else, so that a resumed run is the same run."""

    answers_per_image: int
    """How often each image of a batch is sent in one step, for each term of the objective."""

    def update(self, step: Step, steps: int) -> None:
        """Ask about the step's images and move the fuse, in step ``step.number`` of ``steps``; scores fill the heads' gradients.

        A score that failed is ``None``: what can be learned from the others is, and where nothing can, the fuse stays.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on identically, as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where `state_dict` was taken; the fuse is restored beforehand."""
        ...


class Descent:
    """A method that estimates the gradient of a step's loss and lets an optimizer take the step."""

    answers_per_image: int

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        self.optimizer = optimizer
        self._lr = lr

    def estimate(self, step: Step) -> None:
        """Add the estimated gradient to ``step.fuse``'s parameters; where nothing could be learned leave them without one."""
        raise NotImplementedError

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` of ``steps``, asked after `estimate`: it falls linearly to a twentieth."""
        return falling(self._lr, step, steps)

    def update(self, step: Step, steps: int) -> None:
        """See `Method`."""
        self.optimizer.zero_grad()
        self.estimate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step.number, steps)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """See `Method`."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method`."""
        self.optimizer.load_state_dict(state["optimizer"])


def adam(fuse: Fuse) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015); `Descent` sets its learning rate."""
    return torch.optim.Adam(fuse.parameters(), lr=0.0)


def falling(lr: float, step: int, steps: int) -> float:
    """``lr`` at first, falling linearly to a twentieth of it."""
    return lr * (1.0 - 0.95 * step / steps)
