"""What a method is: it looks at one step and moves the fuse. And the base of those that estimate a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from backends.datasets.base import Split
from backends.memory.config import Memory
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.settings import SurrogateConfig
from bbfuse.querying.ledger import Answered, Ask
from bbfuse.training.objective import Step

__all__ = ["Descent", "Method", "Problem", "adam", "falling"]


@dataclass(frozen=True)
class Problem:
    """What a method may need to know of the run: sizes, whether chips change, and the root of its random streams."""

    owned: int
    classes: int
    population: bool
    seed: int
    memory: Memory = field(default_factory=Memory)
    """What a surrogate is stored in where chips are simulated on it."""
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)


class Method:
    """One way to train. Its state may depend on the steps it saw and on nothing else, so that a resumed run is the same run."""

    answers_per_image: int
    """How often each image of a batch is sent in one step, for each term of the objective; 0 if it asks nothing."""
    every: int = 1
    """It asks in every so many steps only, the first one among them."""
    steps: int = 0
    """Steps that it takes where it asks nothing."""
    images_first: int = 0
    """Images that `prepare` sends."""
    model: Ask | None = None
    """Answers with tape that stand in for the target's in the objective; what it asks is then asked at nominal voltage."""
    trust: float | None = None
    """How far its surrogate bears being believed, in [0, 1]; ``None`` if it has none."""

    def prepare(self, owned: Split, answered: Sequence[Answered], ask: Ask) -> None:
        """Called once before the first step, with the owned images, the labels in force, and all answers bought so far."""

    def update(self, step: Step, steps: int) -> None:
        """Ask about the step's images and move the fuse, in step ``step.number`` of ``steps``; scores fill the heads' gradients.

        A score that failed is ``None``: what can be learned from the others is, and where nothing can, the fuse stays.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on identically, as plain values and tensors."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where `state_dict` was taken; the fuse is restored beforehand."""
        raise NotImplementedError


class Descent(Method):
    """A method that estimates the gradient of a step's loss and lets an optimizer take the step."""

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
