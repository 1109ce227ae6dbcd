"""Training through a surrogate that follows the fuse: it goes on learning from the target's answers to what the fuse makes now.

A fuse soon leaves the images that a surrogate once knew, and its gradient misleads there. So every ``every`` steps one batch of
answers is bought, a share of it to raw images, the rest to fused ones, half of all with Gaussian noise so that slopes are seen as
well as values; the surrogate takes some least-squares steps on it and on what it remembers; and the fuse is stepped through it,
at a rate that falls with the share of the new answers' variance that it had not foretold.

For one chip it follows that chip. For the population it follows the target at nominal voltage, and chips are simulated on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.base import NOMINAL
from backends.datasets.base import Split
from bbfuse.fuse.module import Fuse
from bbfuse.optimizers.base import Problem, adam
from bbfuse.optimizers.settings import FollowConfig
from bbfuse.optimizers.surrogate.base import Imitation
from bbfuse.querying.ledger import Answered, Ask
from bbfuse.seeds import stream
from bbfuse.training.objective import Step

__all__ = ["Follow"]


class Follow(Imitation):
    """Asks each image of a batch once, in every ``every``-th step."""

    answers_per_image = 1

    def __init__(self, config: FollowConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr, problem, fuse, simulates=problem.population)
        self.every = config.every or (16 if problem.population else 2)
        self._config = config

    @property
    def trust(self) -> float:  # type: ignore[override]
        """That in the surrogate."""
        return self.surrogate.trust

    def prepare(self, owned: Split, answered: Sequence[Answered], ask: Ask) -> None:
        """See `Method`."""
        self.surrogate.prepare(owned, [a for a in answered if (a.chip == NOMINAL) == self.simulates])
        self.renew()

    def estimate(self, step: Step) -> None:
        """See `Descent`: the surrogate's gradient."""
        if step.number % self.every == 0:
            images = self._chosen(step)
            if self.simulates:
                self.surrogate.learn(step.seen(images), step.ask(images, NOMINAL))
                self.renew()
            elif (score := step.score(images)) is not None:
                self.surrogate.learn(step.seen(images), score.answers.mean(0))
        if self.trust > 0.0:
            step.backward_through(self.answers)

    def learning_rate(self, step: int, steps: int) -> float:
        """See `Descent`; times the trust in the surrogate."""
        return self.trust * super().learning_rate(step, steps)

    def _chosen(self, step: Step) -> Tensor:
        """The step's images (n, channels, height, width) as they are sent: the first ones raw, every second one with noise."""
        with torch.no_grad():
            images: Tensor = step.fuse(step.images)
        raw = round(self._config.raw * len(images))
        images = torch.cat([step.images[:raw], images[raw:]])
        noise = self._config.jitter * torch.randn(images.shape, generator=stream(step.seed, "jitter", step.number))
        noise[::2] = 0.0
        return (images + noise.to(images.device)).clamp(-1.0, 1.0)
