"""Training through a surrogate on which chips are simulated: NeuralFuse's restricted access (Sun et al. 2024, section 4.5).

The surrogate is an architecture of ours, fitted to the labels of the owned images and, where answers were bought, to the target's
at nominal voltage; bit errors are then drawn on its own stored weights. The fuse is applied to the target unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.base import NOMINAL
from backends.datasets.base import Split
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import Problem, adam
from bbfuse.optimizers.settings import TransferConfig
from bbfuse.optimizers.surrogate.base import Imitation
from bbfuse.querying.ledger import Answered, Ask
from bbfuse.training.objective import Step

__all__ = ["Transfer"]


class Transfer(Imitation):
    """``steps`` of backpropagation through the surrogate, a fresh simulated chip each; the target is asked nothing in them."""

    answers_per_image = 0

    def __init__(self, config: TransferConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr, problem, fuse, simulates=True)
        self.steps = config.steps
        self.images_first = min(config.images, problem.owned)

    def prepare(self, owned: Split, answered: Sequence[Answered], ask: Ask) -> None:
        """See `Method`."""
        bought = [a for a in answered if a.chip == NOMINAL]
        if self.images_first:
            images = owned.images[: self.images_first]
            bought.append(Answered(images, NOMINAL, ask(images, NOMINAL)))
        self.surrogate.prepare(owned, bought)
        self.renew()

    def estimate(self, step: Step) -> None:
        """See `Descent`: the surrogate's gradient, exact for it and nothing more for the target."""
        step.backward_through(self.answers)
