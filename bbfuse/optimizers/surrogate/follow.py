"""Training through a surrogate that follows the fuse: it is trained on the target's responses to the fuse's present outputs.

The outputs of the fuse soon differ from the images that a surrogate was fitted to, and its gradient is wrong there. So every
``every`` steps one batch is sent: a share of raw images, the rest fused, half of all with Gaussian noise, which shows slopes as
well as values. The surrogate takes some least-squares steps on the new and on stored responses. The fuse is then trained through
it, with a learning rate proportional to the share of the variance of new responses that the surrogate predicted.

For one chip it follows that chip. For the population it follows the target at nominal voltage, and chips are simulated on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.base import NOMINAL
from backends.datasets.base import Split
from backends.settings import Count, NonNegative, Positive, Share
from bbfuse.fuse.module import Fuse
from bbfuse.objective.step import Step
from bbfuse.optimizers.base import OPTIMIZERS, Problem, adam
from bbfuse.optimizers.surrogate.base import Imitation
from bbfuse.querying.responses import QueryFn, Responses
from bbfuse.seeds import stream

__all__ = ["Follow", "FollowConfig"]


@dataclass(frozen=True)
class FollowConfig:
    """Training through a surrogate that keeps learning from the target's responses to the fuse's present outputs."""

    lr: Positive = 3e-3
    """learning rate at the start, decaying linearly to a twentieth, times the trust in the surrogate"""
    every: Count | None = None
    """steps of the fuse for each batch of queries; if not given 2 for one chip, 16 for the population, whose chips are
    simulated"""
    raw: Share = 0.25
    """share of the images sent as they are, the others through the fuse"""
    jitter: NonNegative = 0.1
    """sd of the noise on half of the images sent"""


@OPTIMIZERS.register("follow")
class Follow(Imitation):
    """Trains through a surrogate that keeps learning from the target's responses to the fuse's current outputs.

    Sends each image of a batch once, in every ``every``-th step.
    """

    Config = FollowConfig

    chip_batch = 32
    queries_per_image = 1

    def __init__(self, config: FollowConfig, problem: Problem, fuse: Fuse) -> None:
        super().__init__(adam(fuse), config.lr, problem, fuse, simulates=problem.population)
        self.query_interval = config.every or (16 if problem.population else 2)
        self._nominal = self.simulates or problem.no_chip
        self._config = config

    @property
    def trust(self) -> float:  # type: ignore[override]
        """Share of the variance of new responses that the surrogate predicted."""
        return self.surrogate.trust

    def prepare(self, owned: Split, received: Sequence[Responses], query: QueryFn) -> None:
        """See `Optimizer`."""
        self.surrogate.prepare(owned, [r for r in received if (r.chip == NOMINAL) == self._nominal])
        self.renew()

    def estimate(self, step: Step) -> None:
        """See `GradientEstimator`: the surrogate's gradient."""
        if step.number % self.query_interval == 0:
            images = self._chosen(step)
            if self.simulates:
                self.surrogate.learn(step.as_received(images), step.query(images, NOMINAL))
                self.renew()
            elif (score := step.score(images)) is not None:
                self.surrogate.learn(step.as_received(images), score.logits.mean(0))
        if self.trust > 0.0:
            step.backward_through(self.responses)

    def learning_rate(self, step: int, steps: int) -> float:
        """See `GradientEstimator`; times the trust in the surrogate."""
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
