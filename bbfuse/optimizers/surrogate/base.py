"""The base of optimizers that train the fuse through a surrogate, with or without simulated chips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.base import Chip
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import GradientEstimator, Problem
from bbfuse.optimizers.surrogate.network import Surrogate, SurrogateConfig

__all__ = ["Imitation"]


class Imitation(GradientEstimator):
    """Holds the surrogate. If it ``simulates`` chips, a copy in simulated memory replaces the target in the objective."""

    uses_surrogate = True
    scores_probes = False

    def __init__(
        self, optimizer: torch.optim.Optimizer, lr: float, problem: Problem, fuse: Fuse, simulates: bool
    ) -> None:  # fmt: skip
        super().__init__(optimizer, lr)
        device = next(fuse.parameters()).device
        self.surrogate = Surrogate(
            problem.surrogate or SurrogateConfig(), fuse.image_shape, problem.classes, problem.seed, device
        )
        self.simulates = simulates
        self._memory = problem.memory
        self.renew()
        if simulates:
            self.simulated_target = self.responses

    def renew(self) -> None:
        """Copy the present surrogate into simulated memory."""
        self._simulator = self.surrogate.simulator(self._memory) if self.simulates else None

    def responses(self, images: Tensor, chip: Chip) -> Tensor:
        """The surrogate's logits (n, classes), differentiable; on the simulated ``chip`` if chips are simulated."""
        simulator = self._simulator
        return self.surrogate.logits(images, None if simulator is None else lambda these: simulator.logits(these, chip))

    def state_dict(self) -> dict[str, Any]:
        """The optimizer and the surrogate."""
        return {**super().state_dict(), "surrogate": self.surrogate.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Optimizer`."""
        super().load_state_dict(state)
        self.surrogate.load_state_dict(state["surrogate"])
        self.renew()
