"""What a step asks, described so that anybody can carry it out: in this process, or a worker of a cluster.

A probe is a few numbers. What it sends is a function of the step and of these numbers, so that vectors of the fuse's size travel
once a step at most, and not once a probe. What came of it is a `Score`; sums over scores are taken in the order of the probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bbfuse.training.objective import Step

__all__ = ["Given", "Probe", "Score", "Scorer"]


class Probe(Protocol):
    """One batch of images in place of the step's own."""

    @property
    def by_image(self) -> bool:
        """Whether it is asked for what every image earned; if not, for the loss alone."""
        ...

    def images(self, step: Step) -> Tensor:
        """The images (n, channels, height, width) that are sent, without tape; the same wherever they are made."""
        ...

    def ahead(self, step: Step) -> None:
        """Make what the method will take of it beside its score: a driver has time while others score it. May be left out."""
        ...


@dataclass(frozen=True, eq=False)
class Given:
    """Images as they are."""

    pixels: Tensor
    by_image = True

    def images(self, step: Step) -> Tensor:
        """See `Probe`."""
        return self.pixels

    def ahead(self, step: Step) -> None:
        """See `Probe`; nothing."""


@dataclass(frozen=True)
class Score:
    """What n images earned from t terms, without tape. The last three are empty where a worker was asked for the loss alone."""

    loss: float
    """The step's loss."""
    difficulty: Tensor
    """(n,): one minus the probability given to the label, its geometric mean over the terms; empty if it is not wanted."""
    gradients: Sequence[Tensor]
    """Of the loss by each parameter of the step's heads."""
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    """(n,): each image's share of the loss."""
    answers: Tensor = field(default_factory=lambda: torch.empty(0))
    """(t, n, classes): the raw logits."""
    sensitivity: Tensor = field(default_factory=lambda: torch.empty(0))
    """(t, n, classes): derivative of the loss by each logit, exact, through the heads."""


Scorer = Callable[["Step", Sequence[Probe]], list[Score | None]]
"""Who scores the probes of a step, in order; ``None`` where one is lost for good."""
