"""Training through a surrogate on which chips are simulated: NeuralFuse's restricted access (Sun et al. 2024, section 4.5).

The surrogate has an architecture of our own. It is fitted to the labels of the owned images and, if there are any, to the
target's responses at nominal voltage; chips are then simulated by bit errors in its stored weights. The fuse is used with the
target without further training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import NOMINAL
from backends.datasets.base import Split
from backends.settings import Count, NonNegativeInt, Positive
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, Problem, adam
from bbfuse.optimizers.surrogate.base import Imitation
from bbfuse.querying.responses import QueryFn, Responses

__all__ = ["Transfer", "TransferConfig"]


@dataclass(frozen=True)
class TransferConfig:
    """Training through a surrogate on which chips are simulated (NeuralFuse's restricted access)."""

    lr: Positive = 3e-3
    """learning rate at the start, decaying linearly to a twentieth"""
    steps: Count = 2000
    """steps of training, one batch each"""
    images: NonNegativeInt = 0
    """images sent at nominal voltage, whose responses the surrogate is fitted to beforehand; 0 for labels alone"""


@OPTIMIZERS.register("transfer")
class Transfer(Imitation):
    """Trains through a surrogate with simulated chips (restricted access); sends `transfer.images` images at most.

    ``steps`` of backpropagation through the surrogate, with a new simulated chip each; they send no query to the target.
    """

    Config = TransferConfig

    simulates_chips = True
    chip_batch = 64
    queries_per_image = 0

    def __init__(self, config: TransferConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr, problem, fuse, simulates=True)
        self.steps = config.steps
        self.images_before_training = min(config.images, problem.owned)

    def prepare(self, owned: Split, received: Sequence[Responses], query: QueryFn) -> None:
        """See `Optimizer`."""
        nominal = [r for r in received if r.chip == NOMINAL]
        if self.images_before_training:
            images = owned.images[: self.images_before_training]
            nominal.append(Responses(images, NOMINAL, query(images, NOMINAL)))
        self.surrogate.prepare(owned, nominal)
        self.renew()

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`: the exact gradient of the surrogate."""
        step.backward_through(self.responses)
