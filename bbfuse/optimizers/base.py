"""The interface of an optimizer: in each step it sends queries and updates the fuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from backends.base import Access
from backends.datasets.base import Split
from backends.memory.config import Memory
from backends.registry import Registry
from backends.settings import NoSettings
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.querying.responses import QueryFn, Responses

__all__ = ["OPTIMIZERS", "GradientEstimator", "Optimizer", "Problem", "adam", "linear_decay"]


@dataclass(frozen=True)
class Problem:
    """The problem of an optimizer: sizes, whether chips change, and the root of its random streams."""

    owned: int
    classes: int
    population: bool
    seed: int
    memory: Memory = field(default_factory=Memory)
    """The memory of chips that are simulated on a surrogate."""
    surrogate: Any = None
    """Settings of the surrogate, a `SurrogateConfig`."""
    no_chip: bool = False
    """Whether the target has no bit errors at all."""


class Optimizer:
    """One way to train a fuse. Its state depends on the steps alone, so that a resumed run is identical.

    It is created as ``Optimizer(settings, problem, fuse)``, with ``settings`` of the class ``Config``. The class attributes
    declare what it can do; a run that does not fit them is refused.
    """

    Config: ClassVar[type[Any]] = NoSettings
    """Its settings: a frozen dataclass. They are the section of the optimizer's name, such as ``spsa_gc`` for ``spsa-gc``."""
    access: ClassVar[Access] = Access.LOGITS
    """The access to the target that it requires."""
    uses_surrogate: ClassVar[bool] = False
    """Whether it trains a surrogate, whose settings then are the section ``surrogate``."""
    simulates_chips: ClassVar[bool] = False
    """Whether it trains on simulated chips even for a run on one."""
    scores_probes: ClassVar[bool] = True
    """Whether its steps consist of independent probes, which can be spread over workers and are computed on the CPU."""
    chip_batch: ClassVar[int] = 16
    """Default number of images per step for one chip; 64 for the population."""

    queries_per_image: int
    """How often each image of a batch is sent in one step, for each term of the objective; 0 if no query is sent."""
    query_interval: int = 1
    """It sends queries in every so many steps only, in the first one among them."""
    steps: int = 0
    """Number of steps if it sends no queries."""
    images_before_training: int = 0
    """Images that `prepare` sends."""
    simulated_target: QueryFn | None = None
    """A differentiable model of the target that replaces it in the objective; its queries then go to nominal voltage."""
    trust: float | None = None
    """Share of the variance of new responses that its surrogate predicted, in [0, 1]; ``None`` without a surrogate."""

    @classmethod
    def create(cls, settings: Any, problem: Problem, fuse: Fuse) -> Optimizer:
        """The optimizer for these settings.

        Raises:
            InputError: the settings do not fit the problem.
        """
        return cls(settings, problem, fuse)  # type: ignore[call-arg]

    @classmethod
    def keeps_state_per_image(cls, settings: Any) -> bool:
        """Whether it keeps state for each owned image, so that images must not be augmented."""
        return False

    def prepare(self, owned: Split, received: Sequence[Responses], query: QueryFn) -> None:
        """Called once before the first step, with the owned images, the labels in use, and all responses received so far."""

    def update(self, step: Step, steps: int) -> None:
        """Send queries for the step's images and update the fuse, in step ``step.number`` of ``steps``.

        `Step.scores` also sets the gradients of the heads. A failed score is ``None``: use the others; if all failed leave the
        fuse as it is.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on identically, as plain values and tensors."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; the fuse is restored before."""
        raise NotImplementedError


OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer", "bbfuse.optimizers", "bbfuse.optimizers", Optimizer)
"""All optimizers by the name that `optimizer` takes."""


class GradientEstimator(Optimizer):
    """An optimizer that estimates the gradient of a step's loss and lets a torch optimizer take the step."""

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        self.optimizer = optimizer
        self._lr = lr

    def estimate(self, step: Step) -> None:
        """Add the estimated gradient to ``step.fuse``'s parameters; if all scores failed leave the gradients unset."""
        raise NotImplementedError

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` of ``steps``, read after `estimate`; by default `linear_decay`."""
        return linear_decay(self._lr, step, steps)

    def update(self, step: Step, steps: int) -> None:
        """See `Optimizer`."""
        self.optimizer.zero_grad()
        self.estimate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step.number, steps)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """See `Optimizer`."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Optimizer`."""
        self.optimizer.load_state_dict(state["optimizer"])


def adam(fuse: Fuse) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015); `GradientEstimator` sets its learning rate."""
    return torch.optim.Adam(fuse.parameters(), lr=0.0)


def linear_decay(lr: float, step: int, steps: int) -> float:
    """``lr * (1 - 0.95 * step / steps)``: from ``lr`` linearly to a twentieth of it."""
    return lr * (1.0 - 0.95 * step / steps)
